//! The command as far as it changes nothing: what it prints, what it takes from a configuration, what it refuses.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: IptablesArgs,
}

/// What the command says, and its warnings.
fn outcome(line: &str) -> (Result<String, String>, Vec<String>) {
    let args = match Line::try_parse_from(std::iter::once("iptables").chain(line.split_whitespace())) {
        Ok(line) => line.args,
        Err(error) => return (Err(error.to_string()), Vec::new()),
    };
    let mut warnings = Vec::new();
    let said =
        run(&args.action, &mut warnings).map_err(|failure| format!("{}: {}", failure.code, failure.text));
    (said, warnings)
}

fn printed(line: &str) -> String {
    outcome(&format!("print {line}")).0.unwrap()
}

/// [`outcome`] of printing with a configuration in a file of its own.
fn with_config(listeners: &str, line: &str) -> (Result<String, String>, Vec<String>) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("outrigger-iptables-{}-{number}.yaml", std::process::id()));
    let text = format!(
        "version: 1\nservice: {{ name: web, address: 127.0.0.1:8080 }}\nmtls: {{ mode: disabled }}\n{listeners}\n"
    );
    std::fs::write(&file, text).unwrap();
    let said = outcome(&format!("print {line} -c {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    said
}

#[test]
fn both_families_are_printed_each_with_its_tool() {
    let text = printed("");
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(heads, ["# IPv4: iptables-restore --noflush", "# IPv6: ip6tables-restore --noflush"]);
    assert_eq!(
        text.matches("*nat\n:OUTRIGGER_INBOUND - [0:0]\n:OUTRIGGER_OUTBOUND - [0:0]\n").count(),
        2,
        "{text}"
    );
    assert_eq!(text.matches("-A OUTPUT -p tcp -j OUTRIGGER_OUTBOUND\nCOMMIT\n").count(), 2, "{text}");
    assert!(!printed("--no-ipv6").contains("ip6tables"));
}

#[test]
fn nft_is_printed_on_request() {
    assert!(printed("--nft").starts_with("table inet outrigger {}\ndelete table inet outrigger\n"));
}

#[test]
fn flags_change_the_rules() {
    let text = printed("--uid 4242 --inbound-ports 8080 --skip-outbound 3306 --skip-inbound 9090");
    assert!(text.contains("--uid-owner 4242") && !text.contains("1337"), "{text}");
    assert!(
        text.contains("--dports 8080 -j REDIRECT") && text.contains("3306") && text.contains("9090"),
        "{text}"
    );
}

#[test]
fn ports_come_from_the_configuration_and_are_left_alone_themselves() {
    let listeners = "listeners: { transparent: true, inbound: { address: \"0.0.0.0:6\" }, outbound: { address: 127.0.0.1:1 }, tcp: [{ name: db, address: 127.0.0.1:5, service: db }] }\n\
                     services: { db: { protocol: tcp, endpoints: [10.0.0.9:5432] } }\n\
                     admin: { address: 127.0.0.1:3, metrics_address: \"0.0.0.0:4\" }";
    let (said, warnings) = with_config(listeners, "--no-ipv6");
    let text = said.unwrap();
    assert!(
        text.contains("-j REDIRECT --to-ports 6\n") && text.contains("-j REDIRECT --to-ports 1\n"),
        "{text}"
    );
    assert!(text.contains("--dports 1,3:6,22,"), "{text}");
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn a_sidecar_that_is_not_transparent_is_warned_of() {
    let (said, warnings) = with_config("", "");
    assert!(said.is_ok());
    assert!(warnings[0].contains("`listeners.transparent` is false"), "{warnings:?}");
}

#[test]
fn a_listener_that_is_switched_off_gets_nothing() {
    let (said, _) = with_config("listeners: { transparent: true, inbound: { enabled: false } }", "");
    assert!(!said.unwrap().contains("PREROUTING"));
}

#[test]
fn a_listener_that_redirected_connections_do_not_reach_is_refused() {
    for (listeners, said) in [
        (
            "inbound: { address: 127.0.0.1:15006 }",
            "do not reach `listeners.inbound.address`, 127.0.0.1:15006",
        ),
        (
            "outbound: { address: 10.0.0.5:15001 }",
            "do not reach `listeners.outbound.address`, 10.0.0.5:15001",
        ),
        ("inbound: { address: \"0.0.0.0:0\" }", "has port 0"),
    ] {
        let (refused, _) = with_config(&format!("listeners: {{ transparent: true, {listeners} }}"), "");
        let text = refused.unwrap_err();
        assert!(text.starts_with("1: error: ") && text.contains(said) && text.contains("\nhint: "), "{text}");
    }
}

#[test]
fn an_invalid_configuration_and_a_missing_one_have_codes_of_their_own() {
    let (said, _) = with_config("nonsense: 1", "");
    let text = said.unwrap_err();
    assert!(text.starts_with("3: ") && text.contains("error[OR104]") && text.contains("\nhint: "), "{text}");
    let (said, _) = outcome("print -c /nowhere/outrigger.yaml");
    assert!(said.unwrap_err().starts_with("1: error: cannot read /nowhere/outrigger.yaml"));
}

#[test]
fn ports_that_are_none_are_wrong_usage() {
    let (said, _) = outcome("print --skip-outbound http");
    assert!(said.unwrap_err().contains("`http` is no port"));
    assert!(outcome("apply --ipv6 --no-ipv6").0.unwrap_err().contains("cannot be used with"));
}
