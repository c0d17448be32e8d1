//! Picks one endpoint of a service for one attempt. Generic over what an endpoint is: the policies see its
//! weight, its load and whether it may be used, through [`Candidate`].

use http::HeaderName;

/// Which policy, with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BalanceParams {
    /// Each in turn; weights are ignored.
    RoundRobin,
    /// Smooth weighted round robin.
    WeightedRoundRobin,
    /// Each with a probability in proportion to its weight.
    Random,
    /// The less loaded (requests in flight ÷ weight) of two that were chosen at random.
    LeastRequest,
    /// Consistent hashing with 160 points for each unit of weight.
    RingHash {
        /// What of the request is hashed.
        hash_on: HashOn,
    },
}

/// What of a request is hashed. A request that lacks it gets a random endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// Value of a header field.
    Header(HeaderName),
    /// Value of a cookie.
    Cookie(String),
    /// The path without the query.
    Path,
    /// Value of a query parameter.
    Query(String),
    /// IP address of the peer, without its port.
    SourceAddress,
}

/// What the policies see of an endpoint.
pub trait Candidate {
    /// May be chosen: healthy, or panic routing is on.
    fn eligible(&self) -> bool;
    /// 1 to 1000.
    fn weight(&self) -> u32;
    /// Requests that this process has in flight to it.
    fn in_flight(&self) -> u32;
    /// What it is placed by on a hash ring: stable across processes and reloads (its address).
    fn hash_identity(&self) -> &str;
}
