//! The replicated key-value store of a mesh: small shared state, the same on all sidecars. Knows nothing of routes and
//! services; what is kept in it is another's business.

mod archive;
pub mod backend;
pub mod bodies;
mod choice;
#[cfg(test)]
mod conformance;
pub mod core;
mod embedded;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod external;
mod fence;
mod files;
mod founding;
mod handle;
mod memory;
mod meters;
mod order;
mod params;
mod peers;
#[cfg(feature = "planted-bugs")]
pub mod planted;
mod protocol;
mod pulse;
pub mod quorum;
pub mod raft;
mod recover;
mod resealing;
mod service;
mod status;
mod traits;
mod voters;
mod writers;

pub use archive::{Archive, ArchiveError, has_log, restore};
pub use embedded::{EmbeddedStore, EmbeddedWatch};
pub use error::StoreError;
#[cfg(feature = "etcd")]
pub use etcd::{EtcdService, EtcdStore, EtcdWatch};
pub use external::{Backend, EtcdCertificate, EtcdLogin, EtcdParams, EtcdTls};
pub use handle::{Store, StoreWatch};
pub use memory::{MemoryStore, MemoryWatch};
pub use order::{Done, Seated};
pub use params::{Mode, Params, StoreKey, StoreKeys, Timing};
pub use peers::{Peer, Peers, Standing};
pub use protocol::{POSITION, Whereabouts};
pub use quorum::{
    Agreement, Consistency, Held, Keyspace, KeyspaceLevel, Keyspaces, Quorum, QuorumStatus, Says, Token,
    core as quorum_core, core::rules::Spec,
};
pub use recover::{Position, Renewed, Seat, Whose, inspect, recover};
pub use service::{Service, ServiceParams, StartError};
pub use status::{Replica, StoreStatus};
pub use traits::{
    Historical, Leasable, Level, Progress, Readable, Replicated, Role, Scan, Transactional, Watch, Watchable,
    Writable,
};
pub use writers::Writer;
