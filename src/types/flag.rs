//! Why the proxy itself answered, or cut a request short: one word that metrics, the access log, the
//! `x-outrigger-flag` header and `Proxy-Status` share.

/// Which way traffic goes, seen from the service instance that the sidecar serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the network to the local application.
    Inbound,
    /// From the local application to other services.
    Outbound,
}

impl Direction {
    /// The value of the metric label `direction`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// The reason flag of a request. `None` means that nothing out of the ordinary happened in the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Flag {
    /// Nothing to tell.
    #[default]
    None,
    /// No route matched the request.
    NoRoute,
    /// The service has no endpoint that may be used.
    NoHealthyEndpoint,
    /// No connection to the endpoint could be made (refused, unreachable, timed out while connecting).
    UpstreamConnect,
    /// The endpoint broke the connection or the protocol while the request was in progress.
    UpstreamReset,
    /// The endpoint's answer did not come in time.
    UpstreamTimeout,
    /// A limit of the service (connections, pending requests) was reached.
    UpstreamOverflow,
    /// The circuit breakers of all endpoints that could be used are open.
    CircuitOpen,
    /// The time that the caller allowed is over.
    Deadline,
    /// The client went away before the response was complete.
    DownstreamClosed,
    /// The client sent its head or body too slowly.
    DownstreamTimeout,
    /// The request is malformed, ambiguous, or too large.
    BadRequest,
    /// The sidecar is shutting down or at its connection cap.
    Draining,
    /// There is more to do than can be done: connections, requests, or work of the process as a whole.
    Overload,
    /// A route of kind `direct_response` or `redirect` answered; not an error.
    Direct,
    /// A defect in the proxy itself.
    Internal,
    /// The caller sends faster than a rate limit allows.
    RateLimited,
    /// The route injects faults, and this request met one.
    Fault,
    /// The caller does not prove for whom it asks.
    Unauthenticated,
    /// The caller may not make this request.
    Denied,
}

impl Flag {
    /// All flags, in the order of their discriminants.
    pub const ALL: [Self; 20] = [
        Self::None,
        Self::NoRoute,
        Self::NoHealthyEndpoint,
        Self::UpstreamConnect,
        Self::UpstreamReset,
        Self::UpstreamTimeout,
        Self::UpstreamOverflow,
        Self::CircuitOpen,
        Self::Deadline,
        Self::DownstreamClosed,
        Self::DownstreamTimeout,
        Self::BadRequest,
        Self::Draining,
        Self::Overload,
        Self::Direct,
        Self::Internal,
        Self::RateLimited,
        Self::Fault,
        Self::Unauthenticated,
        Self::Denied,
    ];

    /// The word used in metrics, logs and headers; empty for [`Flag::None`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::NoRoute => "no_route",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamOverflow => "upstream_overflow",
            Self::CircuitOpen => "circuit_open",
            Self::Deadline => "deadline",
            Self::DownstreamClosed => "downstream_closed",
            Self::DownstreamTimeout => "downstream_timeout",
            Self::BadRequest => "bad_request",
            Self::Draining => "draining",
            Self::Overload => "overload",
            Self::Direct => "direct",
            Self::Internal => "internal",
            Self::RateLimited => "rate_limited",
            Self::Fault => "fault",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
        }
    }

    /// Envoy's short response flag, which operators know from its access log; `-` for none.
    #[must_use]
    pub const fn short_code(self) -> &'static str {
        match self {
            Self::None | Self::Direct => "-",
            Self::NoRoute => "NR",
            Self::NoHealthyEndpoint => "UH",
            Self::UpstreamConnect => "UF",
            Self::UpstreamReset => "UC",
            Self::UpstreamTimeout => "UT",
            Self::UpstreamOverflow | Self::CircuitOpen => "UO",
            Self::Deadline => "DT",
            Self::DownstreamClosed => "DC",
            Self::DownstreamTimeout => "SI",
            Self::BadRequest => "DPE",
            Self::Draining => "DR",
            Self::Overload => "OM",
            Self::Internal => "IE",
            Self::RateLimited => "RL",
            Self::Fault => "FI",
            // Envoy has none for its JWT filter, and this one for its external authorisation.
            Self::Unauthenticated | Self::Denied => "UAEX",
        }
    }
}

/// Why an attempt that the route would repeat is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDenied {
    /// The retry budget of the service is spent.
    Budget,
    /// As many retries as are allowed are under way.
    Overflow,
    /// The body is too long to be kept, or is not all there.
    Body,
    /// The request may have been processed, and doing it twice is not doing it once.
    NotIdempotent,
    /// Too little time is left.
    Deadline,
    /// There were as many attempts as are allowed, or another layer is repeating the request already.
    Attempts,
}

impl RetryDenied {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Budget, Self::Overflow, Self::Body, Self::NotIdempotent, Self::Deadline, Self::Attempts];

    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Overflow => "overflow",
            Self::Body => "body",
            Self::NotIdempotent => "not_idempotent",
            Self::Deadline => "deadline",
            Self::Attempts => "attempts",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_stands_at_its_own_index_with_its_own_word() {
        for (index, flag) in Flag::ALL.iter().enumerate() {
            assert_eq!(*flag as usize, index);
        }
        let words: std::collections::HashSet<_> = Flag::ALL.iter().map(|flag| flag.as_str()).collect();
        assert_eq!(words.len(), Flag::ALL.len());
    }
}
