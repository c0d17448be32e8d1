//! Joins configuration and discovery into the snapshot that the data plane reads.

mod build;
mod discovery;
mod driver;
mod live;
mod params;

pub mod dns;

pub use build::{
    Inputs, build,
    members::{Gathered, Instances, Mismatch, gather},
};
pub use driver::{Directory, Publisher};
pub use live::LiveTable;
pub use params::{DirectoryParams, LocalServiceParams};
