//! A moment by the wall clock in whole seconds, as certificates and the state of the authority hold it.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Seconds since 1970, up to the end of the year 9999: what X.509 and RFC 3339 can both write. What is beyond is
/// taken as the nearest of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

impl Stamp {
    /// The moment that lies `seconds` after 1970 began.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        Self(seconds.min(LATEST))
    }

    /// Seconds since 1970 began.
    #[must_use]
    pub fn unix(self) -> u64 {
        self.0
    }

    /// Later by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_unix(self.0.saturating_add(duration.as_secs()))
    }

    /// Earlier by `duration`.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }

    /// How long after `earlier` it is; nothing if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }

    /// As the standard library has it.
    #[must_use]
    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

impl From<SystemTime> for Stamp {
    fn from(time: SystemTime) -> Self {
        Self::from_unix(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }
}

/// RFC 3339, UTC.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_seconds(self.system_time()))
    }
}

impl FromStr for Stamp {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_rfc3339(text).map(Self::from)
    }
}

/// 9999-12-31T23:59:59Z.
const LATEST: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_it_is_read() {
        let stamp = Stamp::from_unix(1_800_000_000);
        assert_eq!(stamp.to_string(), "2027-01-15T08:00:00Z");
        assert_eq!(stamp.to_string().parse::<Stamp>().unwrap(), stamp);
    }

    #[test]
    fn no_clock_and_no_duration_leads_beyond_what_can_be_written() {
        let late = Stamp::from_unix(u64::MAX).plus(Duration::MAX);
        assert_eq!(late.to_string(), "9999-12-31T23:59:59Z");
        let early = Stamp::from(UNIX_EPOCH - Duration::from_secs(9)).minus(Duration::MAX);
        assert_eq!(early.to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(early.since(late), Duration::ZERO);
    }
}
