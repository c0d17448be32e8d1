//! Sidecars as processes, with a store among them, and clients of that store.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use outrigger::{
    store::{
        Backend, Keyspaces, Level, Mode, Params, Peer, Readable as _, Service, ServiceParams, Standing,
        Store, StoreKeys, Timing,
        core::{autopilot::Patience, key::Key},
    },
    types::Mono,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    http::Http,
    machine::{Directory, Process, free_address, until},
};

/// How a mesh is made.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Those that may vote.
    pub(crate) servers: usize,
    /// Those that may not, if there is a store at all.
    pub(crate) clients: usize,
    pub(crate) has_store: bool,
}

/// Sidecars that know each other. Dropping it ends them.
pub(crate) struct Mesh {
    pub(crate) nodes: Vec<Node>,
    servers: usize,
    directory: Directory,
}

/// One of them.
pub(crate) struct Node {
    config: PathBuf,
    pub(crate) admin: SocketAddr,
    pub(crate) outbound: SocketAddr,
    store: SocketAddr,
    process: Option<Process>,
}

impl Node {
    fn start(&mut self) -> Result<()> {
        let mut command = Command::new(binary());
        command.args(["run", "--config"]).arg(&self.config);
        self.process = Some(Process::start(&mut command, &self.config.with_extension("log"))?);
        Ok(())
    }

    pub(crate) fn process(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// A document of its admin API.
    pub(crate) async fn document(&self, path: &str) -> Result<Value> {
        let (_, body) = Http::connect(self.admin).await?.ask("GET", path, String::new()).await?;
        Ok(serde_json::from_slice(&body)?)
    }
}

impl Mesh {
    /// Starts `shape`; each has `over` in its configuration as well. Waits until all is as it shall be.
    pub(crate) async fn start(shape: Shape, over: &Value) -> Result<Self> {
        let directory = Directory::new(shape.name)?;
        let mut mesh = Self { nodes: Vec::new(), servers: shape.servers, directory };
        let seed = free_address()?;
        for at in 0..shape.servers + shape.clients {
            mesh.add(shape, at, seed, over)?;
        }
        for node in &mesh.nodes {
            until("a sidecar is ready", async || {
                let mut http = Http::connect(node.admin).await.ok()?;
                let (status, _) = http.ask("GET", "/readyz", String::new()).await.ok()?;
                (status == 200).then_some(())
            })
            .await?;
        }
        if shape.has_store {
            mesh.until_whole().await?;
        }
        Ok(mesh)
    }

    fn add(&mut self, shape: Shape, at: usize, seed: SocketAddr, over: &Value) -> Result<()> {
        let own = self.directory.0.join(format!("node-{at}"));
        fs::create_dir_all(&own)?;
        let [admin, outbound, store] = [free_address()?, free_address()?, free_address()?];
        let gossip = if at == 0 { seed } else { free_address()? };
        let join = if at == 0 { Vec::new() } else { vec![seed] };
        let mut config = json!({
            "version": 1,
            "service": { "name": "bench", "address": "127.0.0.1:9" },
            "workers": 1,
            "listeners": { "inbound": { "address": "127.0.0.1:0" }, "outbound": { "address": outbound } },
            "mtls": { "mode": "disabled" },
            "admin": { "address": admin, "metrics_address": "none" },
            "telemetry": { "access_log": { "only": "errors" } },
            "reload": { "watch": false },
            "shutdown": { "grace": "0s", "drain_timeout": "1s" },
            "mesh": {
                "node": format!("node-{at}"), "bind": gossip, "join": join, "gossip_key": GOSSIP_KEY,
                "profile": "local", "data_dir": own.join("mesh"),
            },
        });
        if shape.has_store {
            config["store"] = if at < shape.servers {
                json!({ "mode": "server", "bind": store, "data_dir": own.join("store") })
            } else {
                json!({ "mode": "client", "bind": store })
            };
        }
        for (key, value) in over.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let path = own.join("config.yaml");
        fs::write(&path, config.to_string())?;
        let mut node = Node { config: path, admin, outbound, store, process: None };
        node.start()?;
        self.nodes.push(node);
        Ok(())
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(Node::process).collect()
    }

    /// Waits until all servers have a replica, and the same state.
    pub(crate) async fn until_whole(&self) -> Result<()> {
        until("all servers have the state of the store", async || {
            let mut states = Vec::new();
            for node in &self.nodes[..self.servers] {
                states.push(node.document("/v1/raft").await.ok()?);
            }
            let replicas = |state: &Value| {
                ["voters", "standbys"]
                    .map(|kind| state[kind].as_array().map_or(0, Vec::len))
                    .iter()
                    .sum::<usize>()
            };
            let first = states.first()?;
            let is_same = |state: &Value| {
                replicas(state) == self.servers
                    && !state["leader"].is_null()
                    && !state["store"].is_null()
                    && ["leader", "committed"].iter().all(|field| state[*field] == first[*field])
                    && state["applied"] == state["committed"]
                    && state["is_changing"] == false
            };
            states.iter().all(is_same).then_some(())
        })
        .await
    }

    /// Which of the servers leads.
    pub(crate) async fn leader(&self) -> Result<usize> {
        until("one leads", async || {
            for (at, node) in self.nodes[..self.servers].iter().enumerate() {
                if node.document("/v1/raft").await.is_ok_and(|state| state["role"] == "leader") {
                    return Some(at);
                }
            }
            None
        })
        .await
    }

