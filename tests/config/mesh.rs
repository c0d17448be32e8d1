//! The section `mesh`, and services that are found there.

use std::{io, path::Path};

use outrigger::{
    config::{self, Bundle, Diff, Environment, Style},
    membership::{GossipKey, Profile, Seed},
    policy::balance::BalanceParams,
    snapshot::{EndpointSource, Protocol, UpstreamTlsParams},
};

use super::{REFERENCE, found, parse, strip, valid, with};

/// Some key.
fn key() -> String {
    "0123456789abcdef".repeat(4)
}

/// The text of a configuration with a mesh, and `more` after it.
fn with_mesh(more: &str) -> String {
    with(&format!("mesh: {{ node: web-1, gossip_key: {}, data_dir: none }}\n{more}", key()))
}

/// The configuration that a reload or another sidecar would read from what this one shows, but for the key.
fn again(bundle: &Bundle) -> Bundle {
    let shown = config::effective_yaml(bundle);
    assert!(!shown.contains(&key()), "{shown}");
    valid(&shown.replace("gossip_key: '***'", &format!("gossip_key: {}", key())))
}

#[test]
fn the_mesh_of_reference_yaml_is_one_and_its_values_are_the_defaults_of_the_code() {
    let section: String = REFERENCE
        .lines()
        .skip_while(|line| !line.starts_with("# mesh:"))
        .take_while(|line| !line.is_empty())
        .map(|line| format!("{}\n", &line[2..]))
        .collect();
    let text = with(&section.replace("${file:/etc/outrigger/gossip.key}", &key()));
    let bundle = valid(&text);
    let mesh = bundle.mesh.as_ref().expect("it is there");
    assert_eq!((&*mesh.node, mesh.advertise_endpoint), ("web-1", "10.0.0.9:15006".parse().ok()));
    let mut stripped: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    strip(&mut stripped, &["mesh"], &["cluster", "bind", "profile", "weight"]);
    let stripped = valid(&serde_yaml::to_string(&stripped).unwrap());
    assert_eq!(Diff::between(&bundle, &stripped), Diff::default());
    assert_eq!(again(&bundle).mesh, bundle.mesh);
}

struct Machine(&'static str);

impl Environment for Machine {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        Ok(if path.ends_with("hostname") { format!("{}\n", self.0) } else { format!("{}\n", key()) })
    }
}

#[test]
fn mesh_yaml_needs_no_address_of_any_instance() {
    let text = include_str!("../../config/mesh.yaml");
    let (bundle, warnings) = config::parse("mesh.yaml", text, &Machine("web-7")).unwrap();
    assert!(warnings.is_empty(), "{}", warnings.render_text(Style::Plain));
    let mesh = bundle.mesh.as_ref().expect("it is there");
    assert_eq!((&*mesh.node, &*mesh.cluster, mesh.profile), ("web-7", "default", Profile::Lan));
    assert_eq!(mesh.key, GossipKey::parse(&key()).unwrap());
    let [api] = bundle.directory.clusters.as_slice() else { unreachable!("only one is named") };
    assert_eq!((&*api.name, &api.source, &api.tls), ("api", &EndpointSource::Mesh, &UpstreamTlsParams::Mesh));
}

#[test]
fn a_node_is_called_like_its_machine_unless_that_is_no_name() {
    let text = with(&format!("mesh: {{ gossip_key: {}, data_dir: none }}", key()));
    let findings = config::parse("x", &text, &Machine("my laptop")).unwrap_err();
    assert_eq!(
        findings.render_text(Style::Plain).lines().next(),
        Some("error[OR106]: `node` is missing in `mesh`")
    );
}

#[test]
fn members_to_join_are_addresses_names_and_service_records() {
    let text = with_mesh("").replace(
        "data_dir: none",
        "data_dir: none, join: ['10.0.0.1:7946', '[::1]:7946', 'Seed.internal:7', 'dns+srv:_mesh._tcp.Example.com']",
    );
    let bundle = valid(&text);
    let address = |text: &str| Seed::Address(text.parse().unwrap());
    assert_eq!(
        bundle.mesh.as_ref().map(|mesh| mesh.join.clone()).unwrap_or_default(),
        [
            address("10.0.0.1:7946"),
            address("[::1]:7946"),
            Seed::Name { name: "seed.internal".into(), port: 7 },
            Seed::Service { name: "_mesh._tcp.example.com".into() },
        ]
    );
    assert_eq!(again(&bundle).mesh, bundle.mesh);
}

