//! The sidecar's part in the store of its mesh: what the membership knows of the other nodes, and what this one says.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::run::RunError;
#[cfg(feature = "etcd")]
use crate::store::{Backend, EtcdService};
use crate::{
    config::Bundle,
    identity::MeshTls,
    membership::{Member, MemberState, Membership, MembershipView, Seed, StorePlace},
    peer::rpc::Known,
    rt::{Drain, DrainWatch, Phase, Tasks},
    store::{Agreement, Mode, Peer, Quorum, QuorumStatus, Says, Service, ServiceParams, Standing, Store},
    telemetry::metrics::{QuorumMetrics, QuorumNumbers, Registry},
};

/// What this sidecar says in the mesh about its part in the store.
#[derive(Clone)]
pub(super) struct StoreSays {
    address: SocketAddr,
    is_server: bool,
    founded: watch::Receiver<Option<u64>>,
    keyspaces: u32,
}

impl StoreSays {
    pub(super) fn place(&self) -> StorePlace {
        let Self { address, is_server, founded, keyspaces } = self;
        StorePlace {
            address: *address,
            is_server: *is_server,
            founded: *founded.borrow(),
            keyspaces: *keyspaces,
        }
    }
}

/// Opens the part of this sidecar in the store; `None` if the configuration knows none. It does nothing before
/// [`start`].
pub(super) async fn open(
    bundle: &Bundle,
    membership: Option<&Membership>,
    mesh: Option<Arc<MeshTls>>,
    registry: &Arc<Registry>,
) -> Result<Option<OpenedStore>, RunError> {
    let Some(params) = bundle.store.clone() else { return Ok(None) };
    #[cfg(feature = "etcd")]
    if let Backend::Etcd(etcd) = params.backend {
        if let Some(directory) = &params.data_dir {
            let made = tokio::fs::create_dir_all(directory).await;
            made.map_err(RunError::start("cannot make the directory of the store"))?;
        }
        let node = bundle.mesh.as_ref().map_or(&bundle.directory.local.name, |mesh| &mesh.node);
        return Ok(Some(OpenedStore::Etcd(EtcdService::new(&format!("node/{node}"), etcd))));
    }
    let (Some(membership), Some(gossip)) = (membership, &bundle.mesh) else { return Ok(None) };
    let is_server = params.mode == Mode::Server;
    let view = membership.view();
    let (peers, known) = watch::channel(Arc::new(Vec::new()));
    let joined = gossip.join.iter().filter_map(|seed| match seed {
        Seed::Address(address) => Some(*address),
        Seed::Name { .. } | Seed::Service { .. } => None,
    });
    let mut seeds: Vec<SocketAddr> = joined.collect();
    if gossip.join.is_empty() {
        // The first node of a mesh: it is what the others join by.
        seeds.push(membership.address());
    }
    let service = Service::open(ServiceParams {
        seeds: seeds.clone(),
        is_seed: seeds.contains(&membership.address()),
        id: membership.id().0,
        node: Arc::clone(&gossip.node),
        cluster: Arc::clone(&gossip.cluster),
        mesh,
        peers: known,
        promises: gossip.data_dir.clone(),
        store: params.clone(),
    })
    .await
    .map_err(RunError::start("cannot take part in the store"))?;
    service.count_into(registry);
    let bound = service.local_address();
    let reached = params.advertise.unwrap_or_else(|| {
        let ip = if bound.ip().is_unspecified() { membership.address().ip() } else { bound.ip() };
        SocketAddr::new(ip, bound.port())
    });
    let keyspaces = params.keyspaces.digest();
    let says = StoreSays { address: reached, is_server, founded: service.founded(), keyspaces };
    let agreement = Agreement::new(params.keyspaces);
    let embedded = Embedded { service, says, view, seeds, peers, agreement };
    Ok(Some(OpenedStore::Embedded(Box::new(embedded))))
}

/// The part of this sidecar in the store, before it does anything.
pub(super) enum OpenedStore {
    Embedded(Box<Embedded>),
    #[cfg(feature = "etcd")]
    Etcd(EtcdService),
}

/// Its part in the store of the mesh.
pub(super) struct Embedded {
    service: Service,
    says: StoreSays,
    view: watch::Receiver<Arc<MembershipView>>,
    seeds: Vec<SocketAddr>,
    peers: watch::Sender<Arc<Vec<Peer>>>,
    agreement: Agreement,
}

