//! The configuration files that ship, and what is said about broken ones.

#[path = "config/etcd.rs"]
mod etcd;
#[path = "config/keyspaces.rs"]
mod keyspaces;
#[path = "config/mesh.rs"]
mod mesh;

use std::{io, path::Path};

use outrigger::config::{self, Bundle, Diff, Environment, Findings, ProcessEnvironment, Style};
use proptest::prelude::*;
use serde_yaml::Value;

const MINIMAL: &str = include_str!("../config/minimal.yaml");
const REFERENCE: &str = include_str!("../config/reference.yaml");

fn parse(text: &str) -> Result<(Bundle, Findings), Findings> {
    config::parse("outrigger.yaml", text, &ProcessEnvironment)
}

#[expect(clippy::panic, reason = "the only caller is a test, and the findings are what it should show")]
fn valid(text: &str) -> Bundle {
    let (bundle, warnings) =
        parse(text).unwrap_or_else(|errors| panic!("{}", errors.render_text(Style::Plain)));
    assert!(warnings.is_empty(), "{}", warnings.render_text(Style::Plain));
    bundle
}

/// The text of a minimal configuration with `more` after it.
fn with(more: &str) -> String {
    format!(
        "version: 1\nservice: {{ name: web, address: 127.0.0.1:8080 }}\nmtls: {{ mode: disabled }}\n{more}"
    )
}

/// The findings as `OR104 3:5`, errors and warnings alike.
fn found(text: &str) -> Vec<String> {
    let findings = match parse(text) {
        Ok((_, warnings)) => warnings,
        Err(errors) => errors,
    };
    findings.items().iter().map(|item| format!("{} {}:{}", item.code.id(), item.line, item.column)).collect()
}

#[test]
fn minimal_yaml_parses_without_warnings() {
    assert_eq!(&*valid(MINIMAL).directory.routes[0].name, "api-1");
}

#[test]
fn the_example_of_a_shop_parses_without_warnings() {
    assert_eq!(valid(include_str!("../examples/shop.yaml")).directory.routes.len(), 2);
}

#[test]
fn the_examples_of_a_mesh_parse_without_warnings() {
    let web = valid(include_str!("../examples/mesh/web.yaml"));
    let shop = valid(include_str!("../examples/mesh/shop.yaml"));
    let identity = |bundle: &Bundle| bundle.identity.as_ref().map(|identity| identity.own.to_string());
    assert_eq!(identity(&web).as_deref(), Some("spiffe://mesh.local/service/web"));
    assert_eq!(identity(&shop).as_deref(), Some("spiffe://mesh.local/service/shop"));
}

#[test]
fn reference_yaml_parses_without_warnings() {
    assert_eq!(valid(REFERENCE).directory.clusters.len(), 4);
}

/// Removes `keys` from the mapping at the end of `path`; an absent key means that the test is out of date.
fn strip(document: &mut Value, path: &[&str], keys: &[&str]) {
    let mut place = document;
    for step in path {
        place = match step.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[*step],
        };
    }
    for key in keys {
        let removed = place.as_mapping_mut().and_then(|mapping| mapping.remove(*key));
        assert!(removed.is_some(), "{path:?} has no {key}");
    }
}

#[test]
fn the_values_in_reference_yaml_are_the_defaults_of_the_code() {
    let mut stripped: Value = serde_yaml::from_str(REFERENCE).unwrap();
    // The list itself is an example; what its items leave out has defaults.
    strip(&mut stripped, &["listeners", "tcp", "0"], &["proxy_protocol", "idle_timeout", "max_connections"]);
    let tcp = stripped["listeners"]["tcp"].clone();
    strip(&mut stripped, &["listeners", "outbound", "tls"], &["min_version"]);
    let edge = stripped["listeners"]["outbound"]["tls"].clone();
    strip(
        &mut stripped,
        &[],
        &["listeners", "defaults", "admin", "telemetry", "reload", "overload", "shutdown"],
    );
    stripped["listeners"]["tcp"] = tcp;
    stripped["listeners"]["outbound"]["tls"] = edge;
    let optional = ["mode", "trust_domain", "min_version", "handshake_timeout", "max_handshakes"];
    strip(&mut stripped, &["mtls"], &optional);
    strip(&mut stripped, &["mtls", "ca"], &["mode"]);
    strip(&mut stripped, &["service"], &["protocol", "timeout", "concurrency"]);
    strip(&mut stripped, &["service", "health_check"], &["interval"]);
    strip(&mut stripped, &["intentions"], &["mode", "default_action"]);
    strip(&mut stripped, &["routes", "0"], &["timeout"]);
    strip(&mut stripped, &["routes", "2", "redirect"], &["status"]);
    let optional =
        ["protocol", "load_balancer", "connect_timeout", "idle_timeout", "limits", "panic_threshold"];
    strip(&mut stripped, &["services", "api"], &optional);
    let optional = ["outlier_detection", "slow_start", "zones", "subset_fallback"];
    strip(&mut stripped, &["services", "api"], &optional);
    strip(&mut stripped, &["services", "api", "endpoints", "1"], &["weight", "priority"]);
    strip(&mut stripped, &["services", "api", "session_affinity"], &["ttl", "path"]);
    let optional = ["consecutive_errors", "error_rate", "open_time", "max_open_time", "half_open_requests"];
    strip(&mut stripped, &["services", "api", "circuit_breaker"], &optional);
    strip(&mut stripped, &["services", "api", "circuit_breaker", "slow_calls"], &["percent"]);
    let optional = ["required", "leeway", "max_token_size", "forward_token"];
    strip(&mut stripped, &["intentions", "jwt", "0"], &optional);
    strip(&mut stripped, &["intentions", "jwt", "1"], &["jwks_refresh"]);
    let optional = ["timeout", "fail_open", "request_headers", "client_headers"];
    strip(&mut stripped, &["intentions", "ext_authz"], &optional);
    let optional = ["expected_statuses", "interval", "timeout", "healthy_threshold", "unhealthy_threshold"];
    strip(&mut stripped, &["services", "api", "health_check"], &optional);
    strip(&mut stripped, &["services", "payments"], &["dns_refresh"]);
    strip(&mut stripped, &["services", "payments", "tls"], &["server_name", "min_version"]);

    let diff = Diff::between(&valid(REFERENCE), &valid(&serde_yaml::to_string(&stripped).unwrap()));
    assert_eq!(diff, Diff::default());
}

