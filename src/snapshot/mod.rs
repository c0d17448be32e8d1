//! What the data plane reads: one immutable [`MeshSnapshot`] per configuration and discovery state, replaced as
//! a whole through [`SnapshotCell`], and the live numbers of each endpoint, which outlive it.

mod params;

pub use params::{
    ClusterParams, EndpointParams, EndpointSource, HealthCheckKind, HealthCheckParams, Limits, Protocol,
    StatusRange,
};
