//! What one decision of the request path costs: finding a route, picking an endpoint, editing a head.
//! Run with `cargo bench --bench policy`; what the figures are for is in benches/README.md.
#![allow(missing_docs, reason = "criterion's macros make public items without documentation")]

#[path = "policy/authz.rs"]
mod authz;
#[path = "policy/breaker.rs"]
mod breaker;
#[path = "policy/limit.rs"]
mod limit;

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use outrigger::policy::{
    balance::{BalanceParams, Balancer, Candidate, HashOn, Hashing},
    classify::{Outcome, Sample},
    ewma::PeakEwma,
    retry::RetryParams,
    route::{
        Action, DirectResponse, HeaderEdits, HostPattern, PathPattern, RequestView, RouteMatch, RouteParams,
        RouteTable,
    },
    traffic::TrafficParams,
};
use outrigger::types::Mono;

fn route(host: HostPattern, path: PathPattern) -> RouteParams {
    RouteParams {
        name: Arc::from("bench"),
        matcher: RouteMatch { hosts: vec![host], path, ..RouteMatch::default() },
        action: Action::Direct(DirectResponse { status: StatusCode::OK, body: Bytes::new() }),
        timeout: None,
        retry: RetryParams::none(),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        traffic: TrafficParams::default(),
    }
}

/// `count` routes: exact hosts with prefixes and exact paths, each tenth for a suffix.
fn table(count: usize) -> RouteTable {
    let routes = (0..count).map(|index| {
        let host = match index % 10 {
            0 => HostPattern::Suffix(format!(".zone{}.mesh.internal", index / 10)),
            _ => HostPattern::Exact(format!("service{}.mesh.internal", index / 10)),
        };
        let path = match index % 3 {
            0 => PathPattern::Prefix(format!("/api/v{}", index % 10)),
            1 => PathPattern::Prefix(format!("/api/v{}/items", index % 10)),
            _ => PathPattern::Exact(format!("/api/v{}/items/index", index % 10)),
        };
        route(host, path)
    });
    RouteTable::compile(&routes.collect::<Vec<_>>())
}

fn route_find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_find");
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", HeaderValue::from_static("bench"));
    for count in [1_usize, 100, 1000] {
        let table = table(count);
        let middle = count / 20;
        let cases = [
            ("exact_host", format!("service{middle}.mesh.internal"), "/api/v4/items/42"),
            ("suffix_host", format!("a.b.zone{middle}.mesh.internal"), "/api/v0/items/42"),
            ("miss", "nobody.example.com".to_owned(), "/api/v4/items/42"),
        ];
        for (name, host, path) in &cases {
            let request =
                RequestView { host, path, query: Some("page=2"), method: &Method::GET, headers: &headers };
            group.bench_function(BenchmarkId::new(*name, count), |bencher| {
                bencher.iter(|| table.find(black_box(&request)));
            });
        }
    }
    group.finish();
}

struct Endpoint {
    address: String,
    weight: u32,
    in_flight: u32,
    eligible: bool,
    latency: PeakEwma,
}

impl Candidate for Endpoint {
    fn eligible(&self, _now: Mono) -> bool {
        self.eligible
    }

    fn weight(&self) -> u32 {
        self.weight
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }

    fn cost(&self, now: Mono) -> f32 {
        self.latency.cost(self.in_flight, now)
    }

    fn hash_identity(&self) -> &str {
        &self.address
    }
}

fn measured(millis: u64) -> PeakEwma {
    let latency = PeakEwma::default();
    let sample =
        Sample { outcome: Outcome::Success, latency: Duration::from_millis(1 + millis), retry_after: None };
    latency.observe(&sample, Mono::from_nanos(1_000_000_000));
    latency
}

fn endpoints(count: usize, all_eligible: bool) -> Vec<Endpoint> {
    let endpoint = |index: usize| Endpoint {
        address: format!("10.0.{}.{}:8080", index / 250, index % 250),
        weight: 1 + (index % 5) as u32,
        in_flight: (index * 7 % 13) as u32,
        eligible: all_eligible || !index.is_multiple_of(3),
        latency: measured(index as u64),
    };
    (0..count).map(endpoint).collect()
}

fn by_path(max_load_percent: Option<u32>) -> Hashing {
    Hashing { hash_on: HashOn::Path, max_load_percent }
}

fn pick(criterion: &mut Criterion) {
    let policies = [
        ("round_robin", BalanceParams::RoundRobin),
        ("weighted_round_robin", BalanceParams::WeightedRoundRobin),
        ("random", BalanceParams::Random),
        ("least_request", BalanceParams::LeastRequest { full_scan: false }),
        ("least_request_full_scan", BalanceParams::LeastRequest { full_scan: true }),
        ("peak_ewma", BalanceParams::PeakEwma),
        ("ring_hash", BalanceParams::RingHash(by_path(None))),
        ("maglev", BalanceParams::Maglev(by_path(None))),
        ("maglev_bounded", BalanceParams::Maglev(by_path(Some(125)))),
        ("jump_hash", BalanceParams::JumpHash(by_path(None))),
    ];
    for (group, all_eligible) in [("pick_among_100", true), ("pick_among_100_third_down", false)] {
        let mut group = criterion.benchmark_group(group);
        let endpoints = endpoints(100, all_eligible);
        for (name, params) in &policies {
            let balancer = Balancer::new(params, &endpoints, 1);
            let mut rng = fastrand::Rng::with_seed(1);
            // Two seconds after the samples: every look at a latency decays it.
            let now = Mono::from_nanos(3_000_000_000);
            group.bench_function(*name, |bencher| {
                bencher.iter(|| {
                    let key = rng.u64(..);
                    balancer.pick(black_box(&endpoints), &[], Some(key), now, &mut rng)
                });
            });
        }
        group.finish();
    }
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build_for_100");
    group.sample_size(20);
    let endpoints = endpoints(100, true);
    for (name, params) in [
        ("weighted_round_robin", BalanceParams::WeightedRoundRobin),
        ("ring_hash", BalanceParams::RingHash(by_path(None))),
        ("maglev", BalanceParams::Maglev(by_path(None))),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Balancer::new(&params, black_box(&endpoints), 1));
        });
    }
    group.finish();
}

fn header_edits(criterion: &mut Criterion) {
    let edits = HeaderEdits {
        remove: vec![HeaderName::from_static("x-internal")],
        set: vec![(HeaderName::from_static("x-env"), HeaderValue::from_static("prod"))],
        add: vec![(HeaderName::from_static("x-via"), HeaderValue::from_static("outrigger"))],
    };
    let mut headers = HeaderMap::new();
    for name in
        ["host", "user-agent", "accept", "x-internal", "x-env", "cookie", "traceparent", "x-request-id"]
    {
        headers.insert(name, HeaderValue::from_static("some value of common length"));
    }
    criterion.bench_function("header_edits", |bencher| {
        bencher.iter_batched_ref(
            || headers.clone(),
            |headers| edits.apply(headers),
            criterion::BatchSize::SmallInput,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = route_find, pick, build, header_edits, limit::check, breaker::admit_and_settle,
        authz::decide
}
criterion_main!(benches);