#[test]
fn the_effective_configuration_is_a_configuration_that_means_the_same() {
    for text in [MINIMAL, REFERENCE] {
        let bundle = valid(text);
        let again = valid(&config::effective_yaml(&bundle));
        assert_eq!(Diff::between(&bundle, &again), Diff::default());
    }
}

#[test]
fn five_mistakes_give_five_messages_at_their_places() {
    let text = "\
version: 1
service: { name: web, address: 127.0.0.1:8080, timeOut: 3s }
listeners: { header_timeout: 30 }
routes:
  - match: { path_regex: '/v(1' }
    service: apii
services:
  api:
    endpoints: [127.0.0.1:9000, 127.0.0.1:9000]
mtls: { mode: disabled }
";
    let expected = "\
error[OR104]: unknown key `timeOut`
 --> outrigger.yaml:2:48
  |
2 | service: { name: web, address: 127.0.0.1:8080, timeOut: 3s }
  |                                                ^^^^^^^ not a key of `service`
  |
  = help: did you mean `timeout`?
  = note: keys of `service`: name, address, protocol, tags, health_check, timeout, max_request_size, rate_limit, concurrency

error[OR108]: `30` has no unit
 --> outrigger.yaml:3:30
  |
3 | listeners: { header_timeout: 30 }
  |                              ^^ a duration needs a unit
  |
  = help: did you mean `30s`?

error[OR209]: the regular expression does not compile
 --> outrigger.yaml:5:26
  |
5 |   - match: { path_regex: '/v(1' }
  |                          ^^^^^^ unclosed group

error[OR201]: route sends to a service that does not exist
 --> outrigger.yaml:6:14
  |
6 |     service: apii
  |              ^^^^ no `services.apii`
7 | services:
8 |   api:
  |   --- a service with a similar name is defined here
  |
  = help: did you mean `api`?

error[OR203]: the endpoint is in the list twice
 --> outrigger.yaml:9:33
  |
9 |     endpoints: [127.0.0.1:9000, 127.0.0.1:9000]
  |                 --------------  ^^^^^^^^^^^^^^ again here
  |                 |
  |                 first here
  |
  = help: use `weight` to send it more requests

outrigger.yaml: 5 errors
";
    let findings = parse(text).unwrap_err();
    assert_eq!(findings.render_text(Style::Plain), expected);
}

#[test]
fn json_findings_carry_positions_in_characters_and_key_paths() {
    let findings = parse(&with("routes: [{ name: \"ü\", service: é }]\n")).unwrap_err().to_json();
    let first = &findings["items"][0];
    assert_eq!((&first["code"], &first["severity"]), (&"OR112".into(), &"error".into()));
    assert_eq!((&first["line"], &first["column"], &first["end_column"]), (&4.into(), &18.into(), &21.into()));
    assert_eq!(first["path"], "routes[0].name");
    assert_eq!(findings["items"][1]["column"], 32);
    assert_eq!(findings["errors"], 2);
}

#[test]
fn what_is_missing_is_missing_in_the_mapping_and_not_in_its_first_key() {
    let path = |text: &str| parse(text).unwrap_err().items()[0].path.clone();
    assert_eq!(path("service: { name: web, address: 127.0.0.1:8080 }\nmtls: { mode: disabled }\n"), "");
    assert_eq!(path(&with("routes:\n  - name: a\n    service: b\n  - timeout: 1s\n")), "routes[0].service");
    assert_eq!(
        path(&with("routes:\n  - name: a\n    redirect: { port: 1 }\n  - timeout: 1s\n")),
        "routes[1]"
    );
    assert_eq!(path(&with("services:\n  api:\n    protocol: auto\n")), "services.api");
    assert_eq!(path(&with("services: { api: { protocol: auto } }\n")), "services.api");
}

