//! Rules about callers that prove who they are: exact names, prefixes, everybody, nobody; and a change of the rules on
//! open connections.

use serde_json::{Value, json};

use crate::{
    mtls::{Pair, lines, proving},
    support::{
        App, Client, Sidecar,
        authority::{Authority, Folder},
        get,
        sidecar::with,
        tls::Dialer,
    },
    tcp::{address, echo, line},
};

const DECISIONS: &str = "outrigger_authz_decisions_total";

fn rules(rules: &[(&str, &str)]) -> Value {
    let rule = |(source, action): &(&str, &str)| json!({ "source": source, "action": action });
    json!({ "intentions": { "rules": rules.iter().map(rule).collect::<Vec<_>>() } })
}

/// Whether services of these names are let in by rules.
async fn let_in(mode: &str, rules: Value, callers: &[Option<&str>]) -> Vec<bool> {
    let app = App::saying("hello").await;
    let authority = Authority::new("mesh");
    let folder = Folder::of(&authority, "api");
    let own = json!({ "service": { "address": app.endpoint(), "protocol": "http1" } });
    let sidecar = Sidecar::start(with(proving("api", &folder, mode, own), rules)).await;
    let mut answers = Vec::new();
    for caller in callers {
        let answer = match caller {
            Some(name) => {
                let dialer = Dialer::showing(&authority.service(name));
                dialer.http1(sidecar.inbound()).await.get("api", "/").await
            }
            None => get(sidecar.inbound(), "api", "/").await,
        };
        assert!(matches!(answer.status, 200 | 403), "{answer:?}");
        assert_eq!(answer.flag(), if answer.status == 403 { "denied" } else { "" });
        answers.push(answer.status == 200);
    }
    assert_eq!(app.requests().len(), answers.iter().filter(|allowed| **allowed).count());
    answers
}

#[tokio::test]
async fn a_caller_is_let_in_by_its_name() {
    let callers = [Some("web"), Some("web-2"), Some("we"), Some("WEB")];
    assert_eq!(let_in("strict", rules(&[("web", "allow")]), &callers).await, [true, false, false, false]);
    let whole = rules(&[("spiffe://mesh.local/service/web", "allow")]);
    assert_eq!(let_in("strict", whole, &callers).await, [true, false, false, false]);
}

#[tokio::test]
async fn a_prefix_and_everybody_match_names_and_not_nobody() {
    let callers = [Some("batch-1"), Some("batch-"), Some("batch"), Some("web"), None];
    let prefix = rules(&[("batch-*", "allow")]);
    assert_eq!(let_in("permissive", prefix, &callers).await, [true, true, false, false, false]);
    let everybody = rules(&[("*", "allow")]);
    assert_eq!(let_in("permissive", everybody, &callers).await, [true, true, true, true, false]);
    let nobody = rules(&[("anonymous", "allow")]);
    assert_eq!(let_in("permissive", nobody, &callers).await, [false, false, false, false, true]);
}

#[tokio::test]
async fn a_rule_that_denies_wins_over_all_that_allow() {
    let callers = [Some("web"), Some("batch-1"), Some("batch-2")];
    for order in [
        rules(&[("batch-*", "deny"), ("*", "allow"), ("batch-1", "allow")]),
        rules(&[("batch-1", "allow"), ("*", "allow"), ("batch-*", "deny")]),
    ] {
        assert_eq!(let_in("strict", order, &callers).await, [true, false, false]);
    }
}

#[tokio::test]
async fn a_change_of_the_rules_denies_the_next_request_on_an_open_connection() {
    let app = App::saying("hello").await;
    let mut pair = Pair::start(&app).await;
    let mut through = Client::connect(pair.web.outbound()).await;
    let dialer = Dialer::showing(&pair.authority.service("batch"));
    let mut direct = dialer.http1(pair.api.inbound()).await;
    let direct_h2 = dialer.http2(pair.api.inbound()).await;
    assert_eq!(through.get("api", "/").await.status, 200);
    assert_eq!(direct.get("api", "/").await.status, 200);
    assert_eq!(direct_h2.get("api", "/").await.expect("an answer").status, 200);
    pair.api.edit(rules(&[("web", "deny"), ("batch", "deny"), ("*", "allow")]));
    assert_eq!(pair.api.reload().await.0, 200);
    let refused = through.get("api", "/").await;
    assert_eq!((refused.status, refused.flag()), (403, "denied"));
    assert_eq!(direct.get("api", "/").await.status, 403);
    assert_eq!(direct_h2.get("api", "/").await.expect("an answer").status, 403);
    assert_eq!(app.requests().len(), 3);
    // The connection between the sidecars is the one from before, and good for what is allowed again.
    pair.api.edit(rules(&[("*", "allow")]));
    assert_eq!(pair.api.reload().await.0, 200);
    assert_eq!(through.get("api", "/").await.text(), "hello");
    assert_eq!(direct.get("api", "/").await.text(), "hello");
    assert_eq!(pair.web.metric("outrigger_tls_handshakes_total", &["direction=\"outbound\""]).await, 1.0);
    let denied = ["source=\"web\"", "action=\"deny\"", "reason=\"intention\""];
    assert_eq!(pair.api.metric(DECISIONS, &denied).await, 1.0);
}

#[tokio::test]
async fn an_audit_denies_no_identity_and_counts_those_it_would() {
    let app = App::saying("hello").await;
    let audit = with(rules(&[("web", "deny"), ("*", "allow")]), json!({ "intentions": { "mode": "audit" } }));
    let pair = Pair::start_with(&app, json!({}), audit).await;
    let mut client = Client::connect(pair.web.outbound()).await;
    for _ in 0..3 {
        assert_eq!(client.get("api", "/").await.text(), "hello");
    }
    let denied = ["source=\"web\"", "action=\"audit_deny\"", "reason=\"intention\""];
    assert_eq!(pair.api.metric(DECISIONS, &denied).await, 3.0);
    assert_eq!(pair.api.metric(DECISIONS, &["action=\"deny\""]).await, 0.0);
    assert!(!lines(&pair.api, "a caller would be refused").is_empty());
}

#[tokio::test]
async fn a_caller_of_bytes_is_denied_before_the_application_is_dialed() {
    let app = echo().await;
    let service = json!({ "protocol": "tcp" });
    let listener = json!([{ "name": "db", "address": "127.0.0.1:0", "service": "api" }]);
    let over = json!({ "routes": [], "services": { "api": service }, "listeners": { "tcp": listener } });
    let own = with(json!({ "service": service }), rules(&[("batch", "allow")]));
    let pair = Pair::start_with(&app, over, own).await;
    let mut client = Client::connect(address(&pair.web, "db").await).await;
    client.send("x").await;
    assert_eq!(client.rest().await, b"");
    let denied = line(&pair.api, "denied").await;
    assert_eq!((&denied["source"], &denied["bytes_in"]), (&json!("web"), &json!(0)));
    assert_eq!(app.accepted(), 0);
    let mut batch = Dialer::showing(&pair.authority.service("batch")).bytes(pair.api.inbound()).await;
    batch.send("x").await;
    assert_eq!(batch.bytes(1).await, b"x");
}
