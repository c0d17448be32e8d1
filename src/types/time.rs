//! Monotonic time as data. Only `rt::clock` makes a `Mono` from the machine's clock; everything else is told.

use std::time::Duration;

/// Nanoseconds since the process started, from a clock that never goes back.
///
/// A plain number, so that policies can be tested at any instant without waiting for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(u64);

impl Mono {
    /// The instant the process started.
    pub const ZERO: Self = Self(0);

    /// The instant `nanos` nanoseconds after the process started.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the process started.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time that passed since `earlier`; zero if `earlier` is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved `by` into the future, at most to the end of the representable range (584 years).
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}