#[test]
fn only_the_first_twenty_findings_are_shown() {
    let rendered = |count: usize| {
        let text = with(&(0..count).map(|n| format!("nonsense{n}: 1\n")).collect::<String>());
        parse(&text).unwrap_err().render_text(Style::Plain)
    };
    assert_eq!(rendered(25).matches("error[OR104]").count(), 20);
    assert!(rendered(25).ends_with("and 5 more\noutrigger.yaml: 25 errors\n"));
    assert!(rendered(1500).ends_with("and 1480 more\noutrigger.yaml: 1000 errors and 500 more\n"));
}

#[test]
fn mtls_must_be_disabled_in_so_many_words() {
    let without = "version: 1\nservice: { name: web, address: 127.0.0.1:8080 }\nintentions: { rules: [{ source: a, action: allow }] }\n";
    assert_eq!(found(without), ["OR213 1:1"]);
    assert_eq!(found(&format!("{without}mtls: {{ mode: strict }}")), ["OR213 4:7"]);
    assert_eq!(found(&format!("{without}mtls: {{}}")), ["OR213 4:7"]);
    assert_eq!(found(&format!("{without}mtls: {{ mode: of }}")), ["OR213 4:7", "OR109 4:15"]);
}

#[test]
fn mtls_is_strict_unless_the_file_says_otherwise_and_needs_all_three_files() {
    let files = "ca: { cert_file: /a, key_file: /b, ca_file: /c }";
    let with = |more: &str| {
        format!(
            "version: 1\nservice: {{ name: web, address: 127.0.0.1:8080 }}\nmtls: {{ {more} }}\n\
             intentions: {{ rules: [{{ source: shop, action: allow }}] }}\n"
        )
    };
    let bundle = valid(&with(files));
    let identity = bundle.identity.expect("it is on");
    assert_eq!(identity.own.as_str(), "spiffe://mesh.local/service/web");
    assert_eq!(found(&with("ca: { cert_file: /a, ca_file: /c }")), ["OR106 3:13"]);
    assert_eq!(found(&with(&format!("trust_domain: Mesh.Local, {files}"))), ["OR112 3:23"]);
    assert_eq!(found(&with(&format!("mode: permissive, {files}"))), ["OR303 3:15"]);
    // Without mTLS nobody is `shop` either.
    assert_eq!(found(&with(&format!("mode: disabled, {files}"))), ["OR304 3:29", "OR321 4:33"]);
    assert_eq!(found(&with(&format!("min_version: \"1.1\", {files}"))), ["OR109 3:22"]);
}

#[test]
fn the_built_in_authority_is_held_or_asked() {
    let with = |more: &str| {
        let service = "version: 1\nservice: { name: web, address: 127.0.0.1:8080 }\n";
        let anybody = "intentions: { rules: [{ source: '*', action: allow }] }";
        format!("{service}mtls: {{ ca: {{ mode: builtin, {more} }} }}\n{anybody}\n")
    };
    for good in [
        "servers: ['10.0.0.1:15012', '[::1]:15012'], token_file: /t, node: web-1",
        "authority: {}, leaf_ttl: 1h, dir: /i",
        "authority: { dir: /ca, key_file: /k, address: '127.0.0.1:0' }",
    ] {
        let bundle = valid(&with(good));
        let again = valid(&config::effective_yaml(&bundle));
        assert_eq!(Diff::between(&bundle, &again), Diff::default());
        assert_eq!(bundle.identity, again.identity);
    }
    let diff = Diff::between(
        &valid(&with("servers: ['10.0.0.1:15012']")),
        &valid(&with("servers: ['10.0.0.1:15012'], leaf_ttl: 1h")),
    );
    assert_eq!(diff.restart_required, ["mtls.ca.leaf_ttl"]);
    let cases = [
        ("node: web-1", "OR114 3:13"),
        ("servers: []", "OR106 3:39"),
        ("servers: ['ca:15012']", "OR112 3:40"),
        ("servers: ['10.0.0.1:1'], authority: {}", "OR114 3:30"),
        ("authority: { file: /x }", "OR104 3:43"),
        ("authority: {}, token_file: /t", "OR304 3:57"),
        ("authority: {}, leaf_ttl: 30s", "OR111 3:55"),
        ("authority: {}, node: a b", "OR112 3:51"),
        ("authority: {}, cert_file: /a", "OR114 3:56"),
    ];
    let found_each = cases.map(|(more, _)| (more, found(&with(more))));
    assert_eq!(found_each, cases.map(|(more, finding)| (more, vec![finding.to_owned()])));
    let files = "cert_file: /a, key_file: /b, ca_file: /c";
    let text = with("").replace("mode: builtin, ", &format!("{files}, servers: ['10.0.0.1:1']"));
    assert_eq!(found(&text), ["OR114 3:66"]);
}

