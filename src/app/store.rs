//! The sidecar's part in the store of its mesh: what the membership knows of the other nodes, and what this one says.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::run::RunError;
use crate::{
    config::Bundle,
    identity::MeshTls,
    membership::{Member, MemberState, Membership, MembershipView, Seed, StorePlace},
    rt::{Drain, DrainWatch, Phase, Tasks},
    store::{Mode, Peer, Service, ServiceParams, Standing, Store},
};

/// What this sidecar says in the mesh about its part in the store.
#[derive(Clone)]
pub(super) struct StoreSays {
    address: SocketAddr,
    is_server: bool,
    founded: watch::Receiver<Option<u64>>,
}

impl StoreSays {
    pub(super) fn place(&self) -> StorePlace {
        let Self { address, is_server, founded } = self;
        StorePlace { address: *address, is_server: *is_server, founded: *founded.borrow() }
    }
}

/// Opens the part of this sidecar in the store; `None` if the configuration knows none. It does nothing before
/// [`OpenedStore::start`].
pub(super) async fn open(
    bundle: &Bundle,
    membership: Option<&Membership>,
    mesh: Option<Arc<MeshTls>>,
) -> Result<Option<OpenedStore>, RunError> {
    let (Some(params), Some(membership), Some(gossip)) = (bundle.store.clone(), membership, &bundle.mesh)
    else {
        return Ok(None);
    };
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
    let bound = service.local_address();
    let reached = params.advertise.unwrap_or_else(|| {
        let ip = if bound.ip().is_unspecified() { membership.address().ip() } else { bound.ip() };
        SocketAddr::new(ip, bound.port())
    });
    let says = StoreSays { address: reached, is_server, founded: service.founded() };
    Ok(Some(OpenedStore { service, says, view, seeds, peers }))
}

/// The part of this sidecar in the store, before it does anything.
pub(super) struct OpenedStore {
    service: Service,
    says: StoreSays,
    view: watch::Receiver<Arc<MembershipView>>,
    seeds: Vec<SocketAddr>,
    peers: watch::Sender<Arc<Vec<Peer>>>,
}

impl OpenedStore {
    /// Starts its tasks. Gives the store, and what is to be said of it in the mesh.
    pub(super) fn start(self, drain: &Drain, tasks: &mut Tasks) -> (Store, StoreSays) {
        let store = self.service.store();
        tasks.spawn("peers of the store", follow(self.view, self.seeds, self.peers, drain.watch()));
        tasks.spawn("store", self.service.run(drain.watch()));
        (store, self.says)
    }
}

/// Tells the store who is in the mesh, whenever that changes.
async fn follow(
    mut view: watch::Receiver<Arc<MembershipView>>,
    seeds: Vec<SocketAddr>,
    peers: watch::Sender<Arc<Vec<Peer>>>,
    mut drain: DrainWatch,
) {
    loop {
        let known = known(&view.borrow_and_update(), &seeds);
        peers.send_if_modified(|last| {
            let changed = **last != known;
            if changed {
                *last = Arc::new(known);
            }
            changed
        });
        tokio::select! {
            () = drain.reached(Phase::Stopped) => return,
            changed = view.changed() => if changed.is_err() { return },
        }
    }
}

/// Those who have a part in the store and have proved who they are.
fn known(view: &MembershipView, seeds: &[SocketAddr]) -> Vec<Peer> {
    let is_known = |member: &&Arc<Member>| member.is_confirmed || view.own == Some(member.id);
    view.members.iter().filter(is_known).filter_map(|member| peer(member, seeds)).collect()
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
