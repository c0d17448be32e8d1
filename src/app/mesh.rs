//! The sidecar's part in its mesh: what it says about itself, and where names of seeds are looked up.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{run::RunError, state::ProcessState, store::StoreSays};
use crate::{
    config::Bundle,
    directory::dns::Resolver,
    identity::MeshTls,
    membership::{Facts, Handle, Health, Lookup, Membership, Seed, Speaks, core::fact},
    rt::{Drain, DrainWatch, Phase, Tasks, clock},
    snapshot::{Protocol, SnapshotCell},
    telemetry::metrics::Registry,
    types::{EndpointAddress, Mono, Tags},
};

/// Tags that are told, and bytes of all of them together: what is told travels through the whole mesh, and one packet must
/// hold all that a member says about itself.
const MAX_TAGS: usize = 16;
const MAX_TAG_BYTES: usize = 512;
/// How often it is looked whether something else is to be said.
const LOOK: Duration = Duration::from_millis(250);
/// The load is told at most so often: it changes all the time, and what is told travels through the whole mesh.
const LOAD_EVERY: Duration = Duration::from_secs(5);

/// Binds the sockets of the gossip; `None` if the configuration knows no mesh.
pub(super) async fn bind(
    bundle: &Bundle,
    mesh: Option<Arc<MeshTls>>,
    registry: &Arc<Registry>,
    resolver: &Arc<Resolver>,
) -> Result<Option<Membership>, RunError> {
    let Some(params) = bundle.mesh.clone() else { return Ok(None) };
    let membership = Membership::bind(params, mesh, registry, lookup(Arc::clone(resolver))).await;
    membership.map(Some).map_err(RunError::start("cannot take part in the mesh"))
}

/// Starts to gossip, and to say about this sidecar what is so. `inbound` is where it takes requests.
pub(super) fn start(
    membership: Option<Membership>,
    inbound: Option<SocketAddr>,
    store: Option<StoreSays>,
    state: &Arc<ProcessState>,
    cell: &SnapshotCell,
    drain: &Drain,
    tasks: &mut Tasks,
) -> Option<Handle> {
    let membership = membership?;
    let handle = membership.handle();
    let tags = &state.running().bundle.directory.local.tags;
    if told(tags) != *tags {
        tracing::warn!(
            "not all tags of the service are told in the mesh: {MAX_TAGS} at most, with {MAX_TAG_BYTES} bytes together"
        );
    }
    let says = Says {
        gossip: membership.address(),
        inbound,
        store,
        state: Arc::clone(state),
        cell: Arc::clone(cell),
    };
    let (sender, facts) = watch::channel(says.facts(0));
    tasks.spawn("what is said in the mesh", says.keep(sender, drain.watch()));
    tasks.spawn("membership", membership.run(facts, drain.watch()));
    Some(handle)
}

/// As many of `tags` as are told, by name.
fn told(tags: &Tags) -> Tags {
    let mut room = MAX_TAG_BYTES;
    let fits = tags.iter().take(MAX_TAGS).take_while(|(name, value)| {
        let length = name.len() + value.len();
        let fits = length <= room && name.len().max(value.len()) <= fact::MAX_NAME;
        room = room.saturating_sub(length);
        fits
    });
    Tags::new(fits.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

fn lookup(resolver: Arc<Resolver>) -> Lookup {
    Arc::new(move |seed| {
        let resolver = Arc::clone(&resolver);
        Box::pin(async move {
            let (name, port) = match seed {
                Seed::Address(address) => return Ok(vec![address]),
                Seed::Name { name, port } => (name, Some(port)),
                Seed::Service { name } => (name, None),
            };
            let answer = resolver.resolve(&name, port).await.map_err(|error| format!("{name}: {error}"))?;
            let addresses = answer.endpoints.into_iter().filter_map(|endpoint| match endpoint.address {
                EndpointAddress::Tcp(address) => Some(address),
                EndpointAddress::Unix(_) => None,
            });
            Ok(addresses.collect())
        })
    })
}

/// What this sidecar says about itself.
struct Says {
    gossip: SocketAddr,
    inbound: Option<SocketAddr>,
    store: Option<StoreSays>,
    state: Arc<ProcessState>,
    cell: SnapshotCell,
}

impl Says {
    /// With this load.
    fn facts(&self, load: u8) -> Facts {
        let bundle = self.state.running().bundle;
        let local = &bundle.directory.local;
        let mesh = bundle.mesh.as_ref();
        let snapshot = self.cell.load();
        let endpoint = snapshot.inbound.cluster.endpoints.first();
        let health = match (&local.health_check, endpoint) {
            (Some(_), Some(endpoint)) if endpoint.live.is_healthy() => Health::Healthy,
            (Some(_), Some(_)) => Health::Unhealthy,
            (None, _) | (_, None) => Health::Unchecked,
        };
        let reached = self.inbound.map(|bound| {
            let ip = if bound.ip().is_unspecified() { self.gossip.ip() } else { bound.ip() };
            SocketAddr::new(ip, bound.port())
        });
        Facts {
            node: mesh.map_or_else(|| Arc::from("-"), |mesh| Arc::clone(&mesh.node)),
            service: Arc::clone(&local.name),
            endpoint: mesh.and_then(|mesh| mesh.advertise_endpoint).filter(|_| reached.is_some()).or(reached),
            speaks: match local.protocol {
                Protocol::Auto => Speaks::Auto,
                Protocol::Http1 => Speaks::Http1,
                Protocol::Http2 => Speaks::Http2,
                Protocol::Tcp => Speaks::Tcp,
            },
            secured: bundle.identity.is_some(),
            weight: mesh.map_or(1, |mesh| mesh.weight),
            tags: told(&local.tags),
            health,
            is_draining: self.state.drain.phase() > Phase::Running,
            load,
            version: env!("CARGO_PKG_VERSION").into(),
            store: self.store.as_ref().map(StoreSays::place),
            keys: Vec::new(),
        }
    }

    fn load(&self) -> u8 {
        let snapshot = self.cell.load();
        let endpoints = &snapshot.inbound.cluster.endpoints;
        fact::load(endpoints.iter().map(|endpoint| u64::from(endpoint.live.in_flight())).sum())
    }

    async fn keep(self, said: watch::Sender<Facts>, mut drain: DrainWatch) {
        let (mut load, mut told) = (0, Mono::ZERO);
        loop {
            tokio::select! {
                () = drain.reached(Phase::Stopped) => return,
                () = sleep(LOOK) => {}
            }
            let now = clock::now();
            if now.since(told) >= LOAD_EVERY {
                (load, told) = (self.load(), now);
            }
            let facts = self.facts(load);
            said.send_if_modified(|current| {
                let changed = *current != facts;
                if changed {
                    *current = facts;
                }
                changed
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(count: usize, length: usize) -> Tags {
        Tags::new((0..count).map(|number| (format!("{number:02}"), "x".repeat(length))))
    }

    #[test]
    fn no_more_tags_are_told_than_one_packet_holds() {
        assert_eq!(told(&tags(16, 20)), tags(16, 20));
        assert_eq!(told(&tags(17, 1)), tags(16, 1));
        assert_eq!(told(&tags(16, 62)), tags(8, 62));
        assert_eq!(told(&tags(1, 65)), Tags::default());
    }
}