#[test]
fn mistakes_in_the_mesh_are_found_at_their_place() {
    // What stands in the section beside node, key and directory, the part of it that is wrong, and the code.
    let cases = [
        ("cluster: a b", "a b", "OR112"),
        ("bind: localhost:7946", "localhost", "OR112"),
        ("bind: '127.0.0.1:15001'", "'127", "OR207"),
        ("advertise: '10.0.0.1:0'", "'10", "OR112"),
        ("advertise: '0.0.0.0:7946'", "'0.", "OR112"),
        ("advertise_endpoint: '[::]:15006'", "'[", "OR112"),
        ("join: 10.0.0.1:7946", "10.", "OR107"),
        ("join: [seed]", "seed", "OR112"),
        ("join: ['10.0.0.1:0']", "'10", "OR112"),
        ("join: ['10.0.0.1']", "'10", "OR112"),
        ("join: ['dns+srv:mesh.example']", "'dns", "OR112"),
        ("join: ['https://seed:1']", "'https", "OR112"),
        ("profile: fast", "fast", "OR109"),
        ("weight: 0", "0", "OR111"),
        ("weight: 1001", "1001", "OR111"),
        ("retry_join: [a]", "retry_join", "OR104"),
    ];
    for (section, wrong, code) in cases {
        let mesh = format!("mesh: {{ gossip_key: {}, data_dir: none, node: web-1, {section} }}", key());
        let at = mesh.rfind(section).unwrap_or_default() + section.find(wrong).unwrap_or_default() + 1;
        assert_eq!(found(&with(&mesh)), [format!("{code} 4:{at}")], "{section}");
    }
    assert_eq!(found(&with_mesh("").replace("web-1", "'web 1'")), ["OR112 4:15"]);
    assert_eq!(found(&with_mesh("").replace("data_dir: none", "data_dir: ''")), ["OR112 4:110"]);
    assert_eq!(found(&with_mesh("").replace(", data_dir: none", "")), ["OR307 4:7"]);
    let unreachable = with_mesh("listeners: { inbound: { enabled: false } }")
        .replace("data_dir: none", "data_dir: none, advertise_endpoint: '10.0.0.1:1'");
    assert_eq!(found(&unreachable), ["OR304 4:136"]);
}

#[test]
fn a_missing_key_is_explained_and_a_wrong_one_not_shown() {
    let expected = "\
error[OR106]: `gossip_key` is missing in `mesh`
 --> outrigger.yaml:4:7
  |
4 | mesh: { node: web-1, data_dir: none }
  |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ what members tell each other is encrypted
  |
  = help: `outrigger keyring generate > /etc/outrigger/gossip.key` makes one, which all members need; name it as `gossip_key: ${file:/etc/outrigger/gossip.key}`

outrigger.yaml: 1 error
";
    let findings = parse(&with("mesh: { node: web-1, data_dir: none }\n")).unwrap_err();
    assert_eq!(findings.render_text(Style::Plain), expected);
    for wrong in ["hunter2", "[a]", "\"\"", "12"] {
        let text = with(&format!("mesh: {{ node: web-1, data_dir: none, gossip_key: {wrong} }}\n"));
        let findings = parse(&text).unwrap_err();
        let [item] = findings.items() else {
            unreachable!("one finding: {}", findings.render_text(Style::Plain))
        };
        assert_eq!((item.code.id(), item.line, item.column), ("OR112", 4, 50));
        assert_eq!(item.message, "`gossip_key` is no gossip key");
    }
    // Digits without letters are a number to YAML.
    let digits = "1234567890".repeat(6) + "1234";
    assert!(valid(&with_mesh("").replace(&key(), &digits)).mesh.is_some());
}

