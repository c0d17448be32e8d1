//! The metric registry: hands out handles, bounds how many series exist, renders all of them. What is counted
//! where stands in `http`, `cluster`, `listener` and `control`; names and help texts in `family`.
//!
//! Counters and gauges live in the recorder of the metrics crates; those of the request path are summed up in
//! [`HotCounter`] and [`HotGauge`] and published there at each scrape. Histograms are our own, see
//! docs/adr/0003-histograms-of-our-own.md.

mod admin;
mod authz;
mod cluster;
mod control;
mod exposition;
mod ext_authz;
mod family;
mod gossip;
mod hot;
mod http;
mod jwt;
mod labels;
mod listener;
mod passthrough;
mod process;
mod quorum;
mod shared;
mod shield;
mod signing;
mod store;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use rustc_hash::FxHashMap;

pub use self::{
    admin::{AdminMetrics, AdminResult},
    authz::{AuthzAction, AuthzMetrics, AuthzReason},
    cluster::{ClusterMetrics, ConnectResult, ConnectionState, HedgeOutcome, LimitKind},
    control::{ConfigMetrics, ReloadOutcome, ReloadTrigger},
    ext_authz::{ExtAuthzMetrics, ExtAuthzResult},
    gossip::{GossipDrop, GossipKind, GossipMetrics, GossipSide, JoinResult, MemberCounts, PushPullResult},
    hot::{HistogramSnapshot, HotCounter, HotGauge, HotHistogram},
    http::{HttpMetrics, InFlight, RequestOutcome, RetryReason},
    jwt::{JwksMetrics, JwtMetrics, JwtResult, RefreshOutcome},
    labels::{LiveLabels, RouteLabels},
    listener::{ConnectionProtocol, ListenerMetrics, ListenerOutcome},
    passthrough::{PassthroughMetrics, PassthroughResult},
    quorum::{QuorumMetrics, QuorumNumbers},
    shared::SharedMetrics,
    shield::{
        ConcurrencyMetrics, FaultMetrics, LimitDecision, MirrorMetrics, MirrorOutcome, OverloadMetrics,
        RateLimitMetrics,
    },
    signing::{CaMetrics, CaRequest, CaResult, CopyMetrics},
    store::{ReplicaMetrics, ReplicaState, StoreMetrics, StoreOperation, StoreOutcome},
    tcp::{TcpMetrics, TcpResult},
    tls::{CertificateMetrics, TlsMetrics},
};

use self::{
    family::{Family, Kind},
    labels::{Admitted, FamilyGuard, Labels, Retention},
};
use crate::types::{Direction, Mono};

static METADATA: Metadata<'static> = Metadata::new("outrigger", Level::INFO, None);