#[test]
fn keys_of_later_versions_are_not_taken_for_slips() {
    assert_eq!(found(&with("rate_limits: {}")), ["OR105 4:1"]);
    assert_eq!(found(&with("mesch: {}")), ["OR104 4:1"]);
}

/// Each text after the minimal configuration and `before` gives exactly the finding beside it.
fn assert_each(cases: &[(&str, &str)], before: &str) {
    let outcomes: Vec<(&str, String)> = cases
        .iter()
        .map(|(more, _)| (*more, found(&with(&format!("{before}{more}\n"))).join(", ")))
        .collect();
    let expected: Vec<(&str, String)> =
        cases.iter().map(|(more, code)| (*more, (*code).to_owned())).collect();
    assert_eq!(outcomes, expected);
}

#[test]
fn every_shape_mistake_has_its_code_and_place() {
    let cases = [
        ("service: { name: web, address: 127.0.0.1:1 }", "OR103 4:1"),
        ("workers: many", "OR107 4:10"),
        ("workers: 0", "OR111 4:10"),
        ("workers:", "OR107 4:1"),
        ("routes: {}", "OR107 4:9"),
        ("services: { a: { endpoints: [] } }", "OR106 4:29"),
        ("services: { a: {} }", "OR114 4:16"),
        ("services: { a: { endpoints: [10.0.0.1:1], dns: 'a:1' } }", "OR114 4:43"),
        ("services: { a: { endpoints: ['api:80'] } }", "OR112 4:30"),
        ("services: { a: { dns: api } }", "OR112 4:23"),
        ("telemetry: { access_log: { sample: 5 } }", "OR108 4:36"),
        ("telemetry: { log: { level: loud } }", "OR109 4:28"),
        ("listeners: { max_header_size: 60000 }", "OR108 4:31"),
        ("listeners: { max_header_size: 1B }", "OR111 4:31"),
        ("reload: { interval: 2d }", "OR108 4:21"),
        ("reload: { watch: 'true' }", "OR107 4:18"),
        ("workers: ${env:OUTRIGGER_TEST_NOT_SET}", "OR113 4:10"),
        ("x: &a 1\ny: *a", "OR102 4:4"),
        ("x: !secret 1", "OR102 4:4"),
        ("routes: [", "OR101 5:1"),
        ("--- {}", "OR102 4:1"),
    ];
    assert_each(&cases, "");
}

#[test]
fn every_mistake_in_meaning_has_its_code_and_place() {
    let cases = [
        ("routes: [{ name: a, service: api }, { name: a, service: api, match: { path: / } }]", "OR202 5:45"),
        ("routes: [{ split: [{ service: api, weight: 0 }] }]", "OR204 5:19"),
        ("defaults: { load_balancer: { policy: ring_hash } }", "OR205 5:38"),
        ("defaults: { load_balancer: { policy: random, hash_on: { path: true } } }", "OR206 5:55"),
        ("admin: { metrics_address: 127.0.0.1:15006 }", "OR207 5:27"),
        ("admin: { address: 10.0.0.1:15000 }", "OR208 5:19"),
        ("admin: { address: 10.0.0.1:15000, token: 0123456789abcdef }", "OR306 5:19"),
        ("admin: { address: 'unix:/run/admin.sock', token: 0123456789abcdef }", "OR304 5:50"),
        ("admin: { address: 'unix:admin.sock' }", "OR112 5:19"),
        ("admin: { token: tooshort }", "OR112 5:17"),
        ("admin: { token: '0123456789 abcdef' }", "OR112 5:17"),
        ("admin: { hosts: ['a b'] }", "OR112 5:18"),
        ("routes: [{ service: api, match: { path_regex: 'a)(b' } }]", "OR209 5:47"),
        ("routes: [{ service: api, headers: { request: { set: { transfer-encoding: x } } } }]", "OR212 5:55"),
        ("routes: [{ redirect: { status: 200, scheme: https } }]", "OR214 5:32"),
        ("listeners: { outbound: { address: 127.0.0.1:8080 } }", "OR215 2:32"),
        ("routes: [{ service: api, rewrite: { path_prefix: / } }]", "OR216 5:50"),
        ("routes: [{ name: on, service: api }]", "OR301 5:18"),
        ("defaults: { idle_timeout: 2m }", "OR302 5:27"),
        ("routes: [{ service: api }, { service: api }]", "OR310 5:28"),
    ];
    assert_each(&cases, "services: { api: { endpoints: [10.0.0.1:80] } }\n");
}

