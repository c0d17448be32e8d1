//! What is counted per request. Resolved once per route; observing a request takes no lock and allocates nothing
//! except the first time a route sees a combination of method, status and flag.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use ::http::Method;
use rustc_hash::FxHashMap;

use super::{
    HotCounter, HotGauge, HotHistogram, Registry, RouteLabels,
    family::{self, Family},
    labels::OVERFLOW,
};
use crate::types::{Direction, Flag, Live};

/// Most combinations of method, status and flag that one route counts apart. Real routes see a dozen; a service
/// that answers with arbitrary statuses must not make the table grow.
const MAX_COMBINATIONS: usize = 256;

/// The numbers of one route of one listener.
#[derive(Debug)]
pub struct HttpMetrics {
    registry: Weak<Registry>,
    labels: RouteLabels,
    /// By [`combination`]. Replaced as a whole when a new one shows up; `growing` is held by whoever does that.
    requests: Live<FxHashMap<u32, Arc<HotCounter>>>,
    growing: Mutex<()>,
    other_requests: OnceLock<Arc<HotCounter>>,
    duration: Arc<HotHistogram>,
    time_to_first_byte: Arc<HotHistogram>,
    overhead: Arc<HotHistogram>,
    in_flight: Arc<HotGauge>,
    request_bytes: Arc<HotCounter>,
    response_bytes: Arc<HotCounter>,
    retries: [OnceLock<metrics::Counter>; RetryReason::ALL.len()],
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestOutcome<'a> {
    /// Method as received.
    pub method: &'a Method,
    /// Status that was sent to the client; 0 if it went away before there was one.
    pub status: u16,
    /// Why the proxy itself answered or cut the request short.
    pub flag: Flag,
    /// First request byte to last response byte.
    pub duration: Duration,
    /// First request byte to first response byte; `None` if there was no response.
    pub time_to_first_byte: Option<Duration>,
    /// Time in the proxy, the wait for the upstream excluded; `None` if it cannot be told apart.
    pub overhead: Option<Duration>,
    /// Bytes of the request body that were passed on.
    pub request_bytes: u64,
    /// Bytes of the response body that were passed on.
    pub response_bytes: u64,
}

/// What made another attempt necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// No connection could be made.
    Connect,
    /// The connection broke before a response.
    Reset,
    /// The attempt took too long.
    Timeout,
    /// The status said so.
    Status,
    /// The endpoint said that it did not process the request.
    Refused,
}

impl RetryReason {
    const ALL: [Self; 5] = [Self::Connect, Self::Reset, Self::Timeout, Self::Status, Self::Refused];

    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Refused => "refused",
        }
    }
}

