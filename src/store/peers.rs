//! The other nodes, as the membership knows them. It informs; who votes is decided in the log alone.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::types::Mono;

/// A node that has a part in the store, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is, for ever: a number by chance.
    pub id: u64,
    /// Its name.
    pub name: Arc<str>,
    /// Where its store is reached.
    pub address: SocketAddr,
    /// Whether it may become a voter.
    pub is_server: bool,
    /// Whether this node is configured to join the mesh by it.
    pub is_seed: bool,
    /// The store that it has a part in.
    pub founded: Option<u64>,
    /// What is thought of it.
    pub standing: Standing,
    /// Since when.
    pub since: Mono,
    /// Where it is; voters are spread over zones. Empty if it does not say.
    pub zone: Arc<str>,
    /// It is about to leave.
    pub is_draining: bool,
}

/// What the membership thinks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Alive,
    /// It may be gone.
    Suspect,
    /// It is gone.
    Gone,
}

/// All that are known and have proved who they are, this node included, as last seen.
pub type Peers = watch::Receiver<Arc<Vec<Peer>>>;

/// Where `id` is reached, if it is known.
pub(super) fn address(peers: &Peers, id: u64) -> Option<SocketAddr> {
    peers.borrow().iter().find(|peer| peer.id == id).map(|peer| peer.address)
}
