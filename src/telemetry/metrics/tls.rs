//! What is counted of TLS: handshakes on either side, who still speaks plaintext, certificates and their renewal.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustc_hash::FxHashMap;

use super::{
    HotHistogram, Registry,
    family::{Family, Kind},
};
use crate::types::Direction;

pub(super) static HANDSHAKES: Family = Family {
    name: "outrigger_tls_handshakes_total",
    kind: Kind::Counter,
    help: "TLS handshakes, by how they ended: ok, resumed, or why they failed",
};
pub(super) static HANDSHAKE_DURATION: Family = Family {
    name: "outrigger_tls_handshake_duration_seconds",
    kind: Kind::Histogram(super::family::CONNECT),
    help: "Time from the first byte of a TLS handshake to its end, failed ones included",
};
static EDGE_HANDSHAKES: Family = Family {
    name: "outrigger_edge_tls_handshakes_total",
    kind: Kind::Counter,
    help: "TLS handshakes with clients outside of the mesh, by how they ended",
};
static PLAINTEXT: Family = Family {
    name: "outrigger_mtls_plaintext_connections_total",
    kind: Kind::Counter,
    help: "Connections without TLS on the inbound listener, by what became of them",
};
static EXPIRY: Family = Family {
    name: "outrigger_tls_certificate_expiry_timestamp_seconds",
    kind: Kind::Gauge,
    help: "When a certificate expires: the own leaf, or the first of the trusted roots",
};
static LIFETIME: Family = Family {
    name: "outrigger_tls_certificate_lifetime_seconds",
    kind: Kind::Gauge,
    help: "How long a certificate is valid in all",
};
static RENEWALS: Family = Family {
    name: "outrigger_certificate_renewals_total",
    kind: Kind::Counter,
    help: "Certificates that were taken up, or could not be",
};

/// Families of this file that the recorder renders.
pub(super) static RECORDED: [&Family; 6] =
    [&HANDSHAKES, &EDGE_HANDSHAKES, &PLAINTEXT, &EXPIRY, &LIFETIME, &RENEWALS];

/// Handshakes of one direction.
#[derive(Debug)]
pub struct TlsMetrics {
    registry: Arc<Registry>,
    direction: Direction,
    results: Mutex<FxHashMap<&'static str, metrics::Counter>>,
    duration: Arc<HotHistogram>,
    plaintext: [metrics::Counter; 2],
}

impl TlsMetrics {
    /// Handles for this direction; any number of them count into the same series. `reasons` are the words by which
    /// handshakes fail, so that each series exists before it happens.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>, direction: Direction, reasons: &[&'static str]) -> Arc<Self> {
        let label = ("direction", direction.as_str());
        let result =
            |result: &'static str| (result, registry.counter(&HANDSHAKES, &[label, ("result", result)]));
        let results = ["ok", "resumed"].into_iter().chain(reasons.iter().copied()).map(result).collect();
        let plaintext = |what| registry.counter(&PLAINTEXT, &[label, ("result", what)]);
        Arc::new(Self {
            direction,
            results: Mutex::new(results),
            duration: registry.histogram(&HANDSHAKE_DURATION, &[label]),
            plaintext: [plaintext("accepted"), plaintext("refused")],
            registry: Arc::clone(registry),
        })
    }

    /// Counts a handshake that ended with `result`: `ok`, `resumed`, or why it failed.
    pub fn handshake(&self, result: &'static str, took: Duration) {
        self.duration.observe(took);
        // A handshake costs a thousand times as much as this lock.
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = results.entry(result).or_insert_with(|| {
            let labels = [("direction", self.direction.as_str()), ("result", result)];
            self.registry.counter(&HANDSHAKES, &labels)
        });
        counter.increment(1);
    }

    /// Counts a handshake with a client outside of the mesh.
    pub fn terminated(&self, result: &'static str, took: Duration) {
        self.duration.observe(took);
        // A handshake costs a thousand times as much as this look-up.
        self.registry.counter(&EDGE_HANDSHAKES, &[("result", result)]).increment(1);
    }

    /// Counts a connection without TLS that is served all the same.
    pub fn plaintext_accepted(&self) {
        self.plaintext[0].increment(1);
    }

    /// Counts a connection without TLS that is refused.
    pub fn plaintext_refused(&self) {
        self.plaintext[1].increment(1);
    }
}

/// The certificates of the process.
#[derive(Clone, Debug)]
pub struct CertificateMetrics(Arc<Registry>);

impl CertificateMetrics {
    /// The handle; any number of them show the same numbers.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        for result in ["ok", "failed"] {
            registry.counter(&RENEWALS, &[("result", result)]).absolute(0);
        }
        Self(Arc::clone(registry))
    }

    /// Shows the validity of the certificate of this `kind` (`leaf`, `ca`).
    pub fn validity(&self, kind: &'static str, from: SystemTime, until: SystemTime) {
        let unix = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.gauge(&EXPIRY, &[("kind", kind)]).set(unix.as_secs_f64());
        let lifetime = until.duration_since(from).unwrap_or_default();
        self.0.gauge(&LIFETIME, &[("kind", kind)]).set(lifetime.as_secs_f64());
    }

    /// Counts a new certificate that was taken up, or one that could not be used.
    pub fn renewed(&self, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.0.counter(&RENEWALS, &[("result", result)]).increment(1);
    }
}
