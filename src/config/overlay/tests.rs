//! What becomes of a file and records over it, good ones and bad ones.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::{Diff, ProcessEnvironment, routes_in_order};

const FILE: &str = "
version: 1
service: { name: web, address: 127.0.0.1:8080 }
mtls: { mode: disabled }
services:
  api: { endpoints: [127.0.0.1:9000] }
  raw: { protocol: tcp, endpoints: [127.0.0.1:9001] }
routes:
  - name: first
    match: { path_prefix: /a }
    service: api
  - name: second
    match: { path_prefix: /b }
    service: api
intentions:
  roles: { read: [{ methods: [GET] }] }
  rules:
    - { name: own, source: shop, action: allow }
";

fn base(text: &str) -> Base {
    let text = Text::read("outrigger.yaml", text.as_bytes()).unwrap();
    Base::load(&text, &ProcessEnvironment).unwrap_or_else(|findings| panic!("{:?}", findings.items()))
}

fn record(key: &str, text: &str) -> Record {
    Record::of_key(key, Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn reasons(overlaid: &Overlaid) -> Vec<String> {
    let reason = |standing: &Standing| match standing {
        Standing::Applied(_) => "applied".to_owned(),
        Standing::Elsewhere => "elsewhere".to_owned(),
        Standing::Quarantined(_) => standing.reason().unwrap_or_default(),
    };
    overlaid.standings.iter().map(reason).collect()
}

fn names(overlaid: &Overlaid) -> Vec<&str> {
    overlaid.bundle.directory.routes.iter().map(|route| &*route.name).collect()
}

fn rules(bundle: &Bundle) -> Vec<&str> {
    match &bundle.directory.intentions {
        Intentions::Absent(_) => Vec::new(),
        Intentions::Given(given) => given.rules.iter().map(|rule| &*rule.name).collect(),
    }
}

#[test]
fn a_stored_route_takes_the_place_of_the_one_of_its_name_and_others_come_after() {
    let records = [
        record("routes/z", "service: api\nmatch: { path_prefix: /z }\n"),
        record("routes/a/canary", "{\"name\": \"a/canary\", \"service\": \"api\"}"),
        record("routes/first", "redirect: { path: /b }\nmatch: { path_prefix: /a }\n"),
    ];
    let overlaid = base(FILE).overlay(&records);
    assert_eq!(reasons(&overlaid), ["applied"; 3]);
    assert_eq!(names(&overlaid), ["first", "second", "a/canary", "z"]);
    let first = &overlaid.bundle.directory.routes[0];
    assert!(matches!(first.action, crate::policy::route::Action::Redirect(_)), "{first:?}");
}

#[test]
fn among_routes_that_are_equally_narrow_those_of_the_file_come_first() {
    let overlaid = base(FILE)
        .overlay(&[record("routes/0", "{ service: api, match: { path_prefix: /a, methods: [GET] } }")]);
    let order = routes_in_order(&overlaid.bundle);
    let rank = |name: &str| order.lines().position(|line| line.contains(name)).unwrap();
    // Narrower than the file's, so before it; the precedence is that of routes of one file.
    assert!(rank(" 0 ") < rank("first"), "{order}");
    let overlaid = base(FILE).overlay(&[record("routes/0", "{ service: api, match: { path_prefix: /a } }")]);
    let Standing::Applied(warnings) = &overlaid.standings[0] else { panic!("{:?}", reasons(&overlaid)) };
    assert_eq!(warnings.items()[0].code, codes::SHADOWED);
}

#[test]
fn a_bad_record_is_left_out_with_its_reason_and_the_rest_applies() {
    let records = [
        record("routes/good", "service: api"),
        record("routes/unknown", "service: apu"),
        record("routes/renamed", "{ name: other, service: api }"),
        record("routes/torn", "service: [api"),
        record("routes/empty", " \n"),
        record("routes/list", "[service, api]"),
        record("routes/bytes", "service: raw"),
        record("routes/secret", "direct_response: { status: 200, body: \"${file:/etc/passwd}\" }"),
        record("routes/bad name", "service: api"),
        record("routes/first", "{ service: api, retry: { attempts: many } }"),
        record("intentions/own", "{ source: shop, action: deny }"),
        record("intentions/role", "{ source: shop, action: allow, role: write }"),
        record("intentions/where", "{ source: shop, action: allow, destination: \"a b\" }"),
        record("intentions/fine", "{ source: shop, action: allow, role: read }"),
    ];
    let overlaid = base(FILE).overlay(&records);
    let codes: Vec<String> =
        reasons(&overlaid).iter().map(|reason| reason.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(
        codes,
        [
            "applied", "OR201", "OR250", "OR101", "OR250", "OR107", "OR230", "OR113", "OR112", "OR107",
            "OR250", "OR240", "OR250", "applied"
        ],
        "{:#?}",
        reasons(&overlaid)
    );
    assert_eq!(names(&overlaid), ["first", "second", "good"]);
    assert_eq!(rules(&overlaid.bundle), ["own", "fine"]);
}

#[test]
fn a_finding_points_into_the_text_of_its_record_and_names_other_places() {
    let base = base(FILE);
    let text = "# ü\nmatch: { path_prefix: /x }\nservice: apu\n";
    let errors = base.check(&[], &record("routes/x", text)).unwrap_err();
    let item = &errors.items()[0];
    assert_eq!((item.line, item.column, item.path.as_str()), (3, 10, "service"));
    assert_eq!((item.file.as_str(), item.help.as_deref()), ("routes/x", Some("did you mean `api`?")));
    assert!(item.notes.iter().any(|note| note.ends_with("outrigger.yaml:6")), "{:?}", item.notes);
}

#[test]
fn a_rule_is_about_the_services_that_it_names() {
    let records = [
        record("intentions/a", "{ source: x, action: allow, destination: web }"),
        record("intentions/b", "{ source: x, action: allow, destination: shop }"),
        record("intentions/c", "{ source: x, action: deny, destination: \"we*\" }"),
        record("intentions/d", "{ source: y, action: deny, destination: \"*\" }"),
    ];
    let overlaid = base(FILE).overlay(&records);
    assert_eq!(reasons(&overlaid), ["applied", "elsewhere", "applied", "applied"]);
    assert_eq!(rules(&overlaid.bundle), ["own", "a", "c", "d"]);
}

#[test]
fn a_rule_about_others_is_checked_but_for_what_only_they_have() {
    let base = base(FILE);
    let check = |text: &str| base.check(&[], &record("intentions/x", text)).is_ok();
    assert!(check("{ source: x, action: allow, destination: shop, role: theirs }"));
    assert!(!check("{ source: x, action: allow, role: theirs }"));
    assert!(!check("{ source: x, action: alow, destination: shop }"));
}

#[test]
fn a_stored_rule_changes_nothing_for_those_whom_it_is_not_about() {
    let text = FILE.split("intentions:").next().unwrap();
    let overlaid = base(text).overlay(&[record("intentions/x", "{ source: anonymous, action: deny }")]);
    let Intentions::Given(given) = &overlaid.bundle.directory.intentions else { panic!("no rules") };
    assert_eq!(given.default_action, crate::policy::authz::Action::Allow);
}

#[test]
fn a_record_that_the_file_does_not_go_with_is_found_among_many() {
    let text = FILE.replace("services:", "mesh: { node: a, gossip_key: '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', data_dir: none }\nservices:")
        + "listeners: { tcp: [{ name: db, address: 127.0.0.1:5432, service: db }] }\n";
    let base = base(&text);
    let mut records: Vec<Record> =
        (0..20).map(|n| record(&format!("routes/r{n:02}"), &format!("service: other{n}"))).collect();
    records.insert(7, record("routes/db", "service: db"));
    let overlaid = base.overlay(&records);
    let found: Vec<usize> =
        (0..records.len()).filter(|at| overlaid.standings[*at].reason().is_some()).collect();
    assert_eq!(found, [7], "{:?}", reasons(&overlaid));
    assert!(reasons(&overlaid)[7].contains("outrigger.yaml:"), "{}", reasons(&overlaid)[7]);
}

#[test]
fn secrets_of_the_file_stay_hidden_where_they_still_are() {
    let text = FILE.replace(
        "    service: api\n",
        "    service: api\n    headers: { request: { set: { x-a: \"${env:PATH}\" } } }\n",
    );
    let overlaid = base(&text).overlay(&[record("routes/first", "service: api")]);
    assert_eq!(overlaid.bundle.masked, ["/routes/1/headers/request/set/x-a"]);
}

#[test]
fn there_is_an_end_to_what_is_taken_over() {
    let many: Vec<Record> =
        (0..=MAX_RECORDS).map(|n| record(&format!("routes/{n:04}"), "service: api")).collect();
    let base = base(FILE);
    let overlaid = base.overlay(&many);
    let left: Vec<usize> = (0..many.len()).filter(|at| overlaid.standings[*at].reason().is_some()).collect();
    assert_eq!(left, [MAX_RECORDS]);
    assert!(base.check(&many[..MAX_RECORDS], &many[MAX_RECORDS]).is_err());
    assert!(base.check(&many[..MAX_RECORDS], &many[0]).is_ok());
    let large = record("routes/large", &format!("service: api # {}", "x".repeat(MAX_RECORD_BYTES)));
    assert!(base.check(&[], &large).is_err());
}

const MESH: &str = "mesh: { node: a, gossip_key: '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', data_dir: none }\n";

fn cluster<'o>(overlaid: &'o Overlaid, name: &str) -> &'o crate::snapshot::ClusterParams {
    let clusters = &overlaid.bundle.directory.clusters;
    clusters.iter().find(|cluster| *cluster.name == *name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn each_key_of_a_policy_takes_the_place_of_that_key_of_the_service() {
    let text = FILE.replace(
        "api: { endpoints: [127.0.0.1:9000] }",
        "api: { endpoints: [127.0.0.1:9000], connect_timeout: 3s, slow_start: 5s, limits: { max_requests: 7, max_retries: 3 } }",
    );
    let base = base(&text);
    let policy = "{ name: api, slow_start: 9s, limits: { max_requests: 8 }, idle_timeout: 20s }";
    let overlaid = base.overlay(&[record("policies/api", policy)]);
    assert_eq!(reasons(&overlaid), ["applied"]);
    let (api, raw) = (cluster(&overlaid, "api"), cluster(&overlaid, "raw"));
    let seconds = [api.connect_timeout, api.slow_start, api.idle_timeout].map(|time| time.as_secs());
    assert_eq!(seconds, [3, 9, 20]);
    // A key is one whole: what it does not say has its usual value.
    let usual = cluster(&base.overlay(&[]), "raw").limits.clone();
    assert_eq!((api.limits.max_requests, api.limits.max_retries), (8, usual.max_retries));
    assert_eq!(raw.limits, usual);
    assert_eq!(api.source, base.bundle().directory.clusters[0].source);
}

#[test]
fn a_policy_says_nothing_of_where_a_service_is() {
    let records = [
        record("policies/api", "{ endpoints: [10.0.0.1:1] }"),
        record("policies/raw", "{ protocol: http1, tls: { mode: disabled } }"),
        record("policies/a/b", "{ slow_start: 1s }"),
        record("policies/none", "[slow_start]"),
        record("policies/other", "{ slow_start: 1s }"),
    ];
    let overlaid = base(FILE).overlay(&records);
    let codes: Vec<String> =
        reasons(&overlaid).iter().map(|reason| reason.split(':').next().unwrap().to_owned()).collect();
    assert_eq!(codes, ["OR250", "OR250", "OR112", "OR250", "elsewhere"], "{:#?}", reasons(&overlaid));
}

#[test]
fn a_bad_policy_is_left_out_and_its_service_stays_as_it_was() {
    let base = base(FILE);
    for (text, code) in [
        ("{ circuit_braker: { consecutive_errors: 3 } }", "OR104"),
        ("{ slow_start: 5 }", "OR108"),
        ("slow_start: ${env:HOME}", "OR113"),
        ("{ name: raw, slow_start: 5s }", "OR250"),
    ] {
        let overlaid = base.overlay(&[record("policies/api", text), record("routes/good", "service: api")]);
        let reason = overlaid.standings[0].reason().unwrap_or_default();
        assert!(reason.starts_with(code), "{text}: {reason}");
        assert_eq!(names(&overlaid), ["first", "second", "good"]);
        let good = base.overlay(&[record("routes/good", "service: api")]);
        assert!(Diff::between(&good.bundle, &overlaid.bundle).is_empty());
    }
    let errors = base.check(&[], &record("policies/api", "{ limits: { max_requests: 0 } }")).unwrap_err();
    assert_eq!((errors.items()[0].line, errors.items()[0].column), (1, 27), "{:?}", errors.items());
}

#[test]
fn a_policy_is_about_whoever_is_called_and_named_by_a_stored_route_too() {
    let text = FILE.replace("services:\n", &format!("{MESH}services:\n"))
        + "listeners: { tcp: [{ name: db, address: 127.0.0.1:0, service: db }] }\n";
    let base = base(&text);
    let policy = |name: &str| record(&format!("policies/{name}"), "{ slow_start: 9s }");
    let records = [
        record("routes/x", "split: [{ service: one, weight: 1 }, { service: two, weight: 1 }]"),
        record("routes/y", "{ service: api, match: { path: /y }, mirror: { service: three } }"),
        policy("one"),
        policy("two"),
        policy("three"),
        policy("db"),
        policy("nobody"),
    ];
    let overlaid = base.overlay(&records);
    assert_eq!(reasons(&overlaid)[2..], ["applied", "applied", "applied", "applied", "elsewhere"]);
    for name in ["one", "two", "three", "db"] {
        assert_eq!(cluster(&overlaid, name).slow_start.as_secs(), 9, "{name}");
    }
    // It stays what it was named for.
    assert_eq!(cluster(&overlaid, "db").protocol, crate::snapshot::Protocol::Tcp);
    assert!(overlaid.bundle.directory.clusters.iter().all(|cluster| &*cluster.name != "nobody"));
    // Whoever writes for others learns what is wrong all the same.
    assert!(base.check(&[], &policy("nobody")).is_ok());
    assert!(base.check(&[], &record("policies/nobody", "{ slow_start: soon }")).is_err());
}

#[test]
fn a_secret_that_a_policy_replaces_is_no_longer_there() {
    let health = "health_check: { path: /h, headers: { x-a: \"${env:PATH}\" } }";
    let text =
        FILE.replace("endpoints: [127.0.0.1:9000] }", &format!("endpoints: [127.0.0.1:9000], {health} }}"));
    let base = base(&text);
    assert_eq!(base.bundle().masked, ["/services/api/health_check/headers/x-a"]);
    let other = base.overlay(&[record("policies/api", "{ slow_start: 1s }")]);
    assert_eq!(other.bundle.masked, base.bundle().masked);
    assert!(
        base.overlay(&[record("policies/api", "{ health_check: { tcp: true } }")]).bundle.masked.is_empty()
    );
}

fn limits(overlaid: &Overlaid) -> Vec<String> {
    let limits = overlaid.bundle.directory.local.traffic.limits.iter();
    limits.map(|limit| format!("{} {}", limit.name, limit.rate.count)).collect()
}

#[test]
fn a_stored_limit_is_added_to_those_of_the_file_and_keeps_its_name() {
    let records = [
        record("ratelimits/b", "{ rate: 2/s }"),
        record("ratelimits/a", "{ name: a, rate: 1/s, key: { header: x-tenant }, destination: web }"),
        record("ratelimits/far", "{ rate: 3/s, destination: shop }"),
        record("ratelimits/bad", "{ rate: 3 }"),
        record("ratelimits/list", "[rate, 3/s]"),
        record("ratelimits/where", "{ rate: 3/s, destination: [web] }"),
    ];
    let service = "service: { name: web, address: 127.0.0.1:8080";
    for (more, of_the_file) in [
        ("", &[][..]),
        (", rate_limit: { rate: 9/s }", &["inbound#1 9"]),
        (", rate_limit: [{ rate: 9/s }, { rate: 8/m }]", &["inbound#1 9", "inbound#2 8"]),
    ] {
        let overlaid = base(&FILE.replace(service, &format!("{service}{more}"))).overlay(&records);
        let applied: Vec<bool> =
            overlaid.standings.iter().map(|standing| matches!(standing, Standing::Applied(_))).collect();
        assert_eq!(applied, [true, true, false, false, false, false], "{:?}", reasons(&overlaid));
        assert_eq!(reasons(&overlaid)[2], "elsewhere");
        assert_eq!(limits(&overlaid), [of_the_file, &["a 1", "b 2"]].concat());
    }
}

fn text() -> impl Strategy<Value = String> {
    let fits = ["service: api", "{ service: api, match: { path_prefix: /q } }", "redirect: { path: /x }"];
    let rules =
        ["{ source: a, action: allow }", "{ source: '*', action: deny, destination: web }", "{ rate: 7/s }"];
    let policies = ["{ slow_start: 1s }", "{ load_balancer: { policy: random }, zones: { mode: none } }"];
    let wrong =
        ["service: nobody", "{", "a: &a 1", "service: raw", "name: \u{e9}", "- - -", "service: ${env:PATH}"];
    let known =
        fits.into_iter().chain(rules).chain(policies).chain(wrong).map(str::to_owned).collect::<Vec<_>>();
    prop_oneof![prop::sample::select(known), any::<String>()]
}

fn records() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop_oneof![
        "(routes|intentions|ratelimits)/(first|own|[a-c]{1,2})",
        "policies/(api|raw|[a-c])",
        "(routes|intentions|policies|ratelimits)/.{0,4}"
    ];
    prop::collection::btree_map(key, text(), 0..8)
}

proptest! {
    #[test]
    fn no_records_are_the_file(more in "[a-z]{1,8}") {
        let base = base(&FILE.replace("second", &format!("second-{more}")));
        let overlaid = base.overlay(&[]);
        prop_assert!(Diff::between(base.bundle(), &overlaid.bundle).is_empty());
    }

    #[test]
    fn whatever_is_stored_the_file_goes_on_and_what_is_applied_is_there(stored in records()) {
        let base = base(FILE);
        let records: Vec<Record> = stored.iter().map(|(key, text)| record(key, text)).collect();
        let overlaid = base.overlay(&records);
        prop_assert_eq!(overlaid.standings.len(), records.len());
        let (mut routes, mut applied) = (vec!["first".to_owned(), "second".to_owned()], Vec::new());
        for (record, standing) in records.iter().zip(&overlaid.standings) {
            match standing {
                Standing::Applied(_) if record.kind == RecordKind::Route => applied.push(record.name.to_string()),
                Standing::Applied(_) if record.kind == RecordKind::Intention => {
                    prop_assert!(rules(&overlaid.bundle).contains(&&*record.name));
                }
                Standing::Applied(_) if record.kind == RecordKind::Limit => {
                    let applied = format!("{} 7", record.name);
                    prop_assert!(limits(&overlaid).contains(&applied));
                }
                Standing::Applied(_) => {
                    prop_assert!(overlaid.bundle.directory.clusters.iter().any(|one| one.name == record.name));
                }
                Standing::Elsewhere => {}
                Standing::Quarantined(_) => prop_assert!(standing.reason().is_some()),
            }
        }
        applied.retain(|name| !routes.contains(name));
        routes.extend(applied);
        prop_assert_eq!(names(&overlaid), routes);
        prop_assert!(rules(&overlaid.bundle).contains(&"own"));
    }

    #[test]
    fn the_order_of_records_does_not_matter(stored in records(), seed in any::<usize>()) {
        let base = base(FILE);
        let records: Vec<Record> = stored.iter().map(|(key, text)| record(key, text)).collect();
        let mut turned = records.clone();
        if !turned.is_empty() {
            turned.rotate_left(seed % records.len());
        }
        let (one, other) = (base.overlay(&records), base.overlay(&turned));
        prop_assert!(Diff::between(&one.bundle, &other.bundle).is_empty());
        for (record, standing) in records.iter().zip(&one.standings) {
            let at = turned.iter().position(|other| other == record).unwrap_or_default();
            prop_assert_eq!(standing.reason(), other.standings[at].reason());
        }
    }
}
