//! Tables in memory, for stores that need not outlive their process, and for tests.

use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Batch, Change, Durability, Records, Span, StorageBackend, Table};

/// Tables in memory. Nothing of them outlives the value.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Tables>);

type Tables = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        // No step of a batch can panic, so what a poisoned lock guards is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Memory {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.tables().get(&table).and_then(|records| records.get(key)).cloned())
    }

    fn range(&self, table: Table, span: Span<'_>, limit: usize) -> io::Result<Records> {
        if span.is_empty() {
            return Ok(Vec::new());
        }
        let tables = self.tables();
        let Some(records) = tables.get(&table) else { return Ok(Vec::new()) };
        let found = records.range::<[u8], _>(bounds(span)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn last_key(&self, table: Table) -> io::Result<Option<Vec<u8>>> {
        Ok(self.tables().get(&table).and_then(|records| records.keys().next_back()).cloned())
    }

    fn apply(&self, batch: Batch, _: Durability) -> io::Result<()> {
        let mut tables = self.tables();
        for change in batch.into_changes() {
            match change {
                Change::Put { table, key, value } => {
                    tables.entry(table).or_default().insert(key, value);
                }
                Change::Delete { table, key } => {
                    tables.entry(table).or_default().remove(&key);
                }
                Change::DeleteSpan { table, from, before } => {
                    let span = Span { from: &from, before: before.as_deref() };
                    tables.entry(table).or_default().retain(|key, _| !span.contains(key));
                }
            }
        }
        Ok(())
    }
}

/// The bounds of a span that is not empty.
pub(super) fn bounds(span: Span<'_>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(span.from), span.before.map_or(Bound::Unbounded, Bound::Excluded))
}
