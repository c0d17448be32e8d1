//! How an endpoint is doing, in words that policies, metrics, logs and the admin API share.

/// What keeps an endpoint from its share of the traffic. If several things do, the first of this list is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointState {
    /// Active checks fail.
    Unhealthy,
    /// The outlier detection put it out.
    Ejected,
    /// Its circuit breaker lets nothing through.
    Open,
    /// Its circuit breaker lets a few requests through, to see whether it is well again.
    HalfOpen,
    /// Nothing.
    Healthy,
}

impl EndpointState {
    /// All states, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::Unhealthy, Self::Ejected, Self::Open, Self::HalfOpen, Self::Healthy];

    /// The value of the metric label `state`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Healthy => "healthy",
        }
    }
}

/// What a circuit breaker does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Circuit {
    /// Lets all of them through.
    Closed,
    /// Lets none through.
    Open,
    /// Lets a counted few through.
    HalfOpen,
}

impl Circuit {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The value of the metric label `to`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Why a circuit breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TripCause {
    /// So many failures in a row.
    Consecutive,
    /// Too great a share of failures.
    ErrorRate,
    /// Too great a share of slow answers.
    SlowCalls,
    /// A probe of the half-open circuit failed.
    ProbeFailed,
    /// A probe of the half-open circuit did not end in time.
    ProbeHung,
}

impl TripCause {
    /// All causes, in the order of their discriminants.
    pub const ALL: [Self; 5] =
        [Self::Consecutive, Self::ErrorRate, Self::SlowCalls, Self::ProbeFailed, Self::ProbeHung];

    /// For logs and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_errors",
            Self::ErrorRate => "error_rate",
            Self::SlowCalls => "slow_calls",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeHung => "probe_hung",
        }
    }
}

/// Why the outlier detection put an endpoint out. Envoy's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EjectionCause {
    /// So many 5xx answers in a row.
    Consecutive5xx,
    /// So many 502, 503 or 504 in a row.
    ConsecutiveGatewayFailure,
    /// So many attempts in a row without an answer.
    ConsecutiveLocalOriginFailure,
    /// Far fewer good answers than its peers.
    SuccessRate,
    /// Far fewer answers at all than its peers.
    LocalOriginSuccessRate,
    /// Too great a share of bad answers.
    FailurePercentage,
    /// Too great a share of attempts without an answer.
    LocalOriginFailurePercentage,
}

impl EjectionCause {
    /// All causes, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayFailure,
        Self::ConsecutiveLocalOriginFailure,
        Self::SuccessRate,
        Self::LocalOriginSuccessRate,
        Self::FailurePercentage,
        Self::LocalOriginFailurePercentage,
    ];

    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::LocalOriginSuccessRate => "local_origin_success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalOriginFailurePercentage => "local_origin_failure_percentage",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_stands_at_the_index_of_its_discriminant() {
        assert!(EndpointState::ALL.iter().enumerate().all(|(index, one)| *one as usize == index));
        assert!(Circuit::ALL.iter().enumerate().all(|(index, one)| *one as usize == index));
        assert!(TripCause::ALL.iter().enumerate().all(|(index, one)| *one as usize == index));
        assert!(EjectionCause::ALL.iter().enumerate().all(|(index, one)| *one as usize == index));
    }
}
