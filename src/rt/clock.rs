//! The machine's clocks, read nowhere else.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use crate::types::Mono;

/// The instant that `Mono::ZERO` stands for: the first call of [`now`] in this process.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Monotonic time since the first call in this process. Never goes back, whatever the wall clock does.
#[must_use]
pub fn now() -> Mono {
    let origin = origin();
    Mono::from_nanos(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// The instant `at` as the async runtime's timers count it.
#[must_use]
pub fn instant(at: Mono) -> tokio::time::Instant {
    tokio::time::Instant::from_std(origin() + Duration::from_nanos(at.as_nanos()))
}

/// Wall-clock time at [`Mono::ZERO`], as the clock stands now: added to a `Mono` it gives wall-clock time without
/// another read. Changes when somebody sets the clock.
#[must_use]
pub fn epoch() -> SystemTime {
    let since = now().since(Mono::ZERO);
    wall().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Wall-clock time, for log lines and timestamps only: it may jump in both directions.
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
