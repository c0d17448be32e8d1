//! One suite that every backend has to pass, and what is particular to each. The doubles are used by the tests of the
//! log too: a backend that fails, and one that loses power.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;

/// A folder that goes with the value.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("outrigger-store-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("store.redb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A backend that fails one of its writes.
#[derive(Debug)]
pub(crate) struct Failing {
    pub(crate) inner: Memory,
    /// How many writes are left before.
    pub(crate) left: AtomicUsize,
}

impl StorageBackend for Failing {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.inner.get(table, key)
    }

    fn range(&self, table: Table, span: Span<'_>, limit: usize) -> io::Result<Records> {
        self.inner.range(table, span, limit)
    }

    fn last_key(&self, table: Table) -> io::Result<Option<Vec<u8>>> {
        self.inner.last_key(table)
    }

    fn apply(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        let left =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
        if left == Ok(1) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no room is left on the disk"));
        }
        self.inner.apply(batch, durability)
    }
}

/// A file in memory that forgets, when power is lost, what was not synced: all of it, or some of its writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volatile(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    seen: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since then; those that set the length have no bytes.
    pending: Vec<(u64, Vec<u8>)>,
    syncs: usize,
    lost: bool,
}

impl Volatile {
    /// The file after a loss of power: of what was not synced, the writes that `stays` picks by their number.
    pub(crate) fn lose_power(&self, stays: impl Fn(usize) -> bool) -> Self {
        let mut pages = self.0.lock().unwrap();
        pages.lost = true;
        let mut left = pages.synced.clone();
        left.resize(left.len().max(pages.seen.len()), 0);
        for (_, (offset, bytes)) in pages.pending.iter().enumerate().filter(|(number, _)| stays(*number)) {
            let start = usize::try_from(*offset).unwrap();
            let end = (start + bytes.len()).min(left.len());
            left[start..end].copy_from_slice(&bytes[..end - start]);
        }
        Self(Arc::new(Mutex::new(Pages { seen: left.clone(), synced: left, ..Pages::default() })))
    }

    pub(crate) fn disk(&self) -> io::Result<Disk> {
        Disk::with_backend("volatile".as_ref(), self.clone())
    }

    pub(crate) fn syncs(&self) -> usize {
        self.0.lock().unwrap().syncs
    }
}

impl redb::StorageBackend for Volatile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let pages = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let bytes = pages.seen.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().seen.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut pages = self.0.lock().unwrap();
        if !pages.lost {
            pages.synced = pages.seen.clone();
            pages.pending.clear();
            pages.syncs += 1;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut pages = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        pages.seen[start..start + data.len()].copy_from_slice(data);
        pages.pending.push((offset, data.to_vec()));
        Ok(())
    }
}

pub(crate) fn some_keys() -> Keys {
    Keys::Some { newest: key(1), older: Vec::new(), plain: Plain::Refused }
}

fn key(id: u8) -> SealKey {
    SealKey::new(id, &[id; KEY_LENGTH]).unwrap()
}

fn put(table: Table, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.put(table, key, value);
    batch
}

/// What every backend does.
fn conform(backend: &dyn StorageBackend) {
    for table in Table::ALL {
        assert_eq!(backend.get(table, b"a").unwrap(), None);
        assert_eq!(backend.range(table, Span::ALL, 9).unwrap(), []);
        assert_eq!(backend.last_key(table).unwrap(), None);
    }
    let mut batch = Batch::default();
    for key in [b"b", b"a", b"d", b"c"] {
        batch.put(Table::Log, key, [b"of ", &key[..]].concat());
    }
    batch.put(Table::Meta, b"a", b"meta").put(Table::Log, b"e", b"").delete(Table::Log, b"missing");
    backend.apply(batch, Durability::Durable).unwrap();
    assert_eq!(backend.get(Table::Log, b"a").unwrap().unwrap(), b"of a");
    assert_eq!(backend.get(Table::Log, b"e").unwrap().unwrap(), b"");
    assert_eq!(backend.get(Table::Meta, b"a").unwrap().unwrap(), b"meta");
    assert_eq!(backend.get(Table::Snapshot, b"a").unwrap(), None);
    assert_eq!(backend.last_key(Table::Log).unwrap().unwrap(), b"e");

    let keys = |from: &[u8], before: Option<&[u8]>, limit| {
        let found = backend.range(Table::Log, Span { from, before }, limit).unwrap();
        String::from_utf8(found.into_iter().flat_map(|(key, _)| key).collect()).unwrap()
    };
    assert_eq!(keys(b"", None, 9), "abcde");
    assert_eq!(keys(b"b", Some(b"d"), 9), "bc");
    assert_eq!(keys(b"bb", None, 2), "cd");
    assert_eq!(keys(b"c", Some(b"c"), 9), "");
    assert_eq!(keys(b"d", Some(b"b"), 9), "");

    // A batch happens in its order.
    let mut batch = put(Table::Log, b"b", b"again");
    batch.delete_span(Table::Log, Span { from: b"b", before: Some(b"d") });
    batch.put(Table::Log, b"c", b"back").delete(Table::Log, b"a");
    batch.delete_span(Table::Log, Span { from: b"z", before: Some(b"y") });
    backend.apply(batch, Durability::Relaxed).unwrap();
    assert_eq!(keys(b"", None, 9), "cde");
    assert_eq!(backend.get(Table::Log, b"c").unwrap().unwrap(), b"back");

    let mut batch = Batch::default();
    batch.delete_span(Table::Log, Span::ALL);
    backend.apply(batch, Durability::Durable).unwrap();
    assert_eq!(keys(b"", None, 9), "");
    assert_eq!(backend.get(Table::Meta, b"a").unwrap().unwrap(), b"meta");

    let large = vec![7; 3 * 1024 * 1024];
    backend.apply(put(Table::Snapshot, b"large", &large), Durability::Durable).unwrap();
    assert_eq!(backend.get(Table::Snapshot, b"large").unwrap().unwrap(), large);
}

