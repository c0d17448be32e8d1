//! Resolves a DNS name to endpoints, with the time for which the answer holds. When to ask again, and what to do
//! while there is no answer, is decided by whoever asks.

#[cfg(feature = "dns")]
mod hickory;
#[cfg(not(feature = "dns"))]
mod system;

#[cfg(feature = "dns")]
pub use hickory::Resolver;
#[cfg(not(feature = "dns"))]
pub use system::Resolver;

use std::time::Duration;

use crate::snapshot::EndpointParams;

/// Most endpoints of one answer; the rest, in the order of addresses, is left out.
pub const MAX_ENDPOINTS: usize = 256;

/// Longest time one resolution takes, retries and the targets of SRV records included.
const DEADLINE: Duration = Duration::from_secs(10);

/// Endpoints of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// At least one; sorted by address, each address once.
    pub endpoints: Vec<EndpointParams>,
    /// How long the answer holds: the lowest TTL of all records that it rests on. May be zero.
    pub ttl: Duration,
}

/// Why a name has no endpoints. The message is the whole reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// It cannot be a name.
    #[error("not a valid DNS name: {0}")]
    Name(String),
    /// There is no such name (NXDOMAIN).
    #[error("the name does not exist (NXDOMAIN)")]
    NoSuchName,
    /// The name exists, but has no records of the kind that was asked for.
    #[error("the name has no {0} records")]
    NoRecords(&'static str),
    /// The servers did not answer in time.
    #[error("no DNS server answered in time")]
    TimedOut,
    /// No server could be reached, or none is configured.
    #[error("no DNS server can be reached: {0}")]
    Unreachable(String),
    /// A server answered with a failure (SERVFAIL, REFUSED, …), or nonsense.
    #[error("the DNS server failed: {0}")]
    Server(String),
    /// The system's resolver configuration cannot be read.
    #[error("the system's resolver configuration cannot be used: {0}")]
    Configuration(String),
    /// SRV needs the cargo feature `dns`.
    #[error("this build cannot resolve SRV records (it lacks the feature `dns`): give a port")]
    SrvUnsupported,
}

impl Answer {
    /// Sorts, takes each address once (as it comes first: by priority, then with its greatest weight), and bounds.
    fn new(mut endpoints: Vec<EndpointParams>, ttl: Duration) -> Self {
        endpoints.sort_by(|a, b| {
            a.address.cmp(&b.address).then(a.priority.cmp(&b.priority)).then(b.weight.cmp(&a.weight))
        });
        endpoints.dedup_by(|later, first| later.address == first.address);
        endpoints.truncate(MAX_ENDPOINTS);
        Self { endpoints, ttl }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::EndpointAddress;

    #[test]
    fn answers_are_sorted_deduplicated_and_bounded() {
        let endpoint = |address: &str, weight| EndpointParams {
            weight,
            ..EndpointParams::new(address.parse().unwrap())
        };
        let answer = Answer::new(
            vec![endpoint("10.0.0.2:80", 1), endpoint("10.0.0.1:80", 3), endpoint("10.0.0.2:80", 5)],
            Duration::ZERO,
        );
        assert_eq!(answer.endpoints, [endpoint("10.0.0.1:80", 3), endpoint("10.0.0.2:80", 5)]);

        let many = (0..1000_u16)
            .map(|port| EndpointParams::new(EndpointAddress::Tcp(([10, 0, 0, 1], port + 1).into())));
        assert_eq!(Answer::new(many.collect(), Duration::ZERO).endpoints.len(), MAX_ENDPOINTS);
    }
}