/// Starts the tasks of `opened`. Gives the store, and what is to be said of it in the mesh.
pub(super) fn start(
    opened: Option<OpenedStore>,
    registry: &Arc<Registry>,
    drain: &Drain,
    tasks: &mut Tasks,
) -> (Option<Store>, Option<StoreSays>) {
    match opened {
        None => (None, None),
        Some(OpenedStore::Embedded(embedded)) => {
            let Embedded { service, says, view, seeds, peers, agreement } = *embedded;
            let (store, metrics) = (service.store(), QuorumMetrics::resolve(registry));
            if let Some(status) = store.quorum().and_then(Quorum::status) {
                tasks.spawn("numbers of the leaderless tier", show(status, metrics.clone()));
            }
            let following = Following { view, seeds, peers, known: service.known(), agreement, metrics };
            tasks.spawn("peers of the store", following.follow(drain.watch()));
            tasks.spawn("store", service.run(drain.watch()));
            (Some(store), Some(says))
        }
        #[cfg(feature = "etcd")]
        Some(OpenedStore::Etcd(service)) => {
            let store = service.store();
            tasks.spawn("etcd", service.run(drain.watch()));
            (Some(store), None)
        }
    }
}

/// Shows what the leaderless tier has counted, whenever it tells.
async fn show(mut status: watch::Receiver<QuorumStatus>, metrics: QuorumMetrics) {
    loop {
        metrics.show(&numbers(&status.borrow_and_update()));
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn numbers(status: &QuorumStatus) -> QuorumNumbers {
    let QuorumStatus { counts, records, tombstones, hints, .. } = status;
    QuorumNumbers {
        read_repairs: counts.read_repairs,
        hints: [counts.hints_queued, counts.hints_replayed, counts.hints_dropped],
        differences: counts.differences,
        collected: counts.tombstones_collected,
        clock_refusals: counts.clock_refusals,
        purges: counts.purges,
        kept: [records.saturating_sub(*tombstones), *tombstones, *hints],
    }
}

/// What the store is to learn of the mesh, and how.
struct Following {
    view: watch::Receiver<Arc<MembershipView>>,
    seeds: Vec<SocketAddr>,
    peers: watch::Sender<Arc<Vec<Peer>>>,
    known: Arc<Known>,
    agreement: Agreement,
    metrics: QuorumMetrics,
}

impl Following {
    /// Tells the store who is in the mesh, and who has proved to be of which service, whenever that changes; and people, who
    /// has other keyspaces.
    async fn follow(mut self, mut drain: DrainWatch) {
        loop {
            let view = Arc::clone(&self.view.borrow_and_update());
            self.known.learn(proved(&view).filter_map(|member| {
                let facts = member.facts.as_ref()?;
                Some((member.id.0, Arc::clone(&facts.service)))
            }));
            self.metrics
                .show_disagreeing(self.agreement.compare(proved(&view).filter_map(|member| says(member))));
            let peers: Vec<Peer> = proved(&view).filter_map(|member| peer(member, &self.seeds)).collect();
            self.peers.send_if_modified(|last| {
                let changed = **last != peers;
                if changed {
                    *last = Arc::new(peers);
                }
                changed
            });
            tokio::select! {
                () = drain.reached(Phase::Stopped) => return,
                changed = self.view.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Those who have proved who they are.
fn proved(view: &MembershipView) -> impl Iterator<Item = &Arc<Member>> {
    view.members.iter().filter(|member| member.is_confirmed || view.own == Some(member.id))
}

/// What a member that is there says of its keyspaces.
fn says(member: &Member) -> Option<Says<'_>> {
    let facts = member.facts.as_ref()?;
    let digest = facts.store?.keyspaces;
    match member.state {
        MemberState::Alive | MemberState::Suspect => {
            Some(Says { id: member.id.0, name: &facts.node, digest })
        }
        MemberState::Dead | MemberState::Left => None,
    }
}

fn peer(member: &Member, seeds: &[SocketAddr]) -> Option<Peer> {
    let facts = member.facts.as_ref()?;
    let place = facts.store?;
    Some(Peer {
        id: member.id.0,
        name: Arc::clone(&facts.node),
        address: place.address,
        is_server: place.is_server,
        is_seed: seeds.contains(&member.address),
        founded: place.founded,
        standing: match member.state {
            MemberState::Alive => Standing::Alive,
            MemberState::Suspect => Standing::Suspect,
            MemberState::Dead | MemberState::Left => Standing::Gone,
        },
        since: member.since,
        zone: facts.tags.zone().unwrap_or_default().into(),
        is_draining: facts.is_draining,
    })
}
