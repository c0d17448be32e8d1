//! What goes on while nobody asks: etcd is looked for, so that it is known whether it is there.

use std::{sync::Arc, time::Duration};

use super::EtcdStore;
use crate::{
    rt::{DrainWatch, Phase},
    store::{EtcdParams, Level, Readable as _, Scan, Store, StoreError},
};

/// How often it is asked.
const LOOK: Duration = Duration::from_secs(2);

/// The part of a sidecar in a store that an etcd keeps.
#[derive(Debug)]
pub struct EtcdService {
    store: EtcdStore,
    endpoints: Vec<Arc<str>>,
}

impl EtcdService {
    /// The store at `params`, which need not be there yet.
    #[must_use]
    pub fn new(author: &str, params: EtcdParams) -> Self {
        let endpoints = params.endpoints.clone();
        Self { store: EtcdStore::new(author, params), endpoints }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::Etcd(self.store.clone())
    }

    /// Looks for etcd until the process leaves.
    pub async fn run(self, mut drain: DrainWatch) {
        tokio::select! {
            () = drain.reached(Phase::Stopped) => {}
            () = self.look() => {}
        }
    }

    async fn look(&self) {
        // A key that is not read, below a beginning that nobody has: what counts is that it is answered.
        let scan = Scan { prefix: "\u{10ffff}".to_owned(), after: None, limit: 1 };
        let mut was_there = None;
        loop {
            let answered = self.store.scan(&scan, Level::Strong).await;
            match &answered {
                Ok(_) if was_there != Some(true) => {
                    tracing::info!(endpoints = ?self.endpoints, "etcd answers");
                }
                // A certificate that does not fit, a password: that does not go by itself.
                Err(error @ StoreError::Failed(_)) if was_there != Some(false) => {
                    tracing::error!(%error, endpoints = ?self.endpoints, "etcd refuses");
                }
                Err(error) if was_there != Some(false) => {
                    tracing::warn!(%error, endpoints = ?self.endpoints, "etcd does not answer; what was known last is served");
                }
                Ok(_) | Err(_) => {}
            }
            was_there = Some(answered.is_ok());
            tokio::time::sleep(LOOK).await;
        }
    }
}
