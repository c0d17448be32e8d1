//! After a change of the encryption key, seals anew what was sealed with an older one, or not at all: slowly, beside the
//! log's own writes. Then the older keys can be taken out of the configuration.

use std::{io, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    backend::{Batch, Durability, Resealed, Sealed, StorageBackend, Table},
    meters::{Meters, OlderKeys},
};

/// Records that are looked at in one step, and the pause after it.
const RECORDS: usize = 256;
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes that are written in a second.
const RATE: f64 = 4.0 * 1024.0 * 1024.0;
/// Kept so that there is something to write when all is done: that makes all before it durable.
const DONE: &[u8] = b"resealed";

/// Goes once through all tables of these files, and says so when no record needs an older key any more. A record that cannot
/// be read ends it: the next start meets that one anyway.
pub(super) async fn run<Inner: StorageBackend>(
    backends: impl IntoIterator<Item = Arc<Sealed<Inner>>>,
    meters: Arc<Meters>,
) {
    let backends: Vec<_> = backends.into_iter().filter(|backend| backend.may_have_older()).collect();
    if backends.is_empty() {
        return;
    }
    meters.tell_older_keys(OlderKeys::Needed);
    match each(&backends).await {
        Ok(records) => {
            meters.tell_older_keys(OlderKeys::Done);
            tracing::info!(
                records,
                "all records of the store are sealed with its newest key: store.older_encryption_keys can be taken out"
            );
        }
        Err(error) => {
            tracing::error!(%error, "the store cannot be sealed anew: its older keys stay needed");
        }
    }
}

async fn each<Inner: StorageBackend>(backends: &[Arc<Sealed<Inner>>]) -> io::Result<u64> {
    let mut records = 0;
    for backend in backends {
        records += all(backend).await?;
    }
    Ok(records)
}

async fn all<Inner: StorageBackend>(backend: &Arc<Sealed<Inner>>) -> io::Result<u64> {
    let mut records = 0;
    for table in Table::ALL {
        let mut next = Some(Vec::new());
        while let Some(from) = next {
            let sealing = Arc::clone(backend);
            let done: Resealed = blocking(move || sealing.reseal(table, &from, RECORDS)).await?;
            records += done.records;
            sleep(PAUSE.max(Duration::from_secs_f64(done.bytes as f64 / RATE))).await;
            next = done.next;
        }
    }
    let sealing = Arc::clone(backend);
    blocking(move || {
        let mut batch = Batch::default();
        batch.put(Table::Meta, DONE, Vec::new());
        sealing.apply(batch, Durability::Durable)
    })
    .await?;
    Ok(records)
}

/// Off the runtime's workers: a write takes as long as the disk does.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::{Keys, Memory, Plain, SealKey, Span};

    fn key(id: u8) -> SealKey {
        SealKey::new(id, &[id; 32]).unwrap()
    }

    #[tokio::test]
    async fn after_it_no_record_needs_an_older_key_and_none_is_lost_or_comes_back() {
        let file = Arc::new(Memory::default());
        let of = |newest, older: &[u8], plain| {
            let older = older.iter().map(|id| key(*id)).collect();
            Sealed::new(Arc::clone(&file), Keys::Some { newest: key(newest), older, plain })
        };
        let put = |backend: &dyn StorageBackend, table, name: &str, value: &[u8]| {
            let mut batch = Batch::default();
            batch.put(table, name.as_bytes(), value);
            backend.apply(batch, Durability::Durable).unwrap();
        };
        let (plain, first) = (Sealed::new(Arc::clone(&file), Keys::None), of(1, &[], Plain::Accepted));
        for number in 0..300 {
            put(&plain, Table::Log, &format!("p{number:03}"), b"not encrypted");
            put(&first, Table::Log, &format!("q{number:03}"), b"with the first key");
        }
        // Some that are more than one step together.
        for number in 0..3 {
            put(&first, Table::Snapshot, &format!("{number}"), &vec![7; 700 * 1024]);
        }
        put(&first, Table::Meta, "vote", b"");
        let second = Arc::new(of(2, &[1], Plain::Accepted));
        put(&*second, Table::Log, "q000", b"changed");
        let mut gone = Batch::default();
        gone.delete(Table::Log, *b"q001");
        second.apply(gone, Durability::Durable).unwrap();

        let meters = Arc::new(Meters::default());
        assert_eq!(meters.older_keys(), None);
        run([Arc::clone(&second)], Arc::clone(&meters)).await;
        assert_eq!(meters.older_keys(), Some(OlderKeys::Done));

        let alone = of(2, &[], Plain::Refused);
        let log = alone.range(Table::Log, Span::ALL, 1000).unwrap();
        assert_eq!(log.len(), 599);
        let value = |name: &[u8]| log.iter().find(|(key, _)| key == name).map(|(_, value)| &value[..]);
        assert_eq!((value(b"q000"), value(b"q001")), (Some(&b"changed"[..]), None));
        assert_eq!(
            (value(b"p299"), value(b"q299")),
            (Some(&b"not encrypted"[..]), Some(&b"with the first key"[..]))
        );
        assert_eq!(alone.range(Table::Snapshot, Span::ALL, 9).unwrap().len(), 3);
        assert!(alone.get(Table::Meta, b"vote").unwrap().is_some());
    }

    #[tokio::test]
    async fn with_a_record_that_cannot_be_read_the_older_keys_stay_needed() {
        let file = Arc::new(Memory::default());
        let mut batch = Batch::default();
        batch.put(Table::Log, *b"a", *b"\x01 nobody has sealed this with any key");
        file.apply(batch, Durability::Durable).unwrap();
        let keys = Keys::Some { newest: key(2), older: vec![key(1)], plain: Plain::Refused };
        let meters = Arc::new(Meters::default());
        run([Arc::new(Sealed::new(file, keys))], Arc::clone(&meters)).await;
        assert_eq!(meters.older_keys(), Some(OlderKeys::Needed));
    }
}
