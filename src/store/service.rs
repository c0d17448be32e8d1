//! The part of this node in the store of its mesh, and who owns its tasks: calls are answered, a store is begun or found,
//! and whoever leads ends leases and looks after the voters.

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    Mode, Params, Role, Store,
    core::{
        autopilot::{Patience, Target},
        bootstrap::{SeedList, StoreId},
        command::Request,
        key::OpId,
        kv::Kv,
    },
    embedded::{self, EmbeddedStore, Parts},
    fence::{self, Fence},
    files::{self, Files},
    founding::{self, FOUNDING, Founding, Told},
    peers::Peers,
    protocol::{self, POSITION, Whereabouts},
    raft::{Network, Node},
    voters::{self, Voters},
};
use crate::{
    identity::MeshTls,
    net::BindError,
    peer::rpc::{Answering, Call, Caller, Own, Refusal, Rpc},
    rt::{DrainWatch, Phase, Tasks},
};

/// How often a leader looks after leases and voters.
const TICK: Duration = Duration::from_millis(250);
/// For a replica to end in.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The store of this node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address cannot be used (`store.bind`).
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificates of this node cannot be used to call others.
    #[error("cannot call other nodes with the certificates of this one")]
    Tls,
    /// Its files cannot be used.
    #[error("cannot use the data directory {} (store.data_dir)", .directory.display())]
    Storage {
        /// Which.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the store of this node is made of.
#[derive(Clone)]
pub struct ServiceParams {
    /// The number of this node in the mesh, for ever.
    pub id: u64,
    /// Its name.
    pub node: Arc<str>,
    /// The name of the mesh.
    pub cluster: Arc<str>,
    /// The addresses that the nodes of the mesh join by, the same on all of them; the first node, which has none, names
    /// its own.
    pub seeds: Vec<SocketAddr>,
    /// Whether this node is at one of them.
    pub is_seed: bool,
    /// What it proves itself with; `None` without mTLS.
    pub mesh: Option<Arc<MeshTls>>,
    /// The other nodes, and this one.
    pub peers: Peers,
    /// Where a node without a `data_dir` of its own for the store keeps what it has promised: clients may have a say in
    /// who founds it. `None` keeps nothing.
    pub promises: Option<PathBuf>,
    /// What is configured.
    pub store: Params,
}

/// The part of this node in the store, before it runs.
pub struct Service {
    rpc: Rpc,
    node: Option<Node>,
    peers: Peers,
    store: EmbeddedStore,
    founding: Founding,
    own: u64,
    target: Target,
    patience: Patience,
    messages: mpsc::Sender<Told>,
    founded: watch::Receiver<Option<u64>>,
    fence: Fence,
}

impl Service {
    /// Opens the files and the port. Others are not called before [`Service::run`].
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left open.
    pub async fn open(params: ServiceParams) -> Result<Self, StartError> {
        let ServiceParams { id, node: name, cluster, seeds, is_seed, mesh, peers, promises, store: params } =
            params;
        let anyone = mesh.as_ref().map(|mesh| mesh.anyone()).transpose().map_err(|_| StartError::Tls)?;
        let own = Own { cluster, node: id };
        let rpc = Rpc::bind(params.bind, mesh, own.clone())?;
        let caller = Caller::new(&own, anyone);
        let directory = params.data_dir.clone();
        let promises = directory.clone().or(promises);
        let kept = directory.clone().unwrap_or_default();
        let storage = |source| StartError::Storage { directory: kept.clone(), source };
        let (keys, mesh_name) = (files::keys(&params.keys), Arc::clone(&own.cluster));
        let opened = tokio::task::spawn_blocking(move || {
            files::open(directory.as_deref(), promises.as_deref(), id, &mesh_name, &keys)
        });
        let Files { memory, backend, label } =
            opened.await.map_err(io::Error::other).and_then(|opened| opened).map_err(storage)?;
        let fence = Fence::new(label.store, memory.store().map(StoreId));
        let node = match params.mode {
            Mode::Client => None,
            Mode::Server => {
                let (caller, peers, fence) = (caller.clone(), peers.clone(), fence.clone());
                let network = Network { caller, peers, own: id, fence };
                Some(Node::open(id, params.timing, network, &backend).await.map_err(storage)?)
            }
        };
        let author = Arc::from(format!("node/{name}"));
        let (messages, told) = mpsc::channel(founding::QUEUE);
        let (founded, known) = watch::channel(memory.store());
        let store = EmbeddedStore::new(Parts {
            author,
            own: id,
            node: node.clone(),
            caller: caller.clone(),
            peers: peers.clone(),
            founded: known.clone(),
            fence: fence.clone(),
        });
        let founding = Founding {
            caller,
            peers: peers.clone(),
            node: node.clone(),
            messages: told,
            founded,
            memory,
            seeds: seed_list(seeds),
            is_seed,
            expect: params.bootstrap_expect,
            agreed: None,
            fence: fence.clone(),
            backend,
            label,
        };
        let target = if params.bootstrap_expect == 5 { Target::Five } else { Target::Auto };
        let (own, founded, patience) = (id, known, params.patience);
        Ok(Self { rpc, node, peers, store, founding, own, target, patience, messages, founded, fence })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.rpc.local_address()
    }

    /// The store, as this node reaches it.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::Embedded(self.store.clone())
    }

    /// The number of the store that this node belongs to, once it does.
    #[must_use]
    pub fn founded(&self) -> watch::Receiver<Option<u64>> {
        self.founded.clone()
    }

    /// Takes part until the process stops.
    pub async fn run(self, mut drain: DrainWatch) {
        let Self { rpc, node, peers, store, founding, own, target, patience, messages, fence, .. } = self;
        let mut tasks = Tasks::default();
        tasks.spawn(
            "calls of the store",
            rpc.run(Arc::new(Desk { node: node.clone(), messages, fence: fence.clone() }), drain.clone()),
        );
        tasks.spawn("founding of the store", founding.run(own));
        if let Some(node) = &node {
            tasks.spawn("leases of the store", expire(node.clone(), store.clone()));
            let voters = Voters {
                node: node.clone(),
                store,
                peers,
                own,
                fence,
                target,
                patience,
                led_since: None,
                stable: BTreeMap::new(),
                added: BTreeMap::new(),
            };
            tasks.spawn("voters of the store", voters.look_after());
        }
        drain.reached(Phase::Draining).await;
        if let Some(node) = &node {
            voters::step_down(node).await;
        }
        drain.reached(Phase::Stopped).await;
        if let Some(node) = &node {
            // What is durable stays, whether it has ended or not.
            let _ = tokio::time::timeout(LAST_WORDS, node.shut_down()).await;
        }
        // What is left of them ends with this.
        drop(tasks);
    }
}

