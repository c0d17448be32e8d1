//! What a file of the log says of itself: whose it is, and of which store, in which epoch, its log is.

use std::{io, sync::Arc};

use serde::{Deserialize, Serialize};

use super::codec;
use crate::store::{
    backend::{Batch, Durability, StorageBackend, Table},
    core::bootstrap::StoreId,
};

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Label {
    /// The mesh that it belongs to.
    pub(in crate::store) cluster: String,
    /// The node whose it is.
    pub(in crate::store) node: u64,
    /// What its log is of, once that is known.
    pub(in crate::store) store: Option<StoreId>,
}

impl Label {
    /// What `backend` says; `None` if nobody has written it yet. Blocks.
    pub(in crate::store) fn read(backend: &Arc<dyn StorageBackend>) -> io::Result<Option<Self>> {
        let record = backend.get(Table::Meta, LABEL)?;
        record.map(|bytes| codec::decode(Table::Meta, LABEL, &bytes)).transpose()
    }

    /// Writes it, durably. Blocks.
    pub(in crate::store) fn write(&self, backend: &Arc<dyn StorageBackend>) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.put(Table::Meta, LABEL, codec::encode(self)?);
        backend.apply(batch, Durability::Durable)
    }
}

const LABEL: &[u8] = b"label";
