//! Outrigger: a service mesh without a control plane. One binary stands beside each service instance and
//! proxies what goes in and out of it. ARCHITECTURE.md is the map; the modules below are listed in import order.
//!
//! The flow has one direction: inputs (file, DNS) → [`directory`] → [`snapshot`] → requests in [`proxy`].
//! The only way back is numbers: outcomes go into per-endpoint atomics that the [`policy`] reads.

pub mod types;

pub mod policy;
pub mod rt;
pub mod telemetry;

pub mod identity;
pub mod snapshot;

pub mod net;

pub mod peer;

pub mod membership;
pub mod proxy;
pub mod store;

pub mod directory;

pub mod admin;

pub mod config;

pub mod app;

pub mod cli;
