//! Tables in one file, by redb: a copy-on-write tree whose commit is one fsync, and one more when the file grows. Values
//! are taken as they are; what notices a flipped byte within one is [`super::Sealed`].

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    backends::FileBackend,
};

use super::{Batch, Change, Durability, Records, Span, StorageBackend, Table, memory::bounds};

/// Tables in one file, which no other process may open meanwhile.
#[derive(Debug)]
pub struct Disk {
    database: Database,
    path: PathBuf,
}

impl Disk {
    /// Opens the file at `path`, or makes it, for its owner only. Reads all of it once and proves the checksums of its
    /// pages, also after a clean end: a file that was changed by others is refused here rather than met later.
    ///
    /// # Errors
    /// - [`io::ErrorKind::ResourceBusy`] if another process, or this one, has it open.
    /// - [`io::ErrorKind::InvalidData`] if it is damaged or something else. The file is left as it is.
    /// - Otherwise why it cannot be opened. All errors name the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(OWNER_ONLY);
        let file = options.open(path).map_err(named)?;
        file.set_permissions(Permissions::from_mode(OWNER_ONLY)).map_err(named)?;
        let is_new = file.metadata().map_err(named)?.len() == 0;
        let backend = FileBackend::new(file).map_err(|error| named(database_error(error)))?;
        let disk = Self::with_backend(path, backend)?;
        if is_new {
            // A file is found again after a loss of power only if its folder was written too.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))
                .and_then(|folder| folder.sync_all())
                .map_err(named)?;
        }
        Ok(disk)
    }

    /// The same in whatever `backend` writes to; `path` is only what errors call it.
    pub(super) fn with_backend(path: &Path, backend: impl redb::StorageBackend) -> io::Result<Self> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        let opened = builder.create_with_backend(backend).map_err(database_error);
        let disk = opened.map(|database| Self { database, path: path.to_owned() });
        let disk =
            disk.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        disk.create_tables().map_err(|error| disk.named(error))?;
        Ok(disk)
    }

    /// With all tables there, a reader never meets one that is not.
    fn create_tables(&self) -> Result<(), redb::Error> {
        let has_all = {
            let transaction = self.database.begin_read()?;
            transaction.list_tables()?.count() >= Table::ALL.len()
        };
        if has_all {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        for table in Table::ALL {
            transaction.open_table(definition(table))?;
        }
        Ok(transaction.commit()?)
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(match durability {
            Durability::Durable => redb::Durability::Immediate,
            Durability::Relaxed => redb::Durability::None,
        })?;
        {
            let [mut log, mut meta, mut snapshot] = [
                transaction.open_table(definition(Table::Log))?,
                transaction.open_table(definition(Table::Meta))?,
                transaction.open_table(definition(Table::Snapshot))?,
            ];
            for change in batch.into_changes() {
                let (Change::Put { table, .. }
                | Change::Delete { table, .. }
                | Change::DeleteSpan { table, .. }) = &change;
                let target = match table {
                    Table::Log => &mut log,
                    Table::Meta => &mut meta,
                    Table::Snapshot => &mut snapshot,
                };
                match change {
                    Change::Put { key, value, .. } => {
                        target.insert(key.as_slice(), value.as_slice())?;
                    }
                    Change::Delete { key, .. } => {
                        target.remove(key.as_slice())?;
                    }
                    Change::DeleteSpan { from, before, .. } => {
                        let span = Span { from: &from, before: before.as_deref() };
                        if !span.is_empty() {
                            target.retain_in::<&[u8], _>(bounds(span), |_, _| false)?;
                        }
                    }
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn read<T>(
        &self,
        table: Table,
        read: impl FnOnce(&ReadOnly) -> Result<T, StorageError>,
    ) -> io::Result<T> {
        let table = || -> Result<ReadOnly, redb::Error> {
            Ok(self.database.begin_read()?.open_table(definition(table))?)
        };
        let result = table().and_then(|table| Ok(read(&table)?));
        result.map_err(|error| self.named(error))
    }

    fn named(&self, error: redb::Error) -> io::Error {
        let error = plain(error);
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

type ReadOnly = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

impl StorageBackend for Disk {
    fn get(&self, table: Table, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.read(table, |table| Ok(table.get(key)?.map(|value| value.value().to_vec())))
    }

    fn range(&self, table: Table, span: Span<'_>, limit: usize) -> io::Result<Records> {
        if span.is_empty() {
            return Ok(Vec::new());
        }
        self.read(table, |table| {
            let found = table.range::<&[u8]>(bounds(span))?.take(limit);
            found
                .map(|record| record.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
                .collect()
        })
    }

    fn last_key(&self, table: Table) -> io::Result<Option<Vec<u8>>> {
        self.read(table, |table| Ok(table.last()?.map(|(key, _)| key.value().to_vec())))
    }

    fn apply(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        self.write(batch, durability).map_err(|error| self.named(error))
    }
}

const fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

fn database_error(error: DatabaseError) -> io::Error {
    plain(error.into())
}

/// What the errors of redb mean to whoever has to do something about them.
fn plain(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) => error,
        redb::Error::DatabaseAlreadyOpen => {
            io::Error::new(io::ErrorKind::ResourceBusy, "another process has the store open")
        }
        redb::Error::Corrupted(what) => {
            io::Error::new(io::ErrorKind::InvalidData, format!("the file of the store is damaged: {what}"))
        }
        redb::Error::PreviousIo => {
            io::Error::other("an earlier write failed; the store has to be opened again")
        }
        other => io::Error::other(other),
    }
}

/// What a store holds in memory of its file beside what it reads anyway: the log's end and the inner pages.
const CACHE: usize = 16 * 1024 * 1024;

const OWNER_ONLY: u32 = 0o600;
