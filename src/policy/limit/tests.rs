//! The rate over time, against a count; keys; what a sweep forgets.

use super::*;

fn limit(count: u32, per: Period, burst: u32) -> RateLimitParams {
    RateLimitParams {
        name: "l".into(),
        rate: Rate { count: NonZeroU32::new(count).unwrap(), per },
        burst: NonZeroU32::new(burst).unwrap(),
        key: LimitKey::Route,
        shadow: false,
        max_keys: 100,
    }
}

fn at(millis: u64) -> Mono {
    Mono::from_nanos(millis * 1_000_000)
}

#[test]
fn a_burst_is_allowed_at_once_and_then_one_request_per_interval() {
    let limit = limit(10, Period::Second, 3);
    let mut state = None;
    for left in [2, 1, 0] {
        assert_eq!(limit.check(&mut state, at(1000)), Verdict::Allowed { remaining: left });
    }
    assert_eq!(limit.check(&mut state, at(1000)), Verdict::Denied { wait: Duration::from_millis(100) });
    assert_eq!(limit.check(&mut state, at(1040)), Verdict::Denied { wait: Duration::from_millis(60) });
    assert_eq!(limit.check(&mut state, at(1100)), Verdict::Allowed { remaining: 0 });
    assert_eq!(limit.check(&mut state, at(9000)), Verdict::Allowed { remaining: 2 });
}

#[test]
fn over_any_time_no_more_pass_than_burst_and_rate_allow_for_200_seeds() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (count, burst) = (rng.u32(1..500), rng.u32(1..100));
        let per = [Period::Second, Period::Minute, Period::Hour][rng.usize(0..3)];
        let limit = limit(count, per, burst);
        let (mut state, mut now, mut passed, mut denied_early) = (None, 0_u64, 0_u64, false);
        for _ in 0..2_000 {
            now += rng.u64(0..limit.interval().as_nanos() as u64 * 2);
            match limit.check(&mut state, Mono::from_nanos(now)) {
                Verdict::Allowed { .. } => passed += 1,
                Verdict::Denied { wait } => {
                    let mut later = state;
                    let then = Mono::from_nanos(now).after(wait);
                    denied_early |= !matches!(limit.check(&mut later, then), Verdict::Allowed { .. });
                }
            }
        }
        let most = u64::from(burst) + now / limit.interval().as_nanos() as u64 + 1;
        assert!(passed <= most, "seed {seed}: {passed} of at most {most}");
        assert!(!denied_early, "seed {seed}: told to wait too short");
    }
}

#[test]
fn a_smaller_burst_after_a_reload_is_no_refill() {
    let (wide, narrow) = (limit(1, Period::Minute, 10), limit(1, Period::Minute, 5));
    let mut state = None;
    for _ in 0..10 {
        assert!(matches!(wide.check(&mut state, at(0)), Verdict::Allowed { .. }));
    }
    assert!(matches!(narrow.check(&mut state, at(0)), Verdict::Denied { .. }));
}

#[test]
fn keys_tell_callers_apart_and_a_secret_makes_them_unpredictable() {
    let hasher = KeyHasher::new(1);
    let by_source =
        |text: &str| hasher.key(&LimitKey::SourceAddress, &HeaderMap::new(), text.parse().unwrap());
    assert_ne!(by_source("10.0.0.1"), by_source("10.0.0.2"));
    assert_eq!(by_source("10.0.0.1"), by_source("::ffff:10.0.0.1"));
    assert_eq!(by_source("2001:db8::1"), by_source("2001:db8::ffff:0:1"));
    assert_ne!(by_source("2001:db8::1"), by_source("2001:db8:0:1::1"));
    let user = LimitKey::Header(HeaderName::from_static("x-user"));
    let by_user = |hasher: &KeyHasher, users: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in users {
            headers.append("x-user", http::HeaderValue::from_static(value));
        }
        hasher.key(&user, &headers, IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
    };
    assert_ne!(by_user(&hasher, &["ab"]), by_user(&hasher, &["a", "b"]));
    assert_eq!(by_user(&hasher, &[]), by_user(&hasher, &[]));
    assert_ne!(by_user(&hasher, &["a"]), by_user(&KeyHasher::new(2), &["a"]));
}

#[test]
fn a_sweep_forgets_what_is_full_again_and_nothing_else() {
    let limit = limit(1, Period::Second, 2);
    let mut table = KeyTable::default();
    table.insert(1, &limit, at(0));
    table.insert(2, &limit, at(900));
    assert_eq!(table.sweep(at(999)), 0);
    assert_eq!(table.sweep(at(1000)), 1);
    assert_eq!((table.len(), table.check(1, &limit, at(1100))), (1, None));
    assert_eq!(table.check(2, &limit, at(1100)), Some(Verdict::Allowed { remaining: 0 }));
}
