//! What the circuit breaker of an endpoint costs on each attempt.

use std::{hint::black_box, time::Duration};

use criterion::Criterion;
use outrigger::policy::{
    breaker::{Admit, Breaker, BreakerParams, ErrorRate},
    classify::{Outcome, Sample},
};
use outrigger::types::Mono;

const PARAMS: BreakerParams = BreakerParams {
    consecutive_errors: 7,
    error_rate: Some(ErrorRate { percent: 50 }),
    slow_calls: None,
    window: Duration::from_secs(10),
    min_requests: 20,
    open_time: Duration::from_secs(1),
    max_open_time: Duration::from_secs(60),
    half_open_requests: 1,
    probe_timeout: Duration::from_secs(30),
};

pub(crate) fn admit_and_settle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("breaker");
    let breaker = Breaker::new(1);
    let mut nanos = 1_u64;
    let mut round = |outcome: Outcome| {
        nanos += 10_000;
        let now = Mono::from_nanos(nanos);
        if let Admit::Yes(ticket) = black_box(&breaker).admit(&PARAMS, now) {
            let sample = Sample { outcome, latency: Duration::from_micros(300), retry_after: None };
            black_box(breaker.settle(ticket, &sample, &PARAMS, now));
        }
    };
    group.bench_function("success", |bencher| bencher.iter(|| round(Outcome::Success)));
    let mut count = 0_u32;
    group.bench_function("one_failure_in_ten", |bencher| {
        bencher.iter(|| {
            count += 1;
            round(if count.is_multiple_of(10) { Outcome::ServerError } else { Outcome::Success });
        });
    });
    group.finish();
}
