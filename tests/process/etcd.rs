//! Sidecars whose store an etcd keeps: they share routes without a mesh, serve on without it, and find it again. What the
//! store does by itself is in the tests of src/store/etcd/.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    signing::Desk,
    support::{
        App, Client, Sidecar,
        authority::{Asked, Authority, Folder},
        eventually,
        sidecar::{Directory, free_address, run, with},
    },
};

/// An etcd that can be killed and started again at the same place. Dropping it ends it.
struct Etcd {
    directory: Directory,
    client: SocketAddr,
    peer: SocketAddr,
    /// Its certificate, and whom it lets in.
    files: Option<Folder>,
    child: Option<Child>,
}

impl Etcd {
    fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// `None`, and loudly, if there is none to run.
    fn start_with(files: Option<Folder>) -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("SKIPPED: etcd is not installed, so sidecars with a store in etcd were not looked at");
            return None;
        }
        let (client, peer) = (free_address(), free_address());
        let mut etcd = Self { directory: Directory::new(), client, peer, files, child: None };
        etcd.restart();
        Some(etcd)
    }

    fn restart(&mut self) {
        let (client, peer) = (self.endpoint(), format!("http://{}", self.peer));
        let mut command = Command::new("etcd");
        if let Some(files) = &self.files {
            command.arg("--client-cert-auth").arg("--cert-file").arg(files.path("tls.pem"));
            command
                .arg("--key-file")
                .arg(files.path("tls.key"))
                .arg("--trusted-ca-file")
                .arg(files.path("ca.pem"));
        }
        let child = command
            .arg("--data-dir")
            .arg(self.directory.0.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .arg(format!("--initial-cluster=default={peer}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("it was there a moment ago"));
    }

    fn endpoint(&self) -> String {
        let scheme = if self.files.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.client)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A sidecar that knows both applications and by its file sends to the first.
fn config(etcd: &Etcd, apps: &[App; 2], directory: &Directory) -> Value {
    json!({
        "services": {
            "v1": { "endpoints": [apps[0].endpoint()] },
            "v2": { "endpoints": [apps[1].endpoint()] },
        },
        "routes": [{ "name": "shop", "service": "v1" }],
        "store": {
            "backend": "etcd",
            "data_dir": directory.0.join("store").display().to_string(),
            "etcd": { "endpoints": [etcd.endpoint()], "timeout": "2s" },
        },
    })
}

/// Runs `outrigger` against `sidecar`: its exit code, and what it says on standard error.
fn outrigger(sidecar: &Sidecar, arguments: &[&str]) -> (Option<i32>, String) {
    let admin = sidecar.admin().to_string();
    let done = run(&[arguments, &["--admin", &admin, "--timeout", "10s"]].concat());
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

async fn until(sidecar: &Sidecar, arguments: &[&str]) {
    eventually(&format!("{arguments:?} is done"), async || {
        (outrigger(sidecar, arguments).0 == Some(0)).then_some(())
    })
    .await;
}

async fn served(sidecar: &Sidecar) -> String {
    Client::connect(sidecar.outbound()).await.get("shop", "/").await.text()
}

async fn until_served(sidecar: &Sidecar, by: &str) {
    eventually(&format!("{by} answers"), async || (served(sidecar).await == by).then_some(())).await;
}

#[tokio::test]
async fn routes_in_etcd_are_served_by_every_sidecar_and_outlive_it() {
    let Some(mut etcd) = Etcd::start() else { return };
    let apps = [App::saying("v1").await, App::saying("v2").await];
    let directories = [Directory::new(), Directory::new()];
    let first = Sidecar::start(config(&etcd, &apps, &directories[0])).await;
    let second = Sidecar::start(config(&etcd, &apps, &directories[1])).await;
    assert_eq!(served(&first).await, "v1");

    let file = directories[0].0.join("route.json");
    std::fs::write(&file, json!({ "name": "shop", "service": "v2" }).to_string()).expect("it is ours");
    let file = file.display().to_string();
    until(&first, &["routes", "put", "-f", &file]).await;
    for sidecar in [&first, &second] {
        until_served(sidecar, "v2").await;
    }
    assert_eq!(outrigger(&second, &["routes", "rm", "shop"]).0, Some(0));
    for sidecar in [&first, &second] {
        until_served(sidecar, "v1").await;
    }
    assert_eq!(outrigger(&second, &["routes", "put", "-f", &file]).0, Some(0));
    for sidecar in [&first, &second] {
        until_served(sidecar, "v2").await;
    }

    // Without etcd: requests are served, writes are not, and it is said why.
    etcd.kill();
    assert_eq!(served(&first).await, "v2");
    eventually("a write is refused with its reason", async || {
        let (code, said) = outrigger(&first, &["kv", "put", "a", "1"]);
        (code == Some(1) && said.contains("the store cannot be reached")).then_some(())
    })
    .await;
    assert_eq!(outrigger(&first, &["kv", "get", "a"]).0, Some(1));
    drop(second);
    let second = Sidecar::start(config(&etcd, &apps, &directories[1])).await;
    assert_eq!(served(&second).await, "v2", "it was kept on the disk");

    etcd.restart();
    until(&first, &["kv", "put", "a", "1"]).await;
    until(&second, &["routes", "rm", "shop"]).await;
    for sidecar in [&first, &second] {
        until_served(sidecar, "v1").await;
    }
    let (code, said) = outrigger(&first, &["raft", "status"]);
    assert!(code == Some(5) && said.contains("etcd"), "{code:?} {said}");
}

#[tokio::test]
async fn an_etcd_with_tls_is_believed_by_its_roots_and_shown_a_certificate() {
    let (authority, stranger) = (Authority::new("of etcd"), Authority::new("of somebody else"));
    let server = authority.issue(&Asked::named("etcd.local"));
    let Some(etcd) = Etcd::start_with(Some(Folder::new(&server, &authority.root()))) else { return };
    let own =
        |roots: &Authority| Folder::new(&authority.issue(&Asked::named("sidecar.local")), &roots.root());
    let config = |files: &Folder, name: &str| {
        let tls = json!({
            "ca": files.path("ca.pem"),
            "cert": files.path("tls.pem"),
            "key": files.path("tls.key"),
            "server_name": name,
        });
        json!({ "store": { "backend": "etcd", "etcd": { "endpoints": [etcd.endpoint()], "tls": tls } } })
    };
    let (good, bad) = (own(&authority), own(&stranger));
    let sidecar = Sidecar::start(config(&good, "etcd.local")).await;
    until(&sidecar, &["kv", "put", "a", "1"]).await;
    assert_eq!(outrigger(&sidecar, &["kv", "get", "a"]).0, Some(0));
    for (files, name) in [(&bad, "etcd.local"), (&good, "other.local")] {
        let sidecar = Sidecar::start(config(files, name)).await;
        let (code, said) = outrigger(&sidecar, &["kv", "get", "a"]);
        assert!(code == Some(1) && said.contains("certificate"), "{code:?} {said}");
    }
}

#[tokio::test]
async fn a_copy_of_the_authority_is_kept_in_etcd_and_restored_from_it() {
    let Some(etcd) = Etcd::start() else { return };
    let store = json!({ "backend": "etcd", "etcd": { "endpoints": [etcd.endpoint()], "timeout": "2s" } });
    let desk = Desk::new();
    let holder = Sidecar::start(with(desk.holder(), json!({ "store": store.clone() }))).await;
    let token = desk.ca(&["token", "create", "api"]);
    let id = token.split('.').nth(1).unwrap_or("none").to_owned();
    let other = Sidecar::start(json!({ "mtls": { "mode": "disabled" }, "store": store })).await;
    eventually("the copy has the token", async || {
        let admin = other.admin().to_string();
        let found = run(&["kv", "get", "outrigger/authority", "--admin", &admin]);
        String::from_utf8_lossy(&found.stdout).contains(&id).then_some(())
    })
    .await;
    drop(holder);
    let [new, key] = ["new", "ca.key"].map(|name| desk.path(name).display().to_string());
    until(&other, &["ca", "restore", "--dir", &new, "--key-file", &key]).await;
    let tokens = run(&["ca", "token", "ls", "--dir", &new, "--key-file", &key]);
    assert!(String::from_utf8_lossy(&tokens.stdout).contains(&id), "{tokens:?}");
}