impl HttpMetrics {
    /// The handle for these labels: the same one each time, also across reloads. Where the registry is full, its
    /// series are shared under `__overflow__`.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>, direction: Direction, service: &str, route: &str) -> Arc<Self> {
        let labels = RouteLabels { direction, service: Arc::from(service), route: Arc::from(route) };
        {
            let mut state = registry.lock();
            state.retention.use_route(labels.clone());
            if let Some(known) = state.http.get(&labels) {
                return Arc::clone(known);
            }
        }
        let made = Arc::new(Self::new(registry, labels.clone()));
        Arc::clone(registry.lock().http.entry(labels).or_insert(made))
    }

    fn new(registry: &Arc<Registry>, labels: RouteLabels) -> Self {
        let direction = ("direction", labels.direction.as_str());
        let service = ("service", &*labels.service);
        let per_route = [direction, service, ("route", &*labels.route)];
        let per_service = [direction, service];
        Self {
            registry: Arc::downgrade(registry),
            requests: Live::new(Arc::default()),
            growing: Mutex::new(()),
            other_requests: OnceLock::new(),
            duration: registry.histogram(&family::REQUEST_DURATION, &per_route),
            time_to_first_byte: registry.histogram(&family::TIME_TO_FIRST_BYTE, &per_route),
            overhead: registry.histogram(&family::OVERHEAD_DURATION, &[direction]),
            in_flight: registry.hot_gauge(&family::IN_FLIGHT, &per_service),
            request_bytes: registry.hot_counter(&family::REQUEST_BYTES, &per_service),
            response_bytes: registry.hot_counter(&family::RESPONSE_BYTES, &per_service),
            retries: [const { OnceLock::new() }; RetryReason::ALL.len()],
            labels,
        }
    }

    /// Counts a request that has ended.
    pub fn observe(&self, outcome: &RequestOutcome<'_>) {
        self.count(outcome);
        self.duration.observe(outcome.duration);
        if let Some(elapsed) = outcome.time_to_first_byte {
            self.time_to_first_byte.observe(elapsed);
        }
        if let Some(elapsed) = outcome.overhead {
            self.overhead.observe(elapsed);
        }
        if outcome.request_bytes != 0 {
            self.request_bytes.add(outcome.request_bytes);
        }
        if outcome.response_bytes != 0 {
            self.response_bytes.add(outcome.response_bytes);
        }
    }

    /// Counts the request as in flight until the guard is dropped. The guard also gives access to the numbers,
    /// so that one reference serves for both.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.increment();
        InFlight(Arc::clone(self))
    }

    /// Counts an attempt after the first one.
    pub fn retried(&self, reason: RetryReason) {
        let made = || {
            let labels = [
                ("service", &*self.labels.service),
                ("route", &*self.labels.route),
                ("reason", reason.as_str()),
            ];
            self.registry
                .upgrade()
                .map_or_else(metrics::Counter::noop, |registry| registry.counter(&family::RETRIES, &labels))
        };
        self.retries[reason as usize].get_or_init(made).increment(1);
    }

    fn count(&self, outcome: &RequestOutcome<'_>) {
        let combination = combination(outcome);
        let known = self.requests.peek();
        match known.get(&combination) {
            Some(counter) => counter.add(1),
            None if known.len() >= MAX_COMBINATIONS => self.other_requests().add(1),
            None => self.add_combination(combination, outcome).add(1),
        }
    }

    #[cold]
    fn add_combination(&self, combination: u32, outcome: &RequestOutcome<'_>) -> Arc<HotCounter> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.requests.load();
        if let Some(counter) = known.get(&combination) {
            return Arc::clone(counter);
        }
        let status = Status::of(outcome.status);
        let counter =
            self.request_counter(method_label(outcome.method), &status.label(), outcome.flag.as_str());
        let mut grown = FxHashMap::clone(&known);
        grown.insert(combination, Arc::clone(&counter));
        self.requests.swap(Arc::new(grown));
        counter
    }

    #[cold]
    fn other_requests(&self) -> &HotCounter {
        self.other_requests.get_or_init(|| self.request_counter(OVERFLOW, OVERFLOW, OVERFLOW))
    }

    fn request_counter(&self, method: &'static str, status: &str, flag: &str) -> Arc<HotCounter> {
        let labels = [
            ("direction", self.labels.direction.as_str()),
            ("source", "unknown"),
            ("service", &*self.labels.service),
            ("route", &*self.labels.route),
            ("method", method),
            ("status", status),
            ("flag", flag),
        ];
        let family: &'static Family = &family::REQUESTS;
        match self.registry.upgrade() {
            Some(registry) => registry.hot_counter(family, &labels),
            // The registry is gone, and with it everybody who could read the number.
            None => Arc::new(HotCounter::new(1, metrics::Counter::noop())),
        }
    }
}

/// A request in flight; ends with its drop.
#[derive(Debug)]
pub struct InFlight(Arc<HttpMetrics>);

impl std::ops::Deref for InFlight {
    type Target = HttpMetrics;

    fn deref(&self) -> &HttpMetrics {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.decrement();
    }
}

/// A status as the label shows it.
#[derive(Clone, Copy)]
enum Status {
    /// No response was sent; Envoy and Istio write it the same way.
    NotSent,
    Code(u16),
    /// Outside 100 to 599.
    Other,
}

impl Status {
    const fn of(status: u16) -> Self {
        match status {
            0 => Self::NotSent,
            100..=599 => Self::Code(status),
            _ => Self::Other,
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::NotSent => 0,
            Self::Code(code) => code,
            Self::Other => u16::MAX,
        }
    }

    fn label(self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::NotSent => "0".into(),
            Self::Code(code) => code.to_string().into(),
            Self::Other => "other".into(),
        }
    }
}

/// Method, status and flag in one number: equal exactly if all three labels are.
fn combination(outcome: &RequestOutcome<'_>) -> u32 {
    let status = Status::of(outcome.status).number();
    u32::from(status) | u32::from(outcome.flag as u8) << 16 | u32::from(method_number(outcome.method)) << 24
}

/// Methods that are counted by name; clients may invent any other.
const METHODS: [&str; 11] =
    ["_OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

fn method_number(method: &Method) -> u8 {
    // A match on the text compiles to a comparison of lengths and words; `Method` compares no faster.
    match method.as_str() {
        "GET" => 1,
        "HEAD" => 2,
        "POST" => 3,
        "PUT" => 4,
        "DELETE" => 5,
        "CONNECT" => 6,
        "OPTIONS" => 7,
        "TRACE" => 8,
        "PATCH" => 9,
        "QUERY" => 10,
        _ => 0,
    }
}

fn method_label(method: &Method) -> &'static str {
    METHODS[usize::from(method_number(method))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_is_counted_under_its_own_name() {
        for name in METHODS.iter().skip(1) {
            assert_eq!(method_label(&Method::from_bytes(name.as_bytes()).unwrap()), *name);
        }
        for other in ["get", "PROPFIND", "X"] {
            assert_eq!(method_label(&Method::from_bytes(other.as_bytes()).unwrap()), "_OTHER");
        }
    }
}
