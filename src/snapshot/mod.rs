//! What the data plane reads: one immutable [`MeshSnapshot`] per configuration and discovery state, replaced as
//! a whole through [`SnapshotCell`], and the live numbers of each endpoint, which outlive it.

mod absence;
mod adaptive;
mod admission;
mod census;
mod cluster;
mod endpoint;
mod ext_authz;
mod limiter;
mod mesh;
mod params;
mod passthrough;
mod selection;
mod strikes;
mod traffic;
mod upstream_tls;

pub use adaptive::{AdaptiveLimiter, AdaptiveLive, ConcurrencySlot};
pub use admission::Admission;
pub use cluster::{ActiveRequest, Changes, Cluster, ClusterLive, Retrying, Selections};
pub use endpoint::{Endpoint, EndpointId, EndpointLive, Safeguards, Standing, Verdict};
pub use ext_authz::{ExtAuthz, ExtAuthzParams};
pub use limiter::{KeyStore, Limited, RateLimiter};
pub use mesh::{Destination, Forward, InboundApp, MeshSnapshot, Route, RouteAction, SnapshotCell, Unrouted};
pub use params::{
    ClusterParams, EndpointParams, EndpointSource, HealthCheckKind, HealthCheckParams, Limits, Protocol,
    StatusRange, SubsetFallback, UpstreamTlsParams,
};
pub use passthrough::{Passthrough, PassthroughParams, PassthroughSide};
pub use selection::{Group, Selection, SelectionId};
pub use traffic::{Fault, Mirror, Traffic};
pub use upstream_tls::{TlsEpoch, UpstreamTls};
