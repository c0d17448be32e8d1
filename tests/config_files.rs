//! The configuration files that ship, and what `outrigger check` says about broken ones.

use outrigger::config::{self, ProcessEnvironment, Style};

#[test]
fn minimal_yaml_parses_without_warnings() {
    let text = include_str!("../config/minimal.yaml");
    let (bundle, findings) = config::parse("minimal.yaml", text, &ProcessEnvironment)
        .unwrap_or_else(|findings| panic!("{}", findings.render_text(Style::Plain)));
    assert!(findings.is_empty());
    assert_eq!(&*bundle.directory.routes[0].name, "api-1");
}
