//! What is counted of the certificate authority while it answers over the network.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge};

use super::{
    Registry,
    family::{Family, Kind},
};

static REQUESTS: Family = Family {
    name: "outrigger_ca_requests_total",
    kind: Kind::Counter,
    help: "What the certificate authority was asked for over the network, by how it ended",
};

static COPIES: Family = Family {
    name: "outrigger_ca_copies_total",
    kind: Kind::Counter,
    help: "Copies of the certificate authority for the store of the mesh, by how it ended",
};

static BEHIND: Family = Family {
    name: "outrigger_ca_copy_behind_seconds",
    kind: Kind::Gauge,
    help: "For how long the copy of the certificate authority in the store has not been known to be up to date",
};

static SUPERSEDED: Family = Family {
    name: "outrigger_ca_superseded",
    kind: Kind::Gauge,
    help: "1 if another directory holds the certificate authority that this sidecar is configured to hold",
};

/// Families of this file that the recorder renders.
pub(super) static RECORDED: [&Family; 4] = [&REQUESTS, &COPIES, &BEHIND, &SUPERSEDED];

/// What the authority is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaRequest {
    /// Nothing: the connection did not come so far.
    Connect,
    /// A first certificate.
    Join,
    /// Another certificate.
    Renew,
    /// What is trusted.
    Bundle,
    /// Anything else.
    Other,
}

/// How that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaResult {
    /// It was given.
    Ok,
    /// The handshake failed, also for a certificate that is not believed.
    Handshake,
    /// Too many connections, a full queue, or too many requests per second.
    Overflow,
    /// It was not there in time.
    Timeout,
    /// It could not be read.
    Malformed,
    /// The signing request is not acceptable, or asks for another identity.
    Csr,
    /// The join token is unknown, used or expired.
    Token,
    /// No certificate was shown, or one that does not entitle.
    Certificate,
    /// The authority could not do it.
    Failed,
}

impl CaRequest {
    const ALL: [Self; 5] = [Self::Connect, Self::Join, Self::Renew, Self::Bundle, Self::Other];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Join => "join",
            Self::Renew => "renew",
            Self::Bundle => "bundle",
            Self::Other => "other",
        }
    }
}

impl CaResult {
    /// The value of the metric label `result`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Handshake => "handshake",
            Self::Overflow => "overflow",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::Csr => "csr",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Failed => "failed",
        }
    }
}

/// The numbers of the copies of an authority that the store keeps.
#[derive(Clone, Debug)]
pub struct CopyMetrics {
    kept: Counter,
    failed: Counter,
    behind: Gauge,
    superseded: Gauge,
}

impl CopyMetrics {
    /// The handle; any number of them count into the same series.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        Self {
            kept: registry.counter(&COPIES, &[("result", "ok")]),
            failed: registry.counter(&COPIES, &[("result", "failed")]),
            behind: registry.gauge(&BEHIND, &[]),
            superseded: registry.gauge(&SUPERSEDED, &[]),
        }
    }

    /// Counts a copy that was to be kept.
    pub fn copied(&self, is_kept: bool) {
        if is_kept { self.kept.increment(1) } else { self.failed.increment(1) }
    }

    /// Another directory holds the authority.
    pub fn superseded(&self) {
        self.superseded.set(1.0);
    }

    /// For how long the copy has not been known to be up to date.
    pub fn behind(&self, time: Duration) {
        self.behind.set(time.as_secs_f64());
    }
}

/// The numbers of the signing service.
#[derive(Clone, Debug)]
pub struct CaMetrics(Arc<Registry>);

impl CaMetrics {
    /// The handle; any number of them count into the same series.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        for request in CaRequest::ALL {
            registry
                .counter(&REQUESTS, &[("request", request.as_str()), ("result", CaResult::Ok.as_str())])
                .absolute(0);
        }
        Self(Arc::clone(registry))
    }

    /// Counts a request.
    pub fn answered(&self, request: CaRequest, result: CaResult) {
        let labels = [("request", request.as_str()), ("result", result.as_str())];
        self.0.counter(&REQUESTS, &labels).increment(1);
    }
}
