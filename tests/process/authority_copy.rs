//! The certificate authority of a mesh whose machine is lost: another sidecar holds it from then on, out of the copy that the
//! store keeps, and the one that held it before signs nothing any more.

use std::path::Path;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    signing::Desk,
    support::{
        Sidecar, eventually,
        sidecar::{free_address, run, with},
    },
};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A mesh of three that vote; the first of them holds the authority, and the second is the seed.
struct World {
    desk: Desk,
    gossip: String,
}

impl World {
    /// Of a sidecar that may vote, or, without a directory of its own for that, of one that asks.
    fn node(&self, name: &str, base: Value, is_server: bool) -> Value {
        let data = |what: &str| self.desk.path(&format!("{name}-{what}")).display().to_string();
        // The seed of all is one that is never lost.
        let is_seed = name == "api";
        let join: &[&str] = if is_seed { &[] } else { &[&self.gossip] };
        let bind = if is_seed { &self.gossip } else { "127.0.0.1:0" };
        let mesh = json!({
            "node": name, "bind": bind, "join": join, "gossip_key": KEY, "profile": "local", "data_dir": data("mesh"),
        });
        let mut store = json!({ "bind": "127.0.0.1:0", "election_timeout": "500ms" });
        if is_server {
            store["mode"] = "server".into();
            store["data_dir"] = data("store").into();
        }
        with(base, json!({ "mesh": mesh, "store": store }))
    }

    /// Of one that holds an authority in `directory`.
    fn holder(&self, name: &str, directory: &Path, address: &str, is_server: bool) -> Value {
        let authority = json!({
            "dir": directory, "key_file": self.desk.path("ca.key"), "address": address,
        });
        let own = self.desk.path(&format!("{name}-certificates"));
        let over = json!({ "mtls": { "ca": { "authority": authority, "dir": own, "node": name } } });
        self.node(name, with(self.desk.holder(), over), is_server)
    }
}

/// `outrigger ca VERB --dir DIRECTORY`: its exit code, and what it printed on either side.
fn ca(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let directory = directory.display().to_string();
    let done = run(&[&["ca"], arguments, &["--dir", &directory]].concat());
    let told = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8_lossy(&told).into_owned())
}

fn status(world: &World, directory: &Path) -> Value {
    let key = world.desk.path("ca.key").display().to_string();
    let (_, told) = ca(directory, &["status", "-o", "json", "--key-file", &key]);
    serde_json::from_str(&told).unwrap_or(Value::Null)
}

#[tokio::test]
async fn an_authority_whose_machine_is_lost_is_restored_from_the_store_and_the_lost_one_steps_back() {
    let world = World { desk: Desk::new(), gossip: free_address().to_string() };
    let (old, new) = (world.desk.path("ca"), world.desk.path("another-machine/ca"));
    let key = world.desk.path("ca.key").display().to_string();
    let address = world.desk.address.to_string();
    let desk = Sidecar::start(world.holder("desk", &old, &address, true)).await;
    let mut members = Vec::new();
    for service in ["api", "web"] {
        world.desk.write_token(service, &world.desk.token(service).reveal());
        members.push(Sidecar::start(world.node(service, world.desk.member(service), true)).await);
    }
    let api = members[0].admin().to_string();

    // What the command line does is in the copy as well.
    let token = world.desk.ca(&["token", "create", "batch"]);
    let id = token.split('.').nth(1).unwrap_or_default().to_owned();
    let copy = eventually("the store has a copy of the state as it is", async || {
        let found = run(&["kv", "get", "outrigger/authority", "--admin", &api]);
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        let is_whole = text.contains(&id) && ["api-1", "web-1"].iter().all(|node| text.contains(node));
        let known = &status(&world, &old)["copy"];
        (is_whole && known["kept"] == true && known["current"] == true).then_some(text)
    })
    .await;
    assert!(!copy.contains(token.split('.').nth(2).unwrap_or("none")), "the secret of a token is in no copy");
    desk.until_metric("outrigger_ca_copies_total", &["result=\"ok\""], 1.0).await;

    drop(desk);
    let (code, told) = ca(&new, &["restore", "--key-file", &key, "--admin", &api]);
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = ca(&new, &["restore", "--key-file", &key, "--admin", &api]);
    assert_eq!(code, Some(7), "there is one by now: {told}");
    let holder = Sidecar::start(world.holder("desk-2", &new, &address, false)).await;
    for member in &members {
        let renewed = run(&["cert", "renew", "--admin", &member.admin().to_string()]);
        assert!(renewed.status.success(), "{renewed:?}");
    }
    eventually("the new holder has said so", async || {
        let copy = &status(&world, &new)["copy"];
        (copy["kept"] == true && copy["number"].as_str()?.starts_with("1.")).then_some(())
    })
    .await;

    // The lost machine comes back.
    let elsewhere = free_address();
    let back = Sidecar::start(world.holder("desk", &old, &elsewhere.to_string(), true)).await;
    eventually("it learns that it does not hold the authority any more", async || {
        status(&world, &old)["copy"]["superseded_by"].as_str().map(str::to_owned)
    })
    .await;
    let (code, told) = ca(&old, &["token", "create", "api", "--key-file", &key]);
    assert_eq!(code, Some(7), "{told}");
    assert!(told.contains("another directory") && told.contains("outrigger ca restore"), "{told}");
    eventually("nobody is answered there", async || {
        TcpStream::connect(elsewhere).await.is_err().then_some(())
    })
    .await;
    assert!(back.log().contains("does not answer any more"), "{}", back.log());
    back.until_metric("outrigger_ca_superseded", &[], 1.0).await;
    // It starts with the certificate that it has kept, and says what is wrong.
    drop(back);
    let back = Sidecar::start(world.holder("desk", &old, &elsewhere.to_string(), true)).await;
    assert!(back.log().contains("does not hold the certificate authority any more"), "{}", back.log());
    let (code, told) = ca(&new, &["token", "create", "api", "--key-file", &key]);
    assert_eq!(code, Some(0), "{told}");
    assert!(holder.log().contains("the certificate authority answers"));
}

#[tokio::test]
async fn without_a_copy_there_is_nothing_to_restore() {
    let world = World { desk: Desk::new(), gossip: free_address().to_string() };
    let key = world.desk.path("ca.key").display().to_string();
    let new = world.desk.path("another-machine/ca");
    // A store of one, and no authority in its mesh.
    let alone = json!({
        "mtls": { "mode": "disabled" },
        "mesh": { "node": "alone", "bind": "127.0.0.1:0", "gossip_key": KEY, "profile": "local", "data_dir": "none" },
        "store": { "mode": "server", "bind": "127.0.0.1:0", "bootstrap_expect": 1, "data_dir": "none" },
    });
    let alone = Sidecar::start(alone).await;
    let admin = alone.admin().to_string();
    eventually("a store", async || {
        let (code, told) = ca(&new, &["restore", "--key-file", &key, "--admin", &admin]);
        (code == Some(5)).then_some(told)
    })
    .await;
    let put = run(&["kv", "put", "outrigger/authority", "nonsense", "--admin", &admin]);
    assert!(put.status.success(), "{put:?}");
    let (code, told) = ca(&new, &["restore", "--key-file", &key, "--admin", &admin]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("is damaged"), "{told}");
    assert!(!new.exists());
}
