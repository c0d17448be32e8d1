//! Clients from outside of the mesh speak TLS to the outbound listener: certificates by name, and new ones without a
//! restart.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::support::{
    App, Client, Sidecar, eventually,
    sidecar::{Directory, api, run, with},
    within,
};

/// Writes a certificate for `name` that vouches for itself, and its key; returns it.
fn write(folder: &Path, file: &str, name: &str) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let key = folder.join(format!("{file}.key"));
    fs::write(&key, made.signing_key.serialize_pem()).expect("the directory is ours");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    fs::write(folder.join(format!("{file}.crt")), made.cert.pem()).expect("the directory is ours");
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("a certificate")
}

fn config(folder: &Path, app: &App, names: &[&str]) -> serde_json::Value {
    let files = |name: &&str| {
        let path = |end: &str| folder.join(format!("{name}.{end}"));
        json!({ "cert_file": path("crt"), "key_file": path("key") })
    };
    let tls = json!({ "certificates": names.iter().map(files).collect::<Vec<_>>() });
    with(api(&[app.endpoint()]), json!({ "listeners": { "outbound": { "tls": tls } } }))
}

/// A connection that asks for `name` and believes `trusted` alone.
async fn connect(
    sidecar: &Sidecar,
    name: &'static str,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = within("connect", TcpStream::connect(sidecar.outbound())).await?;
    let name = ServerName::try_from(name).expect("a name");
    within("the handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

async fn get(mut stream: TlsStream<TcpStream>) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n")
        .await
        .expect("open");
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer)).await.expect("an orderly end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn each_client_is_shown_the_certificate_of_the_name_it_asks_for() {
    let (folder, app) = (Directory::new(), App::saying("hello").await);
    let shop = write(&folder.0, "shop", "shop.example");
    let api = write(&folder.0, "api", "*.api.example");
    let sidecar = Sidecar::start(config(&folder.0, &app, &["shop", "api"])).await;
    for (name, trusted) in [("shop.example", &shop), ("a.api.example", &api)] {
        let answer = get(connect(&sidecar, name, trusted).await.expect("it is believed")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    }
    assert!(connect(&sidecar, "a.api.example", &shop).await.is_err());
    // Plaintext to it is closed, and others are served.
    let mut plain = Client::connect(sidecar.outbound()).await;
    plain.send("GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n").await;
    assert!(plain.try_response().await.is_none());
    assert!(connect(&sidecar, "shop.example", &shop).await.is_ok());
    sidecar.until_metric("outrigger_edge_tls_handshakes_total", &["result=\"ok\""], 3.0).await;
    sidecar.until_metric("outrigger_edge_tls_handshakes_total", &["result=\"plaintext\""], 1.0).await;
}

#[tokio::test]
async fn new_certificates_are_shown_without_a_restart_and_bad_ones_never_are() {
    let (folder, app) = (Directory::new(), App::saying("hello").await);
    let first = write(&folder.0, "shop", "shop.example");
    let sidecar = Sidecar::start(config(&folder.0, &app, &["shop"])).await;
    assert!(connect(&sidecar, "shop.example", &first).await.is_ok());
    fs::write(folder.0.join("shop.crt"), "half a certificate").expect("the directory is ours");
    eventually("the sidecar complains", async || {
        sidecar
            .log()
            .contains("new certificates for clients outside of the mesh cannot be used")
            .then_some(())
    })
    .await;
    assert!(connect(&sidecar, "shop.example", &first).await.is_ok());
    let second = write(&folder.0, "shop", "shop.example");
    eventually("the new one is shown", async || {
        connect(&sidecar, "shop.example", &second).await.ok().map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_without_the_certificates_that_it_is_to_show_does_not_start() {
    let (folder, app) = (Directory::new(), App::saying("hello").await);
    let text = with(
        json!({
            "version": 1,
            "service": { "name": "edge", "address": "127.0.0.1:9" },
            "mtls": { "mode": "disabled" },
            "listeners": { "inbound": { "address": "127.0.0.1:0" } },
            "admin": { "address": "127.0.0.1:0", "metrics_address": "none" },
        }),
        with(
            config(&folder.0, &app, &["absent"]),
            json!({ "listeners": { "outbound": { "address": "127.0.0.1:0" } } }),
        ),
    );
    let file = folder.0.join("edge.yaml");
    fs::write(&file, text.to_string()).expect("the directory is ours");
    let ended = run(&["run", "--config", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("absent.crt"), "{said}");
}