    pub(crate) fn kill(&mut self, at: usize) {
        self.nodes[at].process = None;
    }

    pub(crate) fn restart(&mut self, at: usize) -> Result<()> {
        self.nodes[at].start()
    }

    /// The servers, as their peers know them, beginning with the `first`.
    async fn peers(&self, first: usize) -> Result<Vec<Peer>> {
        let mut peers = Vec::new();
        for (at, node) in self.nodes[..self.servers].iter().enumerate() {
            let state = node.document("/v1/raft").await?;
            let number = |field: &str| {
                let text = state[field].as_str().with_context(|| format!("no {field} in {state}"))?;
                anyhow::Ok(u64::from_str_radix(text, 16)?)
            };
            peers.push(peer(number("id")?, &format!("node-{at}"), node.store, Some(number("store")?)));
        }
        peers.rotate_left(first % self.servers);
        Ok(peers)
    }

    /// Clients of the store within this process; each calls over connections of its own, the first of them asks the first
    /// server first, and so on.
    pub(crate) async fn clients(&self, count: usize) -> Result<Vec<Store>> {
        let mut clients = Vec::new();
        let known = self.peers(0).await?;
        for at in 0..count {
            let mut known = known.clone();
            known.rotate_left(at % self.servers);
            clients.push(client(known).await?);
        }
        if let Some(first) = clients.first() {
            let key = Key::new("nothing")?;
            until("a client is answered", async || first.get(&key, Level::Strong).await.ok()).await?;
        }
        Ok(clients)
    }
}

fn peer(id: u64, name: &str, address: SocketAddr, founded: Option<u64>) -> Peer {
    Peer {
        id,
        name: name.into(),
        address,
        is_server: true,
        is_seed: founded.is_none(),
        founded,
        standing: Standing::Alive,
        since: Mono::ZERO,
        zone: "".into(),
        is_draining: false,
    }
}

fn params(mode: Mode, data_dir: Option<PathBuf>, bind: SocketAddr) -> Params {
    Params {
        backend: Backend::Embedded,
        mode,
        bind,
        advertise: None,
        data_dir,
        bootstrap_expect: 3,
        // The defaults of the configuration.
        timing: Timing { heartbeat: Duration::from_millis(50), election_timeout: Duration::from_millis(150) },
        patience: Patience::USUAL,
        keys: StoreKeys::default(),
        allow: Vec::new(),
        keyspaces: Keyspaces::default(),
    }
}

async fn client(known: Vec<Peer>) -> Result<Store> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (_, peers) = watch::channel(Arc::new(known));
    let service = Service::open(ServiceParams {
        id: NEXT.fetch_add(1, Relaxed),
        node: "bench".into(),
        cluster: "default".into(),
        seeds: Vec::new(),
        is_seed: false,
        mesh: None,
        peers,
        promises: None,
        store: params(Mode::Client, None, ([127, 0, 0, 1], 0).into()),
    });
    Ok(service.await?.store())
}

/// Three servers within this process, and which of them leads. They run until the runtime ends.
pub(crate) async fn within(directory: &Directory) -> Result<(Vec<Store>, usize)> {
    let (peers, known) = watch::channel(Arc::new(Vec::new()));
    let mut services = Vec::new();
    let addresses = [free_address()?, free_address()?, free_address()?];
    for (id, address) in (1..).zip(addresses) {
        let service = Service::open(ServiceParams {
            id,
            node: format!("node-{id}").into(),
            cluster: "default".into(),
            seeds: addresses.to_vec(),
            is_seed: true,
            mesh: None,
            peers: known.clone(),
            promises: None,
            store: params(Mode::Server, Some(directory.0.join(id.to_string())), address),
        });
        services.push(service.await?);
    }
    let stores: Vec<Store> = services.iter().map(Service::store).collect();
    let seen = (1..).zip(addresses).map(|(id, address)| peer(id, &format!("node-{id}"), address, None));
    peers.send_replace(Arc::new(seen.collect()));
    let peers = Arc::new(peers);
    for (at, service) in services.into_iter().enumerate() {
        // As the membership would: who has found the store says so, and the others find it by that.
        let (peers, mut founded) = (Arc::clone(&peers), service.founded());
        tokio::spawn(async move {
            while founded.changed().await.is_ok() {
                let store = *founded.borrow_and_update();
                peers.send_modify(|known| Arc::make_mut(known)[at].founded = store);
            }
        });
        let drain = outrigger::rt::Drain::default();
        let watch = drain.watch();
        tokio::spawn(async move {
            service.run(watch).await;
            drop(drain);
        });
    }
    let key = Key::new("nothing")?;
    let leader = until("a store is founded", async || {
        stores[0].get(&key, Level::Strong).await.ok()?;
        let leads = |store: &Store| {
            store.status().is_some_and(|status| {
                status.voters.len() == 3 && status.role == outrigger::store::Role::Leader
            })
        };
        stores.iter().position(leads)
    });
    let leader = leader.await?;
    Ok((stores, leader))
}

/// Another binary than that of this build, if one is named.
pub(crate) static OTHER: OnceLock<PathBuf> = OnceLock::new();

fn binary() -> &'static Path {
    OTHER.get().map_or(Path::new(env!("CARGO_BIN_EXE_outrigger")), PathBuf::as_path)
}

const GOSSIP_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
