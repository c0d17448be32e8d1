//! How the endpoints of a service are made to prove who they are.

use std::sync::Arc;

use crate::identity::{PeerTls, external::ExternalTls};

/// What is spoken to the endpoints of a service beneath its protocol.
#[derive(Clone, Debug, Default)]
pub enum UpstreamTls {
    /// Nothing: plaintext.
    #[default]
    None,
    /// Mutual TLS of the mesh.
    Mesh(Arc<PeerTls>),
    /// TLS to somebody outside of the mesh.
    External(Arc<ExternalTls>),
    /// It was asked for and cannot be: nothing is spoken at all.
    Impossible,
}

impl UpstreamTls {
    /// Whether connections that were made with `other` may be used with this one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) | (Self::Impossible, Self::Impossible) => true,
            (Self::Mesh(one), Self::Mesh(other)) => Arc::ptr_eq(one, other),
            (Self::External(one), Self::External(other)) => Arc::ptr_eq(one, other),
            (Self::None | Self::Impossible | Self::Mesh(_) | Self::External(_), _) => false,
        }
    }

    /// Rises whenever connections that were made so far should take no new requests.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        match self {
            Self::None | Self::Impossible | Self::External(_) => 0,
            Self::Mesh(peer) => peer.epoch(),
        }
    }
}