#[test]
fn every_backend_does_the_same() {
    conform(&Memory::default());
    conform(&Sealed::new(Memory::default(), Keys::None));
    conform(&Sealed::new(Memory::default(), some_keys()));
    for keys in [None, Some(Keys::None), Some(some_keys())] {
        let folder = Folder::new();
        let disk = Disk::open(&folder.file()).unwrap();
        match keys {
            None => conform(&disk),
            Some(keys) => conform(&Sealed::new(disk, keys)),
        }
    }
}

#[test]
fn a_file_keeps_its_records_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    Disk::open(&folder.file()).unwrap().apply(put(Table::Meta, b"k", b"v"), Durability::Durable).unwrap();
    assert_eq!(std::fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Disk::open(&folder.file()).unwrap().get(Table::Meta, b"k").unwrap().unwrap(), b"v");
}

#[test]
fn a_file_that_is_open_is_not_opened_again() {
    let folder = Folder::new();
    let _open = Disk::open(&folder.file()).unwrap();
    let error = Disk::open(&folder.file()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    assert!(error.to_string().contains("store.redb"), "{error}");
}

#[test]
fn a_file_that_is_something_else_is_named_and_left_alone() {
    let folder = Folder::new();
    std::fs::write(folder.file(), vec![b'x'; 10_000]).unwrap();
    let error = Disk::open(&folder.file()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("store.redb"), "{error}");
    assert_eq!(std::fs::read(folder.file()).unwrap(), vec![b'x'; 10_000]);
}

#[test]
fn a_flipped_byte_of_a_file_is_refused_or_does_no_harm() {
    let folder = Folder::new();
    let records: Vec<_> =
        (0..200_u32).map(|number| (number.to_be_bytes(), vec![number as u8; 300])).collect();
    {
        let sealed = Sealed::new(Disk::open(&folder.file()).unwrap(), Keys::None);
        for (key, value) in &records {
            sealed.apply(put(Table::Log, key, value), Durability::Relaxed).unwrap();
        }
        sealed.apply(Batch::default(), Durability::Durable).unwrap();
    }
    let whole = std::fs::read(folder.file()).unwrap();
    let mut refused = 0;
    for place in (0..whole.len()).step_by(whole.len() / 150) {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        std::fs::write(folder.file(), &flipped).unwrap();
        let read = Disk::open(&folder.file())
            .and_then(|disk| Sealed::new(disk, Keys::None).range(Table::Log, Span::ALL, 1000));
        match read {
            Ok(found) => assert!(
                found
                    .iter()
                    .map(|(key, value)| (&key[..], value))
                    .eq(records.iter().map(|(key, value)| (&key[..], value))),
                "byte {place}"
            ),
            Err(error) => {
                assert!(
                    error.to_string().contains("store.redb") || error.to_string().contains("record"),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn what_is_durable_outlives_a_loss_of_power() {
    for stays in [|_| false, |number: usize| number.is_multiple_of(2), |number| number % 3 == 1] {
        let mut file = Volatile::default();
        for round in 0..20_u32 {
            let disk = file.disk().unwrap();
            if round > 0 {
                assert_eq!(disk.range(Table::Log, Span::ALL, 100).unwrap().len(), 2 * round as usize);
            }
            disk.apply(put(Table::Log, &[1, round as u8], &[0; 5000]), Durability::Relaxed).unwrap();
            disk.apply(put(Table::Log, &[2, round as u8], &[1; 100]), Durability::Durable).unwrap();
            disk.apply(put(Table::Meta, b"lost", b"yes"), Durability::Relaxed).unwrap();
            let left = file.lose_power(stays);
            drop(disk);
            file = left;
        }
    }
}

#[test]
fn a_durable_batch_costs_one_sync_and_one_more_if_the_file_grows() {
    let file = Volatile::default();
    let disk = file.disk().unwrap();
    // The first one after opening also marks the file as being written.
    disk.apply(put(Table::Log, b"first", &[0; 5000]), Durability::Durable).unwrap();
    let mut grown = 0;
    for round in 0..100_u8 {
        let (before, length) = (file.syncs(), redb::StorageBackend::len(&file).unwrap());
        let mut batch = put(Table::Log, &[round], &[1; 3000]);
        batch.put(Table::Meta, b"vote", [round]);
        disk.apply(batch, Durability::Durable).unwrap();
        let has_grown = redb::StorageBackend::len(&file).unwrap() > length;
        assert_eq!(file.syncs() - before, 1 + usize::from(has_grown), "round {round}");
        grown += usize::from(has_grown);
    }
    assert!(grown < 10, "{grown}");
    let before = file.syncs();
    disk.apply(put(Table::Log, b"relaxed", &[1; 3000]), Durability::Relaxed).unwrap();
    assert_eq!(file.syncs(), before);
}

#[test]
fn every_flipped_or_missing_byte_of_a_sealed_record_is_noticed() {
    for keys in [Keys::None, some_keys()] {
        let inner = Arc::new(Memory::default());
        let sealed = Sealed::new(Arc::clone(&inner), keys);
        sealed.apply(put(Table::Meta, b"vote", b"for the third"), Durability::Durable).unwrap();
        let whole = inner.get(Table::Meta, b"vote").unwrap().unwrap();
        let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            damaged.push(flipped);
        }
        for record in damaged {
            inner.apply(put(Table::Meta, b"vote", &record), Durability::Durable).unwrap();
            let error = sealed.get(Table::Meta, b"vote").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("record vote of table meta"), "{error}");
            assert!(sealed.range(Table::Meta, Span::ALL, 9).is_err());
        }
        // Nor is it taken for another record.
        let mut moved = put(Table::Meta, b"committed", &whole);
        moved.put(Table::Log, b"vote", whole.clone());
        inner.apply(moved, Durability::Durable).unwrap();
        assert!(sealed.get(Table::Meta, b"committed").is_err());
        assert!(sealed.get(Table::Log, b"vote").is_err());
    }
}

#[test]
fn an_encrypted_record_does_not_show_what_it_is_and_looks_different_each_time() {
    let inner = Arc::new(Memory::default());
    let sealed = Sealed::new(Arc::clone(&inner), some_keys());
    let value = b"a secret that is long enough to be found";
    sealed.apply(put(Table::Log, b"k", value), Durability::Durable).unwrap();
    let first = inner.get(Table::Log, b"k").unwrap().unwrap();
    sealed.apply(put(Table::Log, b"k", value), Durability::Durable).unwrap();
    assert_ne!(inner.get(Table::Log, b"k").unwrap().unwrap(), first);
    assert!(!first.windows(8).any(|part| value.windows(8).any(|other| part == other)));
    assert!(!format!("{sealed:?}").contains("1, 1, 1"), "a key is shown");
}

#[test]
fn keys_rotate_and_one_that_is_not_known_is_named() {
    let inner = Arc::new(Memory::default());
    let with = |newest, older: &[u8], plain| {
        let older = older.iter().copied().map(key).collect();
        Sealed::new(Arc::clone(&inner), Keys::Some { newest: key(newest), older, plain })
    };
    let plain = Sealed::new(Arc::clone(&inner), Keys::None);
    plain.apply(put(Table::Log, b"0", b"plain"), Durability::Durable).unwrap();
    let first = with(1, &[], Plain::Accepted);
    first.apply(put(Table::Log, b"1", b"first"), Durability::Durable).unwrap();
    let second = with(2, &[1], Plain::Accepted);
    second.apply(put(Table::Log, b"2", b"second"), Durability::Durable).unwrap();
    assert_eq!(second.range(Table::Log, Span::ALL, 9).unwrap().len(), 3);
    assert_eq!(inner.get(Table::Log, b"2").unwrap().unwrap()[0], 2);

    let error = first.get(Table::Log, b"2").unwrap_err();
    assert!(error.to_string().contains("key 2"), "{error}");
    assert!(plain.get(Table::Log, b"2").is_err());
    assert!(with(2, &[1], Plain::Refused).get(Table::Log, b"0").is_err());
    assert!(SealKey::new(0, &[0; KEY_LENGTH]).is_none());
}