#[test]
fn every_mistake_in_the_tools_of_a_route_has_its_code_and_place() {
    let cases = [
        ("routes: [{ service: api, rate_limit: { rate: 100 } }]", "OR107 5:46"),
        ("routes: [{ service: api, rate_limit: [{ rate: 100/d }] }]", "OR108 5:47"),
        ("routes: [{ service: api, rate_limit: { burst: 1 } }]", "OR106 5:38"),
        ("routes: [{ service: api, rate_limit: { rate: 1/s, key: source_service } }]", "OR110 5:56"),
        ("routes: [{ service: api, fault: { percent: 1 } }]", "OR114 5:33"),
        ("routes: [{ service: api, fault: { abort: 200 } }]", "OR111 5:42"),
        ("routes: [{ service: api, mirror: { service: shadow } }]", "OR201 5:45"),
        ("routes: [{ service: api, sticky: { header: x-user } }]", "OR114 5:34"),
        ("routes: [{ direct_response: { status: 200 }, mirror: { service: api } }]", "OR114 5:54"),
        ("routes: [{ service: api, subset: {} }]", "OR106 5:34"),
        ("routes: [{ service: api, max_request_size: 1000 }]", "OR108 5:44"),
        ("listeners: { normalize: { escaped_slashes: decode } }", "OR109 5:44"),
        ("listeners: { normalize: { merge: true } }", "OR104 5:27"),
        ("routes: [{ service: api, subset: { version: 2 } }]", "OR107 5:45"),
        ("routes: [{ service: api, subset: { version: v2 } }]", "OR311 5:21"),
        ("routes: [{ split: [{ service: api, weight: 1 }], subset: { v: a } }]", "OR114 5:58"),
    ];
    assert_each(&cases, "services: { api: { endpoints: [10.0.0.1:80] } }\n");
}