/// Every metric of the process. Handles are resolved when configuration is built and cost no look-up afterwards.
///
/// The same labels always give the same handle, so numbers survive a reload.
pub struct Registry {
    recorder: Arc<PrometheusRecorder>,
    rendered: PrometheusHandle,
    max_series: usize,
    writers: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    guards: FxHashMap<&'static str, FamilyGuard>,
    counters: FxHashMap<(&'static str, Labels), Arc<HotCounter>>,
    gauges: FxHashMap<(&'static str, Labels), Arc<HotGauge>>,
    histograms: BTreeMap<&'static str, (&'static Family, BTreeMap<Labels, Arc<HotHistogram>>)>,
    http: FxHashMap<RouteLabels, Arc<HttpMetrics>>,
    clusters: FxHashMap<Arc<str>, Arc<ClusterMetrics>>,
    listeners: FxHashMap<Direction, Arc<ListenerMetrics>>,
    retention: Retention,
    config: Option<control::RunningConfig>,
}

impl Registry {
    /// An empty registry of its own; any number of them may exist.
    ///
    /// `max_series_per_metric` bounds the label sets of one family. `workers` is the number of data-plane
    /// threads, which is also how many writers are expected at the same time.
    #[must_use]
    pub fn new(max_series_per_metric: usize, workers: usize) -> Arc<Self> {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shared = family::RECORDED.into_iter().chain(shield::RECORDED);
        let access = authz::RECORDED.into_iter().chain(jwt::RECORDED).chain(ext_authz::RECORDED);
        let access = access
            .chain(admin::RECORDED)
            .chain(signing::RECORDED)
            .chain(gossip::RECORDED)
            .chain(quorum::RECORDED)
            .chain(shared::RECORDED)
            .chain(store::RECORDED);
        for family in shared.chain(tls::RECORDED).chain(access) {
            let (name, help) = (family.name.into(), family.help.into());
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        let registry = Arc::new(Self {
            rendered: recorder.handle(),
            recorder: Arc::new(recorder),
            max_series: max_series_per_metric,
            writers: workers,
            state: Mutex::default(),
        });
        registry.gauge(&family::WORKERS, &[]).set(workers as f64);
        registry.gauge(&family::BUILD_INFO, &process::BUILD).set(1.0);
        // Exists from the start, so that an alert on its increase sees the first one.
        registry.access_log_dropped().absolute(0);
        registry
    }

    /// Makes this the registry that the macros of the metrics crate write to. The first one in a process stays;
    /// says whether that is this one.
    pub fn install_global(&self) -> bool {
        metrics::set_global_recorder(Arc::clone(&self.recorder)).is_ok()
    }

    /// Counts access log lines that were dropped.
    pub fn access_log_dropped(&self) -> metrics::Counter {
        self.counter(&family::ACCESS_LOG_DROPPED, &[])
    }

    /// Tells which routes and services are in use from `now` on. Series of others disappear five minutes later,
    /// and come back with their old values if their labels do.
    pub fn retain(&self, live: &LiveLabels, now: Mono) {
        self.lock().retention.retain(live, now);
    }

    /// All series in the Prometheus text format. Takes milliseconds and reads /proc: not for the data plane.
    #[must_use]
    pub fn render(&self, now: Mono) -> String {
        let (hidden, config) = {
            let state = self.lock();
            state.counters.values().for_each(|counter| counter.publish());
            state.gauges.values().for_each(|gauge| gauge.publish());
            (state.retention.hidden(now), state.config.clone())
        };
        let mut text = self.rendered.render();
        if !hidden.is_empty() {
            text = exposition::without_hidden(&text, &hidden);
        }
        if let Some(config) = config {
            config.render(&mut text);
        }
        self.render_histograms(&mut text, &hidden);
        process::render(&mut text);
        text
    }

    fn render_histograms(&self, text: &mut String, hidden: &labels::Hidden) {
        // Formatted outside the lock, which a request takes when it is the first of its kind.
        let families: Vec<_> = self.lock().histograms.values().cloned().collect();
        for (family, series) in families {
            exposition::header(text, family);
            for (labels, histogram) in series {
                let value_of =
                    |name: &str| labels.iter().find(|(n, _)| *n == name).map(|(_, value)| &**value);
                if !hidden.covers(value_of) {
                    let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, &**value)).collect();
                    exposition::histogram(text, family.name, &labels, &histogram.snapshot());
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single insertion: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counter(&self, family: &'static Family, labels: &[(&'static str, &str)]) -> metrics::Counter {
        let labels = self.admit(family, labels);
        self.recorder.register_counter(&key(family, &labels), &METADATA)
    }

    fn gauge(&self, family: &'static Family, labels: &[(&'static str, &str)]) -> metrics::Gauge {
        let labels = self.admit(family, labels);
        self.recorder.register_gauge(&key(family, &labels), &METADATA)
    }

    fn hot_counter(&self, family: &'static Family, labels: &[(&'static str, &str)]) -> Arc<HotCounter> {
        let labels = self.admit(family, labels);
        let published = self.recorder.register_counter(&key(family, &labels), &METADATA);
        let made = || Arc::new(HotCounter::new(self.writers, published));
        Arc::clone(self.lock().counters.entry((family.name, labels)).or_insert_with(made))
    }

    fn hot_gauge(&self, family: &'static Family, labels: &[(&'static str, &str)]) -> Arc<HotGauge> {
        let labels = self.admit(family, labels);
        let published = self.recorder.register_gauge(&key(family, &labels), &METADATA);
        let made = || Arc::new(HotGauge::new(self.writers, published));
        Arc::clone(self.lock().gauges.entry((family.name, labels)).or_insert_with(made))
    }

    fn histogram(&self, family: &'static Family, labels: &[(&'static str, &str)]) -> Arc<HotHistogram> {
        let labels = self.admit(family, labels);
        let bounds = match family.kind {
            Kind::Histogram(bounds) => bounds,
            Kind::Counter | Kind::Gauge => &[],
        };
        let made = || Arc::new(HotHistogram::new(self.writers, bounds));
        let mut state = self.lock();
        let (_, series) = state.histograms.entry(family.name).or_insert_with(|| (family, BTreeMap::new()));
        Arc::clone(series.entry(labels).or_insert_with(made))
    }

    fn admit(&self, family: &'static Family, labels: &[(&'static str, &str)]) -> Labels {
        let labels: Labels = labels.iter().map(|(name, value)| (*name, Arc::from(*value))).collect();
        let admitted = self.lock().guards.entry(family.name).or_default().admit(labels, self.max_series);
        match admitted {
            Admitted::AsAsked(labels) => labels,
            Admitted::Folded(labels) => {
                let overflow: Labels = vec![("metric", Arc::from(family.name))];
                let counted = key(&family::SERIES_OVERFLOW, &overflow);
                self.recorder.register_counter(&counted, &METADATA).increment(1);
                labels
            }
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("max_series", &self.max_series).finish_non_exhaustive()
    }
}

fn key(family: &Family, labels: &Labels) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(name, value)| Label::new(*name, Arc::<str>::clone(value))).collect();
    Key::from_parts(family.name, labels)
}
