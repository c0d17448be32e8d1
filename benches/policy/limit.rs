//! Rate limits: a check among 100 000 live keys, and ten million distinct keys against the bound.

use std::{hint::black_box, num::NonZeroU32, sync::Arc, time::Duration};

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use outrigger::{
    policy::limit::{KeyHasher, LimitKey, Period, Rate, RateLimitParams},
    snapshot::RateLimiter,
    telemetry::metrics::{RateLimitMetrics, Registry},
    types::Mono,
};

const LIVE: u64 = 100_000;

fn limiter() -> RateLimiter {
    let params = RateLimitParams {
        name: "bench".into(),
        rate: Rate { count: NonZeroU32::MIN, per: Period::Second },
        burst: NonZeroU32::new(1000).unwrap_or(NonZeroU32::MIN),
        key: LimitKey::SourceAddress,
        shadow: false,
        max_keys: 100_000,
    };
    let metrics = RateLimitMetrics::resolve(&Registry::new(100, 1), "bench");
    RateLimiter::new(params, Arc::default(), KeyHasher::new(1), metrics)
}

/// Keys as a hash makes them.
fn key(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(super) fn check(criterion: &mut Criterion) {
    let limiter = limiter();
    let mut now = Mono::from_nanos(1_000_000_000);
    for number in 0..LIVE {
        let _ = limiter.check_key(key(number), now);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let mut group = criterion.benchmark_group("rate_limit");
    group.bench_function("check_among_100k_keys", |bencher| {
        bencher.iter(|| {
            now = now.after(Duration::from_nanos(100));
            limiter.check_key(black_box(key(rng.u64(0..LIVE))), now)
        });
    });
    // The shared bucket: every key is new, and there is no room.
    group.bench_function("check_of_new_keys_when_full", |bencher| {
        bencher.iter(|| {
            now = now.after(Duration::from_nanos(100));
            limiter.check_key(black_box(key(rng.u64(LIVE..))), now)
        });
    });
    by_address(&mut group);
    group.finish();
    ten_million();
}

/// With the hash of the address, as a request has it.
fn by_address(group: &mut BenchmarkGroup<'_, WallTime>) {
    let limiter = limiter();
    let mut now = Mono::from_nanos(1_000_000_000);
    let headers = http::HeaderMap::new();
    let source = |number: u32| std::net::IpAddr::from(number.to_be_bytes());
    for number in 0..LIVE as u32 {
        let _ = limiter.check(&headers, source(number), now);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    group.bench_function("check_by_address_among_100k_keys", |bencher| {
        bencher.iter(|| {
            now = now.after(Duration::from_nanos(100));
            limiter.check(black_box(&headers), source(rng.u32(0..LIVE as u32)), now)
        });
    });
}

/// Resident memory of this process in bytes, where the kernel tells.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default() * 1024
}

/// Not measured but proved, at a size that would take too long in a debug build.
#[expect(clippy::print_stdout, reason = "a bench reports there")]
fn ten_million() {
    let limiter = limiter();
    let mut now = Mono::from_nanos(1_000_000_000);
    for number in 0..LIVE {
        assert!(limiter.check_key(key(number), now).is_ok());
        // Never quite full again in the time that follows.
        for _ in 0..999 {
            let _ = limiter.check_key(key(number), now);
        }
    }
    let full = resident();
    for number in LIVE..LIVE + 10_000_000 {
        now = now.after(Duration::from_nanos(10));
        let _ = limiter.check_key(key(number), now);
        assert!(limiter.keys() <= 100_000);
    }
    let grown = resident().saturating_sub(full);
    println!("ten million keys beyond {LIVE}: {} keys kept, {grown} bytes more", limiter.keys());
    assert!(grown < 1024 * 1024, "{grown} bytes more");
    for number in 0..LIVE {
        assert!(limiter.check_key(key(number), now).is_err(), "a live key keeps its own bucket");
    }
}