/// The same for all nodes that have the same seeds, in whatever order.
fn seed_list(mut seeds: Vec<SocketAddr>) -> SeedList {
    seeds.sort_unstable();
    seeds.dedup();
    let text: Vec<String> = seeds.iter().map(ToString::to_string).collect();
    SeedList {
        count: u32::try_from(seeds.len()).unwrap_or(u32::MAX),
        digest: xxhash_rust::xxh64::xxh64(text.join(",").as_bytes(), 0),
    }
}

/// Answers other nodes.
struct Desk {
    node: Option<Node>,
    messages: mpsc::Sender<Told>,
    fence: Fence,
}

impl Answering for Desk {
    fn answer(&self, call: Call) -> Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>> {
        if call.method.as_str() == FOUNDING {
            let told = protocol::read(&call.body).map(|message| self.messages.try_send((call.from, message)));
            // Without room it is lost, as on the way; it is said again.
            return Box::pin(std::future::ready(match told {
                Some(_) => Ok(Bytes::new()),
                None => Err(Refusal::new(StatusCode::BAD_REQUEST, "this version does not know what is said")),
            }));
        }
        let Some(node) = self.node.clone() else {
            let refusal = Refusal::new(StatusCode::NOT_FOUND, "this node has no replica of the store");
            return Box::pin(std::future::ready(Err(refusal)));
        };
        if call.method.as_str() == POSITION {
            let status = node.status();
            let revision = node.state().read(Kv::revision);
            let store = self.fence.replica().map(|store| store.0);
            let told = Whereabouts { store, term: status.term, last_log: status.last_log, revision };
            return Box::pin(std::future::ready(Ok(protocol::write(&told))));
        }
        let call = match fence::door(call.method.as_str()) {
            Some(strangers) => match self.fence.admit(call.body.clone(), strangers) {
                Ok(body) => Call { body, ..call },
                Err(refusal) => return Box::pin(std::future::ready(Err(refusal))),
            },
            None => call,
        };
        Box::pin(async move {
            if let Some(answer) = node.answer(&call).await {
                return answer;
            }
            let unknown = || Err(Refusal::new(StatusCode::NOT_FOUND, "there is no such question"));
            embedded::answer(&node, &call).await.unwrap_or_else(unknown)
        })
    }
}

/// As long as this node leads, has leases end when they have run out.
async fn expire(node: Node, store: EmbeddedStore) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let due = node.state().read(Kv::next_expiry);
        if node.role() == Role::Leader && due.is_some_and(|due| due <= embedded::wall_ms()) {
            // Not remembered: what has ended does not end twice.
            let op = OpId { client: 0, sequence: 0 };
            if let Err(error) = store.execute(op, Request::Expire).await {
                tracing::debug!(%error, "leases do not end yet");
            }
        }
    }
}

#[cfg(test)]
mod tests;
