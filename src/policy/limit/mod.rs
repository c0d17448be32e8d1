//! Rate limits: whether one more request of a caller keeps to a rate, and what it is told if not. The arithmetic is
//! governor's (GCRA); time is an argument. Where the state of a key is kept, and how many keys there may be, is in
//! `keys`; who holds the lock around it is the snapshot's business.

mod keys;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    hash::{DefaultHasher, Hasher},
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use governor::{
    Quota, RateLimiter, clock::Clock, middleware::StateInformationMiddleware, nanos::Nanos, state::StateStore,
};
use http::{HeaderMap, HeaderName};

use crate::types::Mono;

pub use keys::KeyTable;

/// A rate limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitParams {
    /// Unique among those of one side; a metric label.
    pub name: Arc<str>,
    /// How fast the tokens come back.
    pub rate: Rate,
    /// Requests that may come at once after a pause.
    pub burst: NonZeroU32,
    /// Who shares a bucket.
    pub key: LimitKey,
    /// Nobody is refused; those who would have been are counted.
    pub shadow: bool,
    /// Most keys that are remembered at the same time.
    pub max_keys: u32,
}

/// So many requests in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests.
    pub count: NonZeroU32,
    /// In this time.
    pub per: Period,
}

/// Units of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// `/s`
    Second,
    /// `/m`
    Minute,
    /// `/h`
    Hour,
}

impl Period {
    /// All units with the way they are written.
    pub const WORDS: [(&'static str, Self); 3] =
        [("s", Self::Second), ("m", Self::Minute), ("h", Self::Hour)];

    /// Its length.
    #[must_use]
    pub const fn duration(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_secs(60),
            Self::Hour => Duration::from_secs(3600),
        }
    }
}

/// What of a request names its bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// All requests share one.
    Route,
    /// One for each address of a client; an IPv6 client has a whole /64 to itself, so that is what counts.
    SourceAddress,
    /// One for each value of this header; those without it share one.
    Header(HeaderName),
}

/// What became of a request at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It keeps to the rate; so many more may come at once.
    Allowed {
        /// Tokens left.
        remaining: u32,
    },
    /// It does not; the next one does after this time.
    Denied {
        /// Never zero.
        wait: Duration,
    },
}

/// The time at which a bucket is full again, as nanoseconds of [`Mono`]. At or before now it says nothing, and may
/// be forgotten.
pub type FullAt = u64;

impl RateLimitParams {
    /// Takes a token from the bucket whose state is `full_at` (`None` for a new one), if there is one.
    /// `full_at` changes only then.
    pub fn check(&self, full_at: &mut Option<FullAt>, now: Mono) -> Verdict {
        let bucket = Bucket(Cell::new(*full_at));
        let clock = SetClock(Cell::new(Nanos::new(0)));
        let limiter = RateLimiter::<(), _, _, StateInformationMiddleware>::new(self.quota(), &bucket, &clock);
        let at = Nanos::new(now.as_nanos());
        clock.0.set(at);
        let verdict = match limiter.check_key(&()) {
            Ok(state) => Verdict::Allowed { remaining: state.remaining_burst_capacity() },
            Err(until) => Verdict::Denied { wait: until.wait_time_from(at).max(Duration::from_nanos(1)) },
        };
        *full_at = bucket.0.get();
        verdict
    }

    fn quota(&self) -> Quota {
        Quota::with_period(self.interval())
            .unwrap_or(Quota::per_second(NonZeroU32::MIN))
            .allow_burst(self.burst)
    }

    /// Time in which one token comes back.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (self.rate.per.duration() / self.rate.count.get()).max(Duration::from_nanos(1))
    }

    /// Time in which an empty bucket is full again.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.interval().saturating_mul(self.burst.get())
    }
}

/// Governor asks its store for a state; this one holds the state that was looked up already.
struct Bucket(Cell<Option<FullAt>>);

impl StateStore for &Bucket {
    type Key = ();

    fn measure_and_replace<T, F, E>(&self, (): &(), decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = decide(self.0.get().map(Nanos::new))?;
        self.0.set(Some(next.as_u64()));
        Ok(outcome)
    }
}

/// Governor asks a clock; this one shows what it was set to. It begins at zero, which is the origin of [`Mono`].
struct SetClock(Cell<Nanos>);

impl Clock for &SetClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.get()
    }
}

/// Turns what names a bucket into 64 bits. Whoever does not know the secret cannot aim at the bucket of another.
#[derive(Clone, Debug)]
pub struct KeyHasher(DefaultHasher);

impl KeyHasher {
    /// A hasher whose outcomes depend on `secret`.
    #[must_use]
    pub fn new(secret: u64) -> Self {
        // SipHash is fed the secret first: what follows starts from a state that nobody outside knows.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(secret);
        hasher.write_u64(secret.rotate_left(32) ^ 0x6f75_7472_6967_6765);
        Self(hasher)
    }

    /// The key of a request.
    #[must_use]
    pub fn key(&self, key: &LimitKey, headers: &HeaderMap, source: IpAddr) -> u64 {
        let mut hasher = self.0.clone();
        match key {
            LimitKey::Route => return 0,
            LimitKey::SourceAddress => match source.to_canonical() {
                IpAddr::V4(address) => hasher.write(&address.octets()),
                IpAddr::V6(address) => hasher.write(&address.octets()[..8]),
            },
            LimitKey::Header(name) => {
                for value in headers.get_all(name) {
                    hasher.write(value.as_bytes());
                    hasher.write_u8(0);
                }
            }
        }
        hasher.finish()
    }
}
