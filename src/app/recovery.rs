//! The disk of a server of the store while its sidecar does not run: where the configuration says that it is, what the other
//! voters say if they can be asked, and the order to go on from it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{
    config::{self, FileSource, ProcessEnvironment, Style},
    membership::{self, HomeError},
    net,
    peer::rpc::{Caller, Failure, Lane, Own, RpcError, Target},
    store::{self, Archive, Mode, Position, Renewed, Seat, StoreKeys, Whereabouts, Whose},
    types::EndpointAddress,
};

/// For one voter to answer.
const LIMIT: Duration = Duration::from_secs(3);

/// The disk cannot be used; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The configuration cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is wrong; the text is what `outrigger check` prints.
    #[error("{0}")]
    Invalid(String),
    /// The configuration is of no server that keeps its log.
    #[error(
        "the configuration has no `store` with `mode: server` and a `data_dir`: this sidecar keeps no log"
    )]
    NoServer,
    /// The membership has never run in its directory, or not there.
    #[error("nothing says who this node is: there is no `node` in {} (mesh.data_dir)", .0.display())]
    Nobody(PathBuf),
    /// What the membership keeps cannot be read.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The log.
    #[error("cannot use the store in {}: {source}", .directory.display())]
    Log {
        /// Where.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no runtime to ask others with.
    #[error("cannot ask the other voters: {0}")]
    Asking(io::Error),
}

/// The disk of a server.
#[derive(Clone, Debug)]
pub struct Disk {
    directory: PathBuf,
    keys: StoreKeys,
    owner: Owner,
    /// Whether calls between nodes are plain text, so that anybody may ask.
    is_plain: bool,
}

/// Whose it is by the configuration.
#[derive(Clone, Debug)]
struct Owner {
    cluster: Arc<str>,
    node: Arc<str>,
    id: u64,
}

/// A voter besides the one whose disk it is.
#[derive(Clone, Debug)]
pub struct Other {
    /// As the disk remembers it.
    pub seat: Seat,
    /// What was found there.
    pub found: Found,
}

/// What was found where a voter used to be.
#[derive(Clone, Debug)]
pub enum Found {
    /// The voter.
    There(Whereabouts),
    /// Something that cannot be asked who it is.
    Somebody(String),
    /// Another node: the voter is not there any more.
    AnotherNode,
    /// Nobody.
    Nobody(String),
    /// It was not looked for: whoever gave the order says that it is gone for good.
    Gone,
}

impl Disk {
    /// The disk of the server with the configuration at `path`. Blocks.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn of_config(path: &Path) -> Result<Self, DiskError> {
        let unreadable = |source| DiskError::Unreadable { path: path.to_owned(), source };
        let text = FileSource::new(path).read().map_err(unreadable)?;
        let loaded = config::load(&text, &ProcessEnvironment);
        let (bundle, _) =
            loaded.map_err(|findings| DiskError::Invalid(findings.render_text(Style::Plain)))?;
        let (Some(mesh), Some(store)) = (bundle.mesh, bundle.store) else { return Err(DiskError::NoServer) };
        let (Mode::Server, Some(directory), Some(home)) = (store.mode, store.data_dir, mesh.data_dir) else {
            return Err(DiskError::NoServer);
        };
        let id = membership::kept_id(&home)?.ok_or(DiskError::Nobody(home))?;
        let owner = Owner { cluster: mesh.cluster, node: mesh.node, id: id.0 };
        Ok(Self { directory, keys: store.keys, owner, is_plain: bundle.identity.is_none() })
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its name, and its number.
    #[must_use]
    pub fn node(&self) -> (&str, u64) {
        (&self.owner.node, self.owner.id)
    }

    /// How far it is. Blocks.
    ///
    /// # Errors
    /// [`DiskError::Log`].
    pub fn position(&self) -> Result<Position, DiskError> {
        position(&self.directory, &self.keys)
    }

    /// Has the store go on from it. Blocks.
    ///
    /// # Errors
    /// [`DiskError::Log`].
    pub fn recover(&self) -> Result<Renewed, DiskError> {
        store::recover(&self.directory, &self.keys, self.whose()).map_err(|source| self.failed(source))
    }

    /// Whether it has a log, which a snapshot would take the place of. Blocks.
    ///
    /// # Errors
    /// [`DiskError::Log`].
    pub fn has_log(&self) -> Result<bool, DiskError> {
        store::has_log(&self.directory).map_err(|source| self.failed(source))
    }

    /// Has the store go on with what is in `archive`. Blocks.
    ///
    /// # Errors
    /// [`DiskError::Log`].
    pub fn restore(&self, archive: &Archive) -> Result<Renewed, DiskError> {
        let restored = store::restore(&self.directory, &self.keys, self.whose(), archive);
        restored.map_err(|source| self.failed(source))
    }

    /// What is found where the other voters of `position` were. Those of `gone` are not looked for. Blocks, for seconds.
    ///
    /// # Errors
    /// [`DiskError::Asking`].
    pub fn others(&self, position: &Position, gone: &[String]) -> Result<Vec<Other>, DiskError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(DiskError::Asking)?;
        // Nobody is known by this number: it is no node that calls, and its own may not be taken for it.
        let own = Own { cluster: Arc::clone(&self.owner.cluster), node: 0 };
        let is_plain = self.is_plain;
        runtime.block_on(async {
            let caller = Caller::new(&own, None);
            let mut looking = JoinSet::new();
            let others = position.voters.iter().filter(|seat| seat.number != self.owner.id);
            for (at, seat) in others.cloned().enumerate() {
                let is_gone = gone.iter().any(|gone| *gone == seat.id || *gone == seat.node);
                let caller = caller.clone();
                looking.spawn(async move {
                    let found = if is_gone { Found::Gone } else { find(&caller, &seat, is_plain).await };
                    (at, Other { seat, found })
                });
            }
            let mut found = looking.join_all().await;
            found.sort_by_key(|(at, _)| *at);
            Ok(found.into_iter().map(|(_, other)| other).collect())
        })
    }

    fn whose(&self) -> Whose<'_> {
        Whose { cluster: &self.owner.cluster, id: self.owner.id, node: &self.owner.node }
    }

    fn failed(&self, source: io::Error) -> DiskError {
        DiskError::Log { directory: self.directory.clone(), source }
    }
}

/// How far the replica in a directory is, whosever it is. Blocks.
///
/// # Errors
/// [`DiskError::Log`].
pub fn position(directory: &Path, keys: &StoreKeys) -> Result<Position, DiskError> {
    let failed = |source| DiskError::Log { directory: directory.to_owned(), source };
    store::inspect(directory, keys).map_err(failed)
}

async fn find(caller: &Caller, seat: &Seat, is_plain: bool) -> Found {
    if let Err(error) = net::dial(&EndpointAddress::Tcp(seat.address), LIMIT).await {
        return Found::Nobody(with_cause(&error));
    }
    if !is_plain {
        return Found::Somebody("it answers, and with mTLS it is not asked who it is".to_owned());
    }
    let target = Target { node: seat.number, address: seat.address };
    match caller.call(&target, Lane::Beat, store::POSITION, bytes::Bytes::new(), LIMIT).await {
        Ok(answer) => match Whereabouts::read(&answer) {
            Some(whereabouts) => Found::There(whereabouts),
            None => Found::Somebody("it answers what was not asked".to_owned()),
        },
        Err(RpcError { failure: Failure::Refused { status, .. }, .. })
            if status == http::StatusCode::MISDIRECTED_REQUEST =>
        {
            Found::AnotherNode
        }
        Err(error) => Found::Somebody(error.failure.to_string()),
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