#[test]
fn who_is_only_named_is_found_in_the_mesh() {
    let bundle = valid(&with_mesh(
        "
defaults: { connect_timeout: 2s }
routes:
  - { service: api, mirror: { service: shadow, percent: 5 } }
  - { match: { path: /split }, split: [{ service: a, weight: 1 }, { service: api, weight: 1, subset: { version: v2 } }] }
  - { match: { methods: [CONNECT] }, service: ledger }
listeners: { tcp: [{ name: db, address: '127.0.0.1:15432', service: postgres }] }
intentions: { ext_authz: { service: judge } }
services:
  shadow: { dns: 'shadow.internal:80' }
  policy: { slow_start: 30s }
",
    ));
    let services: Vec<(&str, bool, Protocol)> = bundle
        .directory
        .clusters
        .iter()
        .map(|one| (&*one.name, one.source == EndpointSource::Mesh, one.protocol))
        .collect();
    assert_eq!(
        services,
        [
            ("shadow", false, Protocol::Auto),
            ("policy", true, Protocol::Auto),
            ("api", true, Protocol::Auto),
            ("a", true, Protocol::Auto),
            ("ledger", true, Protocol::Tcp),
            ("postgres", true, Protocol::Tcp),
            ("judge", true, Protocol::Auto),
        ]
    );
    let cluster = |name: &str| bundle.directory.clusters.iter().find(|one| &*one.name == name).unwrap();
    assert_eq!(cluster("api").connect_timeout, std::time::Duration::from_secs(2));
    assert_eq!(cluster("postgres").balance, BalanceParams::LeastRequest { full_scan: false });
    assert_eq!(Diff::between(&bundle, &again(&bundle)), Diff::default());
    // Said or not, it is the same.
    let said = valid(&with_mesh("routes: [{ service: api }]\nservices: { api: {} }"));
    assert_eq!(Diff::between(&said, &valid(&with_mesh("routes: [{ service: api }]"))), Diff::default());
}

#[test]
fn mistakes_about_services_of_the_mesh_are_found_at_their_place() {
    let cases = [
        ("services: { api: { dns_refresh: 5s } }", "OR114 5:33"),
        ("services: { api: { tls: { mode: simple } } }", "OR114 5:25"),
        ("services: { api: { endpoints: [] } }", "OR106 5:31"),
        (
            "listeners: { tcp: [{ name: db, address: '127.0.0.1:1', service: db }] }\nroutes: [{ service: db }]",
            "OR230 5:65",
        ),
    ];
    for (more, expected) in cases {
        assert_eq!(found(&with_mesh(more)), [expected], "{more}");
    }
    // Without a mesh, or where it is only misspelt, all of them need addresses.
    assert_eq!(found(&with("routes: [{ service: api }]\n")), ["OR201 4:21"]);
    assert_eq!(found(&with("mesch: {}\nservices: { api: {} }\n")), ["OR104 4:1", "OR114 5:18"]);
    // A mistake in the section is told once, not again for each service.
    assert_eq!(
        found(&with("mesh: { node: a, data_dir: none }\nroutes: [{ service: api }]\n")),
        ["OR106 4:7"]
    );
}

#[test]
fn all_of_the_mesh_but_the_weight_needs_a_restart() {
    let old = valid(&with_mesh(""));
    let new = with_mesh("").replace("web-1", "web-2").replace("0123", "4567");
    let new = valid(&new.replace("data_dir: none", "data_dir: none, weight: 3"));
    let diff = Diff::between(&old, &new);
    assert_eq!(diff.changed, ["mesh.gossip_key", "mesh.node", "mesh.weight"]);
    assert_eq!(diff.restart_required, ["mesh.gossip_key", "mesh.node"]);
    let applied = new.with_restart_keys_of(&old);
    assert_eq!(Diff::between(&old, &applied).changed, ["mesh.weight"]);
    let without = valid(&with(""));
    assert_eq!(Diff::between(&without, &old).restart_required, ["mesh"]);
    assert!(old.with_restart_keys_of(&without).mesh.is_none());
}

#[test]
fn the_key_is_shown_nowhere() {
    let bundle = valid(&with_mesh(""));
    assert_eq!(config::effective_json(&bundle)["mesh"]["gossip_key"], "***");
    assert!(!format!("{bundle:?}").contains(&key()));
    assert!(!config::effective_yaml(&bundle).contains(&key()));
}
