//! What is counted of the tokens of end users. Families and handles stand together: nothing else uses them.

use std::sync::Arc;

use super::{
    HotCounter, Registry,
    family::{Family, Kind},
};

static VERIFICATIONS: Family = Family {
    name: "outrigger_jwt_verifications_total",
    kind: Kind::Counter,
    help: "Tokens of end users by what came of them. missing: a request without one where one is required; issuer \
           none: the token names no issuer that is known, or could not be read.",
};
static REFRESHES: Family = Family {
    name: "outrigger_jwks_refreshes_total",
    kind: Kind::Counter,
    help: "Looks at the source of an issuer's keys. failure: the keys of before stay.",
};
static KEYS: Family =
    Family { name: "outrigger_jwks_keys", kind: Kind::Gauge, help: "Keys of an issuer that are in use." };

/// Families that the recorder renders.
pub(super) static RECORDED: [&Family; 3] = [&VERIFICATIONS, &REFRESHES, &KEYS];

/// What came of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtResult {
    /// It is good.
    Accepted,
    /// Its signature is not of the key that it names.
    Signature,
    /// No issuer that is known.
    Issuer,
    /// For somebody else.
    Audience,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// An algorithm that its key is not for, or that nobody may use.
    Algorithm,
    /// A key that the issuer does not have.
    UnknownKey,
    /// No token at all, though something stands in its place.
    Malformed,
    /// Longer than is read.
    TooLarge,
    /// There is none.
    Missing,
}

impl JwtResult {
    const ALL: [Self; 11] = [
        Self::Accepted,
        Self::Signature,
        Self::Issuer,
        Self::Audience,
        Self::Expired,
        Self::NotYetValid,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Malformed,
        Self::TooLarge,
        Self::Missing,
    ];

    /// The value of the metric label `result`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Missing => "missing",
        }
    }
}

/// The tokens of one issuer.
#[derive(Debug)]
pub struct JwtMetrics([Arc<HotCounter>; JwtResult::ALL.len()]);

impl JwtMetrics {
    /// Those of `issuer`: the same ones each time. `None` stands for tokens of nobody that is known.
    #[must_use]
    pub fn resolve(registry: &Registry, issuer: Option<&str>) -> Arc<Self> {
        let issuer = ("issuer", issuer.unwrap_or("none"));
        Arc::new(Self(
            JwtResult::ALL
                .map(|result| registry.hot_counter(&VERIFICATIONS, &[issuer, ("result", result.as_str())])),
        ))
    }

    /// Counts a token.
    pub fn verified(&self, result: JwtResult) {
        self.0[result as usize].add(1);
    }
}

/// How a look at the source of keys ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// There are other keys now.
    Changed,
    /// The same keys.
    Unchanged,
    /// The keys could not be had.
    Failure,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct JwksMetrics {
    outcomes: [metrics::Counter; 3],
    keys: metrics::Gauge,
}

impl JwksMetrics {
    /// Those of `issuer`: the same ones each time.
    #[must_use]
    pub fn resolve(registry: &Registry, issuer: &str) -> Arc<Self> {
        let issuer = ("issuer", issuer);
        let outcomes = ["changed", "unchanged", "failure"]
            .map(|outcome| registry.counter(&REFRESHES, &[issuer, ("result", outcome)]));
        Arc::new(Self { outcomes, keys: registry.gauge(&KEYS, &[issuer]) })
    }

    /// Counts a look, after which there are `keys` keys.
    pub fn refreshed(&self, outcome: RefreshOutcome, keys: usize) {
        self.outcomes[outcome as usize].increment(1);
        self.keys.set(keys as f64);
    }
}