#[test]
fn mistakes_about_callers_are_found_at_their_place() {
    // The section, what of it is wrong, and the code.
    let cases = [
        ("{ mode: dry }", "dry", "OR109"),
        ("{ default_action: reject }", "reject", "OR109"),
        ("{ rules: [{ source: anonymous }] }", "{ source", "OR106"),
        ("{ rules: [{ action: deny }] }", "{ action", "OR106"),
        ("{ rules: [{ source: 'a b', action: deny }] }", "'a b'", "OR112"),
        ("{ rules: [{ source: 'a*b', action: deny }] }", "'a*b'", "OR112"),
        ("{ rules: [{ source: 'a**', action: deny }] }", "'a**'", "OR112"),
        ("{ rules: [{ source: '..', action: deny }] }", "'..'", "OR112"),
        ("{ rules: [{ source: 'spiffe://A/b', action: deny }] }", "'spiffe", "OR112"),
        ("{ rules: [{ source: 'spiffe://a/b*', action: deny }] }", "'spiffe", "OR112"),
        ("{ rules: [{ source: anonymous, action: block }] }", "block", "OR109"),
        ("{ rules: [{ source: anonymous, action: deny, permissions: [] }] }", "[] }", "OR106"),
        ("{ rules: [{ source: anonymous, action: deny, permissions: [{}] }] }", "{}", "OR114"),
        ("{ rules: [{ source: anonymous, action: deny, permissions: [{ methods: [] }] }] }", "[] }", "OR106"),
        (
            "{ rules: [{ source: anonymous, action: deny, permissions: [{ path: a }] }] }",
            "a }] }] }",
            "OR112",
        ),
        ("{ rules: [{ source: anonymous, action: deny, permissions: [{ hosts: [a] }] }] }", "hosts", "OR104"),
        ("{ rules: [{ source: anonymous, action: deny, role: adnim }] }", "adnim", "OR240"),
        ("{ roles: { a: [] } }", "[] }", "OR106"),
        ("{ roles: { 'a b': [{ path: / }] } }", "'a b'", "OR112"),
        (
            "{ roles: { a: [{ path: / }] }, rules: [{ source: anonymous, action: allow, role: a, permissions: [{ path: / }] }] }",
            "role: a,",
            "OR114",
        ),
        ("{ rules: [{ source: anonymous, action: allow, claims: {} }] }", "{} }", "OR106"),
        ("{ rules: [{ source: anonymous, action: allow, claims: { role: [] } }] }", "[] }", "OR106"),
        ("{ rules: [{ source: anonymous, action: allow, claims: { role: 7 } }] }", "7", "OR107"),
        (
            "{ rules: [{ name: a, source: anonymous, action: allow }, { name: a, source: anonymous, action: deny, permissions: [{ path: / }] }] }",
            "{ name: a, source: anonymous, action: deny",
            "OR202",
        ),
        ("{ default_action: allow }", "allow", "OR322"),
        ("{ mode: audit }", "audit", "OR323"),
        ("{ rules: [{ source: web, action: deny }] }", "web", "OR321"),
        ("{ rules: [{ source: '*', action: allow }] }", "'*'", "OR321"),
        (
            "{ rules: [{ source: anonymous, action: allow, permissions: [{ path: / }] }, { source: anonymous, action: deny }] }",
            "{ source",
            "OR320",
        ),
    ];
    let found: Vec<String> = cases
        .iter()
        .map(|(section, ..)| found(&with(&format!("intentions: {section}\n"))).join(", "))
        .collect();
    let expected: Vec<String> = cases
        .iter()
        .map(|(section, wrong, code)| {
            format!("{code} 4:{}", "intentions: ".len() + section.find(wrong).expect("it is in it") + 1)
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn rules_about_callers_come_into_force_without_a_restart() {
    let old = valid(&with("intentions: { rules: [{ source: anonymous, action: allow }] }\n"));
    let (new, _) = parse(&with("intentions: { rules: [{ source: anonymous, action: deny }] }\n")).unwrap();
    let diff = Diff::between(&old, &new);
    assert_eq!((diff.changed, diff.restart_required), (vec!["intentions.rules".to_owned()], Vec::new()));
    // No section lets everybody pass, an empty one nobody.
    assert_eq!(Diff::between(&valid(&with("")), &valid(&with("intentions: {}"))).changed, ["intentions"]);
}

#[test]
fn mistakes_in_what_guards_endpoints_are_found_at_their_place() {
    // The section of a service, the part of it that is wrong, and the code.
    let cases = [
        ("circuit_breaker: { consecutive_errors: -1 }", "-1", "OR111"),
        ("circuit_breaker: { error_rate: { percent: 101 } }", "101", "OR111"),
        ("circuit_breaker: { error_rate: { min_requests: 0 } }", "0 }", "OR111"),
        ("circuit_breaker: { slow_calls: { percent: 80 } }", "{ percent", "OR106"),
        ("circuit_breaker: { half_open_requests: 33 }", "33", "OR111"),
        ("circuit_breaker: { open_time: 5 }", "5 }", "OR108"),
        ("circuit_breaker: { open_time: 9s, max_open_time: 1s }", "{ open_time", "OR111"),
        ("circuit_breaker: { max_failures: 3 }", "max_failures", "OR104"),
        ("circuit_breaker: 7", "7", "OR107"),
        ("outlier_detection: { max_ejection_percent: 101 }", "101", "OR111"),
        ("outlier_detection: { success_rate_stdev_factor: 1.9 }", "1.9", "OR111"),
        ("outlier_detection: { consecutive_5x: 3 }", "consecutive_5x", "OR104"),
        ("slow_start: 30", "30", "OR108"),
        ("zones: { mode: near }", "near", "OR109"),
        ("zones: { mode: local, min_endpoints: 6 }", "6", "OR114"),
        ("zones: { mode: weighted }", "{ mode", "OR106"),
        ("zones: { mode: weighted, weights: { eu-1: -1 } }", "-1 }", "OR111"),
        ("subset_fallback: every", "every", "OR109"),
        ("session_affinity: { ttl: 1h }", "{ ttl", "OR106"),
        ("session_affinity: { cookie: 'a b' }", "'a b'", "OR112"),
        ("session_affinity: { cookie: a, path: '/a;b' }", "'/a;b'", "OR112"),
    ];
    for (section, wrong, code) in cases {
        let service = format!("services: {{ a: {{ endpoints: [\"127.0.0.1:1\"], {section} }} }}");
        let routes = "routes: [{ service: a }]";
        let at = service.find(section).unwrap_or_default() + section.find(wrong).unwrap_or_default() + 1;
        assert_eq!(found(&with(&format!("{service}\n{routes}"))), [format!("{code} 4:{at}")], "{section}");
    }
}

#[test]
fn files_that_cannot_be_configurations_are_refused_quickly() {
    assert_eq!(found(""), ["OR106 1:1"]);
    assert_eq!(found(&" ".repeat(4 * 1024 * 1024 + 1)), ["OR100 1:1"]);
    assert_eq!(found(&("[".repeat(200) + &"]".repeat(200))), ["OR100 1:130"]);
    let text = config::Text::read("broken", &b"version: 1\n\xff"[..]).unwrap();
    let findings = config::load(&text, &ProcessEnvironment).unwrap_err();
    assert_eq!((findings.items()[0].code.id(), findings.items()[0].line), ("OR100", 2));
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_do_not_move_positions() {
    let text = format!("\u{feff}{}", with("wörkers: 1\n  \n").replace('\n', "\r\n"));
    assert_eq!(found(&text), ["OR104 4:1"]);
}

struct Secrets;

impl Environment for Secrets {
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "WORKERS" => Some("3".to_owned()),
            _ => Some("hunter2".to_owned()),
        }
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Ok("hunter2\n".to_owned())
    }
}

#[test]
fn substituted_values_are_used_and_never_shown() {
    let text = with(
        "workers: ${env:WORKERS}
routes:
  - service: api
    headers: { request: { set: { Authorization: \"Bearer ${file:/token}\", x-env: prod } } }
services: { api: { endpoints: [10.0.0.1:80], health_check: { path: \"/${env:PATH_SECRET}\" } } }
",
    );
    let (bundle, _) = config::parse("x", &text, &Secrets).unwrap();
    assert_eq!(bundle.workers, Some(3));
    assert_eq!(bundle.directory.routes[0].request_headers.set[0].1, "Bearer hunter2");
    let shown = config::effective_json(&bundle);
    assert!(!shown.to_string().contains("hunter2") && !format!("{bundle:?}").contains("Bearer"));
    assert_eq!(shown["routes"][0]["headers"]["request"]["set"]["x-env"], "prod");
    assert_eq!(shown["workers"], "***");
}

#[test]
fn a_token_is_never_shown_wherever_it_was_written_and_its_change_needs_a_restart() {
    let bundle =
        |token: &str| valid(&with(&format!("admin: {{ token: {token}, hosts: [Admin.Internal] }}\n")));
    let old = bundle("0123456789abcdef-old");
    let shown = config::effective_json(&old);
    assert_eq!(
        (&shown["admin"]["token"], &shown["admin"]["hosts"][0]),
        (&"***".into(), &"admin.internal".into())
    );
    assert!(
        !format!("{old:?}").contains("0123456789") && !config::effective_yaml(&old).contains("0123456789")
    );
    let diff = Diff::between(&old, &bundle("0123456789abcdef-new"));
    assert_eq!(diff.restart_required, ["admin.token"]);
    assert_eq!(diff.changed, diff.restart_required);
}

#[test]
fn a_wrong_substituted_value_is_reported_without_being_shown() {
    let text = with(
        "workers: ${env:A}
reload: { watch: \"${env:A}\", interval: \"${env:A}\" }
telemetry: { log: { level: \"${env:A}\", format: \"${env:A}\" }, access_log: { path: \"${env:A}\", sample: \"${env:A}\" } }
listeners: { max_header_size: \"${env:A}\", inbound: { address: \"${env:A}\" } }
routes: [{ service: \"${env:A}\" }]
services: { api: { endpoints: [\"${env:A}\"], health_check: { path: \"${env:A}\" } } }
",
    );
    let findings = config::parse("x", &text, &Secrets).unwrap_err();
    assert_eq!(findings.items().len(), 12);
    assert!(!findings.render_text(Style::Plain).contains("hunter2"));
    assert!(!findings.to_json().to_string().contains("hunter2"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        if let Err(findings) = parse(&text) {
            prop_assert!(!findings.render_text(Style::Plain).is_empty());
            prop_assert!(findings.to_json().is_object());
        }
    }

    #[test]
    fn text_made_of_yaml_signs_never_panics(text in "[-a:{}\\[\\]\"'#&*!|>%@ü\t\r\n ]{0,60}") {
        if let Err(findings) = parse(&text) {
            prop_assert!(!findings.render_text(Style::Plain).is_empty());
        }
    }

    #[test]
    fn mutations_of_the_reference_never_panic(
        edits in prop::collection::vec((0..REFERENCE.len(), 0..40_usize, "[-a:{}\\[\\]\"'#&*ü0-9\r\n ]{0,8}"), 1..6),
    ) {
        let mut text = REFERENCE.to_owned();
        for (at, length, insert) in edits {
            let boundary = |at: usize| (at.min(text.len())..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap();
            let (start, end) = (boundary(at), boundary(at + length));
            text.replace_range(start..end, &insert);
        }
        if let Err(findings) = parse(&text) {
            prop_assert!(!findings.render_text(Style::Plain).is_empty());
        }
    }
}

#[test]
fn keys_of_tls_that_would_have_no_effect_are_refused() {
    let service =
        |tls: &str| with(&format!("services: {{ api: {{ endpoints: [127.0.0.1:9], tls: {tls} }} }}\n"));
    for good in [
        "{ mode: disabled }",
        "{ mode: mesh }",
        "{ mode: simple, server_name: api.example }",
        "{ mode: mutual, cert_file: /a.pem, key_file: /a.key, min_version: tls1.3 }",
    ] {
        assert_eq!(found(&service(good)), Vec::<String>::new(), "{good}");
    }
    for (wrong, codes) in [
        ("{ server_name: a }", vec!["OR106 4:51"]),
        ("{ mode: disabled, ca_file: /a.pem }", vec!["OR114 4:78"]),
        ("{ mode: simple, key_file: /a.key }", vec!["OR114 4:77"]),
        ("{ mode: mutual, cert_file: /a.pem }", vec!["OR106 4:51"]),
        ("{ mode: simple, ca_file: a.pem }", vec!["OR112 4:76"]),
        ("{ mode: simple, min_version: tls1.1 }", vec!["OR109 4:80"]),
    ] {
        assert_eq!(found(&service(wrong)), codes, "{wrong}");
    }
}

#[test]
fn an_issuer_of_tokens_must_be_one_that_can_be_verified() {
    let issuer = |keys: &str| with(&format!("intentions: {{ jwt: [{{ issuer: a, {keys} }}] }}\n"));
    for good in [
        "jwks_file: /keys.json",
        "secret_file: /secret, required: true, forward_claims: { sub: x-user }",
        "jwks_url: 'https://idp.example:8443/keys?x=1', jwks_refresh: 1s, ca_file: /ca.pem",
        "jwks_url: 'http://127.0.0.1:9/keys'",
        "jwks_url: 'http://[::1]:9/keys'",
    ] {
        assert_eq!(found(&issuer(good)), Vec::<String>::new(), "{good}");
    }
    for (wrong, code) in [
        ("required: true", "OR114"),
        ("jwks_file: /a, secret_file: /b", "OR114"),
        ("jwks_file: a.json", "OR112"),
        ("jwks_file: /a, jwks_refresh: 5m", "OR114"),
        ("jwks_url: 'http://idp.example/keys'", "OR112"),
        ("jwks_url: 'http://127.0.0.1/keys', ca_file: /ca.pem", "OR114"),
        ("jwks_url: 'https://user:pass@idp.example/keys'", "OR112"),
        ("jwks_url: 'ftp://idp.example/keys'", "OR112"),
        ("jwks_url: '/keys'", "OR112"),
        ("jwks_url: 'https://idp.example/', jwks_refresh: 10ms", "OR111"),
        ("jwks_file: /a, leeway: 2h", "OR111"),
        ("jwks_file: /a, forward_claims: { sub: host }", "OR212"),
        ("jwks_file: /a, forward_claims: { sub: authorization }", "OR212"),
        ("jwks_file: /a, forward_claims: { sub: x-outrigger-user }", "OR212"),
        ("jwks_file: /a, forward_claims: { sub: x-a, aud: X-A }", "OR103"),
    ] {
        let codes: Vec<String> = found(&issuer(wrong)).iter().map(|found| found[..5].to_owned()).collect();
        assert_eq!(codes, [code], "{wrong}");
    }
    let twice = with("intentions: { jwt: [{ issuer: a, jwks_file: /a }, { issuer: a, jwks_file: /b }] }\n");
    assert_eq!(found(&twice), ["OR202 4:61"]);
}

#[test]
fn what_is_demanded_of_requests_cannot_be_demanded_of_bytes() {
    let text = "\
version: 1
service: { name: db, address: 127.0.0.1:5432, protocol: tcp }
mtls: { mode: disabled }
intentions:
  jwt: [{ issuer: https://idp.example, audiences: [db], jwks_file: /etc/jwks.json }]
  ext_authz: { service: authz }
services: { authz: { endpoints: [127.0.0.1:9] } }
";
    let expected = "\
error[OR241]: `intentions.jwt` is about requests, and the application takes bytes
 --> outrigger.yaml:5:3
  |
2 | service: { name: db, address: 127.0.0.1:5432, protocol: tcp }
  |                                                         --- so nobody reads what it is sent
...
5 |   jwt: [{ issuer: https://idp.example, audiences: [db], jwks_file: /etc/jwks.json }]
  |   ^^^ cannot be enforced
  |
  = help: remove it, or say what the application speaks, if that is HTTP

error[OR241]: `intentions.ext_authz` is about requests, and the application takes bytes
 --> outrigger.yaml:6:3
  |
2 | service: { name: db, address: 127.0.0.1:5432, protocol: tcp }
  |                                                         --- so nobody reads what it is sent
...
6 |   ext_authz: { service: authz }
  |   ^^^^^^^^^ cannot be enforced
  |
  = help: remove it, or say what the application speaks, if that is HTTP

outrigger.yaml: 2 errors
";
    let findings = parse(text).unwrap_err();
    assert_eq!(findings.render_text(Style::Plain), expected);
    for protocol in ["auto", "http1", "http2"] {
        assert_eq!(found(&text.replace("protocol: tcp", &format!("protocol: {protocol}"))), [""; 0]);
    }
}

#[test]
fn a_service_that_is_asked_must_be_one_that_can_answer() {
    let services =
        "services: { db: { endpoints: [127.0.0.1:9], protocol: tcp }, api: { endpoints: [127.0.0.1:8] } }";
    let asked = |keys: &str| with(&format!("{services}\nintentions: {{ ext_authz: {{ {keys} }} }}\n"));
    assert_eq!(found(&asked("service: api, path: /check/, fail_open: true")), Vec::<String>::new());
    for (wrong, code) in [
        ("path: /check", "OR106"),
        ("service: apii", "OR201"),
        ("service: db", "OR230"),
        ("service: api, timeout: 0s", "OR111"),
        ("service: api, upstream_headers: [content-length]", "OR212"),
        ("service: api, request_headers: [x-outrigger-flag]", "OR212"),
    ] {
        let codes: Vec<String> = found(&asked(wrong)).iter().map(|found| found[..5].to_owned()).collect();
        assert_eq!(codes, [code], "{wrong}");
    }
}
