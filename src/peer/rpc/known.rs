//! Which node has which identity, as far as that was proved: whoever calls, and whoever is called, is held to it. Who
//! proves it to whom is not here.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    rt::clock,
    types::{Mono, SpiffeId},
};

/// Nodes that are remembered: more than a mesh has.
const MOST: usize = 16 * 1024;
/// One line of the log for so long: whoever is refused asks again at once.
const QUIET: Duration = Duration::from_secs(10);

/// The services whose identities nodes have proved. What was proved once holds until something else is: a node that the
/// mesh has lost sight of may still be heard.
#[derive(Debug, Default)]
pub struct Known {
    services: RwLock<HashMap<u64, Arc<str>>>,
    told: AtomicU64,
}

/// Why a node is not taken for who it says to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproved {
    /// It is not known here, or not yet.
    #[error("node {0:016x} has not proved yet who it is (outrigger members)")]
    Unknown(u64),
    /// It has the identity of another service.
    #[error("node {node:016x} has proved to be of the service `{proved}`, and this connection is of {shown}")]
    Other {
        /// Which node.
        node: u64,
        /// Of which service it is.
        proved: Arc<str>,
        /// What the certificate of the connection says.
        shown: SpiffeId,
    },
}

impl Known {
    /// These nodes have proved to be of these services.
    pub fn learn(&self, nodes: impl IntoIterator<Item = (u64, Arc<str>)>) {
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        for (node, service) in nodes {
            if services.len() < MOST || services.contains_key(&node) {
                services.insert(node, service);
            }
        }
    }

    /// Whether the bearer of `shown` may be `node`.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, node: u64, shown: &SpiffeId) -> Result<(), Unproved> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        match services.get(&node) {
            None => Err(Unproved::Unknown(node)),
            Some(proved) if shown.service() == Some(&**proved) => Ok(()),
            Some(proved) => Err(Unproved::Other { node, proved: Arc::clone(proved), shown: shown.clone() }),
        }
    }

    /// Says so in the log, once in a while.
    pub(super) fn tell(&self, what: &'static str, error: &Unproved) {
        let (now, last) = (clock::now(), self.told.load(Relaxed));
        let is_quiet = last != 0 && now.since(Mono::from_nanos(last)) < QUIET;
        if is_quiet || self.told.compare_exchange(last, now.as_nanos(), Relaxed, Relaxed).is_err() {
            return;
        }
        match error {
            Unproved::Unknown(_) => tracing::info!(%error, "{what}"),
            Unproved::Other { .. } => tracing::warn!(%error, "{what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_held_to_what_it_has_proved() {
        let known = Known::default();
        let id = |name: &str| format!("spiffe://mesh.local/service/{name}").parse::<SpiffeId>().unwrap();
        assert_eq!(known.judge(7, &id("web")), Err(Unproved::Unknown(7)));
        known.learn([(7, Arc::from("web"))]);
        assert_eq!(known.judge(7, &id("web")), Ok(()));
        let other = Unproved::Other { node: 7, proved: "web".into(), shown: id("api") };
        assert_eq!(known.judge(7, &id("api")), Err(other));
        // It was given another name, and has proved that.
        known.learn([(7, Arc::from("api"))]);
        assert_eq!(known.judge(7, &id("api")), Ok(()));
    }
}
