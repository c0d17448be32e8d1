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

/// Stands for what is spoken and believed: a connection that was made under another one takes no new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsEpoch {
    /// Plaintext.
    Plain,
    /// Mutual TLS of the mesh, since whom it believes changed so often.
    Mesh(u64),
    /// TLS to somebody outside, with this mark of what is asked for, believed and shown.
    External(u64),
    /// None is made.
    Impossible,
}

impl UpstreamTls {
    /// Changes whenever connections that were made so far should take no new requests.
    #[must_use]
    pub fn epoch(&self) -> TlsEpoch {
        match self {
            Self::None => TlsEpoch::Plain,
            Self::Mesh(peer) => TlsEpoch::Mesh(peer.epoch()),
            Self::External(external) => TlsEpoch::External(external.mark()),
            Self::Impossible => TlsEpoch::Impossible,
        }
    }
}
