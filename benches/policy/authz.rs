//! Who may call: decisions among a thousand rules.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, Method};
use outrigger::{
    policy::{
        authz::{
            Action, Intentions, IntentionsParams, Mode, Permission, Policy, Request, RuleParams, Scope,
            Source,
        },
        route::PathPattern,
    },
    types::TrustDomain,
};

/// `count` rules: of ten, eight are for a service each, one for a prefix of names and one denies a service something.
fn policy(count: usize, domain: &TrustDomain) -> Policy {
    let under = |prefix: &str| {
        let path = PathPattern::Prefix(prefix.into());
        Scope::Permissions([Permission { methods: vec![Method::GET], path, headers: Vec::new() }].into())
    };
    let rule = |index: usize| RuleParams {
        name: format!("rule-{index}").into(),
        source: match index % 10 {
            0 => Source::ServicePrefix(format!("batch{}-", index / 10).into()),
            _ => Source::Service(format!("service{index}").into()),
        },
        action: if index % 10 == 1 { Action::Deny } else { Action::Allow },
        scope: under(if index % 10 == 1 { "/admin" } else { "/api/v1" }),
        claims: Vec::new(),
    };
    let rules = (0..count).map(rule).collect();
    let params =
        IntentionsParams { mode: Mode::Enforce, default_action: Action::Deny, roles: Vec::new(), rules };
    Policy::compile(&Intentions::Given(params), domain)
}

pub(super) fn decide(criterion: &mut Criterion) {
    let domain = TrustDomain::default();
    let headers = HeaderMap::new();
    let mut group = criterion.benchmark_group("authz_decide");
    for count in [10_usize, 1000] {
        let policy = policy(count, &domain);
        let middle = count / 2;
        for (name, caller, path) in [
            ("exact", Some(format!("service{}", middle + 4)), "/api/v1/items/42"),
            ("prefix", Some(format!("batch{}-nightly", middle / 10)), "/api/v1/items/42"),
            ("default", Some("stranger".to_owned()), "/api/v1/items/42"),
            ("anonymous", None, "/api/v1/items/42"),
            ("two_readings", Some(format!("service{}", middle + 4)), "/api/v1/items/4%2F2"),
        ] {
            let caller = caller.and_then(|name| domain.service(&name).ok());
            let request = Request {
                source: caller.as_ref(),
                method: &Method::GET,
                path,
                headers: &headers,
                claims: None,
            };
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| policy.decide(black_box(&request)));
            });
        }
    }
    group.finish();
}
