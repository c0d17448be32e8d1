//! What those need of the store who carry out the orders of operators.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{EmbeddedStore, Parts, Whom};
use crate::store::{
    core::order::OrderError,
    protocol::{Answer, Asked, ORDER, Told},
};

impl EmbeddedStore {
    pub(in crate::store) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// Asks the leader what an operator wants of it.
    pub(in crate::store) async fn ask_for_order(
        &self,
        asked: &Asked,
        limit: Duration,
    ) -> Answer<Result<Told, OrderError>> {
        self.ask(Whom::Leader, ORDER, asked, limit).await
    }

    /// Somebody says that this one leads, or nobody.
    pub(in crate::store) fn heard_of(&self, leader: Option<u64>) {
        self.0.leader.store(leader.unwrap_or(0), Relaxed);
    }
}
