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
    backend::StorageBackend,
    core::{
        autopilot::{Patience, Target},
        bootstrap::{SeedList, StoreId},
        command::Request,
        key::OpId,
        kv::Kv,
        outcome::Outcome,
    },
    embedded::{self, EmbeddedStore, Parts},
    fence::{self, Fence},
    files::{self, AllKept, Files},
    founding::{self, FOUNDING, Founding, Told},
    meters::{self, Meters},
    order,
    peers::Peers,
    protocol::{self, Answer, ORDER, POSITION, Whereabouts},
    pulse::{self, PULSE},
    quorum::{self, Driver, Opened, Quorum, core::rules::Want},
    raft::{Network, Node, Shortened},
    resealing,
    voters::{self, Voters},
    writers::Writers,
};
use crate::{
    identity::MeshTls,
    net::BindError,
    peer::rpc::{Answering, Call, Caller, Known, Own, Refusal, Rpc},
    rt::{DrainWatch, Phase, Tasks},
    telemetry::metrics::Registry,
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
    known: Arc<Known>,
    writers: Writers,
    meters: Arc<Meters>,
    /// The file of the log, and what is in it.
    file: Option<PathBuf>,
    kept: Option<AllKept>,
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
    leaderless: Leaderless,
}

/// The part of this node in the leaderless tier.
struct Leaderless {
    quorum: Quorum,
    jobs: Option<mpsc::Sender<quorum::Job>>,
    driver: Option<Driver>,
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
        let (own, known) = (Own { cluster, node: id }, Arc::new(Known::default()));
        let rpc = Rpc::bind(params.bind, mesh, own.clone())?.knowing(Arc::clone(&known)).until_stopped();
        let caller = Caller::knowing(&own, anyone, Arc::clone(&known));
        let (writers, directory) = (Writers::new(params.allow.clone()), params.data_dir.clone());
        let (promises, kept) = (directory.clone().or(promises), directory.clone().unwrap_or_default());
        let storage = |source| StartError::Storage { directory: kept.clone(), source };
        let (keys, mesh_name) = (files::keys(&params.keys), Arc::clone(&own.cluster));
        let meters = Arc::<Meters>::default();
        let (file, measured) = (directory.as_deref().map(files::log), Arc::clone(&meters));
        let opened = tokio::task::spawn_blocking(move || {
            files::open(directory.as_deref(), promises.as_deref(), id, &mesh_name, &keys, &measured)
        });
        let Files { memory, backend, kept, label, records } =
            opened.await.map_err(io::Error::other).and_then(|opened| opened).map_err(storage)?;
        let fence = Fence::new(label.store, memory.store().map(StoreId));
        let network = Network { caller: caller.clone(), peers: peers.clone(), own: id, fence: fence.clone() };
        let node = replica(&params, network, &backend, &meters).await.map_err(storage)?;
        let leaderless = leaderless(id, &params, records, &caller, &peers, &fence).await.map_err(storage)?;
        let (messages, told) = mpsc::channel(founding::QUEUE);
        let (founded, store_known) = watch::channel(memory.store());
        let store = EmbeddedStore::new(Parts {
            author: format!("node/{name}").into(),
            own: id,
            cluster: own.cluster,
            node: node.clone(),
            caller: caller.clone(),
            peers: peers.clone(),
            founded: store_known.clone(),
            fence: fence.clone(),
            meters: Arc::clone(&meters),
            quorum: leaderless.quorum.clone(),
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
        Ok(Self {
            rpc,
            known,
            writers,
            meters,
            file,
            kept,
            node,
            peers,
            store,
            founding,
            own: id,
            target: if params.bootstrap_expect == 5 { Target::Five } else { Target::Auto },
            patience: params.patience,
            fence,
            leaderless,
            messages,
            founded: store_known,
        })
    }

    /// Counts what it does from now on.
    pub fn count_into(&self, registry: &Arc<Registry>) {
        self.meters.count_into(registry, self.node.is_some());
    }

    /// Where it is to be learned which nodes have proved to be of which services. With mTLS nobody else is heard.
    #[must_use]
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known)
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
        let Self {
            rpc,
            writers,
            file,
            kept,
            node,
            peers,
            store,
            founding,
            own,
            target,
            patience,
            messages,
            fence,
            leaderless,
            ..
        } = self;
        let Leaderless { quorum, jobs, driver } = leaderless;
        let mut tasks = Tasks::default();
        tasks.spawn(
            "calls of the store",
            rpc.run(
                Arc::new(Desk {
                    node: node.clone(),
                    messages,
                    fence: fence.clone(),
                    writers,
                    quorum,
                    jobs,
                    store: store.clone(),
                }),
                drain.clone(),
            ),
        );
        tasks.spawn("founding of the store", founding.run(own));
        tasks.spawn("pulse of the store", pulse::keep(store.clone()));
        if let Some(driver) = driver {
            tasks.spawn("leaderless tier of the store", driver.run());
        }
        if let Some(node) = &node {
            if let Some(kept) = kept {
                tasks.spawn("sealing the store anew", resealing::run(kept, Arc::clone(node.meters())));
            }
            tasks.spawn("metrics of the store", meters::look(node.clone(), file));
            tasks.spawn("size of the store's log", shorten(node.clone()));
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
        // From then on it leads no more, but votes until the process ends: whoever leads may need it for that long.
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

/// The part of this node in the leaderless tier: all servers have one, whatever they are configured to ask.
async fn leaderless(
    id: u64,
    params: &Params,
    records: Arc<dyn StorageBackend>,
    caller: &Caller,
    peers: &Peers,
    fence: &Fence,
) -> io::Result<Leaderless> {
    let (spaces, called, known, marked) =
        (params.keyspaces.clone(), caller.clone(), peers.clone(), fence.clone());
    let (server, driver) = match params.mode {
        Mode::Client => (None, None),
        Mode::Server => {
            let writer = crate::identity::unforeseeable().map_err(io::Error::other)?;
            let writer = u64::from_be_bytes(writer);
            let opening = tokio::task::spawn_blocking(move || {
                Driver::open(id, writer, &spaces, records, called, known, marked)
            });
            let Opened { driver, jobs, status } = opening.await.map_err(io::Error::other)??;
            (Some((jobs, status)), Some(driver))
        }
    };
    let jobs = server.as_ref().map(|(jobs, _)| jobs.clone());
    let quorum =
        Quorum::new(id, params.keyspaces.clone(), caller.clone(), peers.clone(), fence.clone(), server);
    Ok(Leaderless { quorum, jobs, driver })
}

/// The replica of a server; a client has none.
async fn replica(
    params: &Params,
    network: Network,
    backend: &Arc<dyn StorageBackend>,
    meters: &Arc<Meters>,
) -> io::Result<Option<Node>> {
    match params.mode {
        Mode::Client => Ok(None),
        Mode::Server => {
            let own = network.own;
            Node::open(own, params.timing, network, backend, Arc::clone(meters)).await.map(Some)
        }
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
    writers: Writers,
    quorum: Quorum,
    jobs: Option<mpsc::Sender<quorum::Job>>,
    store: EmbeddedStore,
}

/// What becomes of a call.
type Answered = Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>>;

impl Desk {
    /// For the leaderless tier. Who may write to the log may write there, and nobody else.
    fn leaderless(&self, call: &Call, node: &Node) -> Answered {
        let denied = |why: String| Refusal::new(StatusCode::FORBIDDEN, why);
        if call.method.as_str() == quorum::PACKET {
            // What servers say to each other changes records as well.
            let answer = match self.writers.refuse(call, node) {
                Some(why) => Err(denied(why)),
                None => quorum::receive(self.jobs.as_ref(), call),
            };
            return Box::pin(std::future::ready(answer));
        }
        let asked = quorum::question(call).and_then(|asked| match &asked {
            (Want::Put(..), _) => self.writers.refuse(call, node).map_or(Ok(asked), |why| Err(denied(why))),
            (Want::Get(_) | Want::List { .. }, _) => Ok(asked),
        });
        let quorum = self.quorum.clone();
        Box::pin(async move {
            let (want, level) = asked?;
            quorum::answer(&quorum, want, level).await
        })
    }
}

impl Answering for Desk {
    fn answer(&self, call: Call) -> Answered {
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
        if matches!(call.method.as_str(), quorum::PACKET | quorum::ASK) {
            return match self.fence.admit_kin(call.body.clone()) {
                Ok(body) => self.leaderless(&Call { body, ..call }, &node),
                Err(refusal) => Box::pin(std::future::ready(Err(refusal))),
            };
        }
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
        if (call.method.as_str() == protocol::COMMAND || order::is_change(&call))
            && let Some(why) = self.writers.refuse(&call, &node)
        {
            // Whatever was asked: an answer that denies it is the same.
            let denied = protocol::write(&Answer::<Outcome>::Denied(why));
            return Box::pin(std::future::ready(Ok(denied)));
        }
        let store = self.store.clone();
        Box::pin(async move {
            if call.method.as_str() == PULSE {
                return pulse::answer(&node, &call);
            }
            if call.method.as_str() == ORDER {
                return store.answer_call(&call).await;
            }
            if let Some(answer) = node.answer(&call).await {
                return answer;
            }
            let unknown = || Err(Refusal::new(StatusCode::NOT_FOUND, "there is no such question"));
            embedded::answer(&node, &call).await.unwrap_or_else(unknown)
        })
    }
}

/// Keeps the log from growing by its bytes.
async fn shorten(node: Node) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = Shortened::default();
    loop {
        ticks.tick().await;
        node.shorten(&mut asked).await;
    }
}

/// As long as this node leads, has leases end when they have run out.
async fn expire(node: Node, store: EmbeddedStore) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let due = node.state().read(Kv::next_expiry);
        if node.role() == Role::Leader && due.is_some_and(|due| due <= node.log_time()) {
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
