//! `store.backend: etcd`.

#[cfg(feature = "etcd")]
use std::time::Duration;

#[cfg(feature = "etcd")]
use outrigger::{
    config,
    store::{Backend, EtcdParams},
};

#[cfg(feature = "etcd")]
use super::{Bundle, REFERENCE, valid};
use super::{found, with};

#[cfg(not(feature = "etcd"))]
#[test]
fn a_binary_without_etcd_says_so_and_names_the_feature() {
    let text = with("store: { backend: etcd, etcd: { endpoints: [\"http://10.0.0.1:2379\"] } }");
    assert_eq!(found(&text), ["OR219 4:19"]);
    let errors = super::parse(&text).unwrap_err();
    let told = errors.render_text(super::Style::Plain);
    assert!(told.contains("cargo feature `etcd`") && told.contains("--features etcd"), "{told}");
}

#[test]
fn a_store_without_mesh_is_refused_unless_etcd_keeps_it() {
    assert_eq!(found(&with("store: { backend: embedded, mode: client }")), ["OR106 4:8"]);
    assert_eq!(found(&with("store: { backend: consul }")), ["OR106 4:8", "OR109 4:19"]);
}

#[cfg(feature = "etcd")]
fn etcd(bundle: &Bundle) -> &EtcdParams {
    match bundle.store.as_ref().map(|store| &store.backend) {
        Some(Backend::Etcd(params)) => params,
        other => unreachable!("{other:?}"),
    }
}

#[cfg(feature = "etcd")]
#[test]
fn an_etcd_needs_endpoints_alone() {
    let bundle = valid(&with("store: { backend: etcd, etcd: { endpoints: [\"http://10.0.0.1:2379\"] } }"));
    let params = etcd(&bundle);
    assert_eq!(params.endpoints, ["http://10.0.0.1:2379".into()]);
    assert_eq!((&*params.prefix, params.timeout), ("outrigger/default/", Duration::from_secs(3)));
    assert!(params.login.is_none() && params.tls.is_none());
    let key = "0123456789abcdef".repeat(4);
    let mesh = format!("mesh: {{ node: a, cluster: shop, gossip_key: {key}, data_dir: none }}");
    let bundle = valid(&with(&format!(
        "{mesh}\nstore: {{ backend: etcd, etcd: {{ endpoints: [\"http://e:2379\"] }} }}"
    )));
    assert_eq!(&*etcd(&bundle).prefix, "outrigger/shop/");
}

#[cfg(feature = "etcd")]
#[test]
fn what_is_shown_of_an_etcd_means_the_same_and_no_password_is_in_it() {
    let section = "store:\n  backend: etcd\n  data_dir: /var/lib/outrigger\n  etcd:\n    endpoints: [\"https://[::1]:2379\", \"https://e:1\"]\n    prefix: a/b\n    username: me\n    password: secret-word\n    timeout: 500ms\n    tls: { ca: /ca.pem, cert: /own.pem, key: /own.key, server_name: etcd.local }\n";
    let bundle = valid(&with(section));
    assert_eq!(&*etcd(&bundle).prefix, "a/b/");
    let shown = config::effective_yaml(&bundle);
    assert!(!shown.contains("secret-word"), "{shown}");
    let again = valid(&shown.replace("'***'", "secret-word"));
    assert_eq!(again.store, bundle.store);
}

#[cfg(feature = "etcd")]
#[test]
fn the_etcd_of_reference_yaml_is_one() {
    let is_of_it = |line: &&str| line.starts_with("#   # etcd:") || line.starts_with("#   #   ");
    let lines = REFERENCE.lines().skip_while(|line| !line.starts_with("#   # etcd:"));
    let section: String = lines.take_while(is_of_it).map(|line| format!("  {}\n", &line[6..])).collect();
    let bundle =
        valid(&with(&format!("store:\n  backend: etcd\n{section}").replace("username", "# username")));
    assert_eq!(
        (&*etcd(&bundle).prefix, etcd(&bundle).timeout),
        ("outrigger/default/", Duration::from_secs(3))
    );
}

#[cfg(feature = "etcd")]
#[test]
fn mistakes_about_etcd_are_found_at_their_place() {
    let cases = [
        ("etcd: {}", "OR106 6:9"),
        ("etcd: { endpoints: [] }", "OR112 6:22"),
        ("etcd: { endpoints: [\"10.0.0.1:2379\"] }", "OR112 6:23"),
        ("etcd: { endpoints: [\"http://10.0.0.1\"] }", "OR112 6:23"),
        ("etcd: { endpoints: [\"http://me:pw@e:1\"] }", "OR112 6:23"),
        ("etcd: { endpoints: [\"http://e:1/path\"] }", "OR112 6:23"),
        ("etcd: { endpoints: [\"http://e:1\", \"https://e:1\"] }", "OR112 6:22"),
        ("etcd: { endpoints: [\"https://e:1\"] }", "OR106 6:22"),
        ("etcd: { endpoints: [\"http://e:1\"], tls: { ca: /ca.pem } }", "OR114 6:43"),
        ("etcd: { endpoints: [\"https://e:1\"], tls: { ca: /ca.pem, cert: /c.pem } }", "OR106 6:65"),
        ("etcd: { endpoints: [\"http://e:1\"], username: me }", "OR106 6:48"),
        ("etcd: { endpoints: [\"http://e:1\"], timeout: 1ms }", "OR111 6:47"),
        ("etcd: { endpoints: [\"http://e:1\"], prefix: \"\" }", "OR112 6:46"),
        ("etcd: { endpoints: [\"http://e:1\"], user: me }", "OR104 6:38"),
        ("etcd: { endpoints: [\"http://e:1\"] }\n  mode: server", "OR304 7:9"),
    ];
    for (section, expected) in cases {
        let text = with(&format!("store:\n  backend: etcd\n  {section}\n"));
        assert_eq!(found(&text), [expected], "{section}");
    }
    let embedded = with("store:\n  backend: embedded\n  etcd: { endpoints: [\"http://e:1\"] }\n");
    assert!(found(&embedded).iter().any(|one| one.ends_with(" 6:9")), "{:?}", found(&embedded));
}
