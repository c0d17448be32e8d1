//! Carries out what core/bootstrap.rs decides: its messages travel as calls, its promises are written to a file before
//! they are told, and the store that was agreed upon is begun.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep_until,
};

use super::{
    backend::StorageBackend,
    core::bootstrap::{
        Bootstrap, Config, Expect, Input, Kept, Known, Me, Message, Output, Promise, Proposal, SeedList,
        StoreId,
    },
    fence::Fence,
    peers::{Peer, Peers, Standing},
    protocol,
    raft::{Label, Node, Voter},
};
use crate::{
    identity::{bounded_file, bounded_file::Readers, ca::replace_private},
    peer::rpc::{Caller, Lane, Target},
    rt::{clock, random},
};

/// What nodes say to each other about it: answered with nothing.
pub(super) const FOUNDING: &str = "store/founding";
/// Messages that wait to be looked at; others are lost, and said again by those who sent them.
pub(super) const QUEUE: usize = 256;
/// For one message.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(1);
/// Messages under way at once; more than that are lost.
const MOST: usize = 64;
/// How long a node must have been known before it is counted on.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(2);
const FILE: &str = "founding";
/// What the file begins with: the version of its format.
const FORMAT: u8 = 1;

/// A message from another node.
pub(super) type Told = (u64, Message);

/// What survives a restart.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Written {
    node: u64,
    promise: Promise,
    store: Option<StoreId>,
}

/// The part of this node in founding the store.
pub(super) struct Founding {
    pub(super) caller: Caller,
    pub(super) peers: Peers,
    /// The replica of this node; `None` if it may not have one.
    pub(super) node: Option<Node>,
    pub(super) messages: mpsc::Receiver<Told>,
    pub(super) founded: watch::Sender<Option<u64>>,
    pub(super) memory: Memory,
    pub(super) seeds: SeedList,
    pub(super) is_seed: bool,
    pub(super) expect: usize,
    /// A store that was agreed upon and not begun yet.
    pub(super) agreed: Option<Proposal>,
    /// Told as soon as it is known which store it is.
    pub(super) fence: Fence,
    /// Where the log is, and what it says of itself.
    pub(super) backend: Arc<dyn StorageBackend>,
    pub(super) label: Label,
}

/// Where it is kept what this node has promised.
#[derive(Debug)]
pub(super) struct Memory {
    file: Option<PathBuf>,
    written: Written,
}

impl Memory {
    /// Reads what node `id` has promised before. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is another node's.
    pub(super) fn open(directory: Option<&Path>, id: u64) -> io::Result<Self> {
        let fresh = Written { node: id, ..Written::default() };
        let Some(directory) = directory else { return Ok(Self { file: None, written: fresh }) };
        let file = directory.join(FILE);
        let written = match bounded_file::read(&file, Readers::OwnerAndGroup) {
            Ok(content) => parse(&content).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", file.display()))
            })?,
            Err(bounded_file::FileError::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                fresh
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        if written.node != id {
            let why =
                "it holds the store of another member: `mesh.data_dir` and `store.data_dir` belong together";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let memory = Self { file: Some(file), written };
        memory.write(&memory.written)?;
        Ok(memory)
    }

    /// The store that this node belonged to when it ended.
    pub(super) fn store(&self) -> Option<u64> {
        self.written.store.map(|store| store.0)
    }

    /// Belongs to `store` from now on. Blocks.
    pub(super) fn remember(&mut self, store: StoreId) -> io::Result<()> {
        self.written.store = Some(store);
        self.write(&self.written)
    }

    fn write(&self, written: &Written) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut content = vec![FORMAT];
        content.extend_from_slice(&protocol::write(written));
        replace_private(file, &content)
    }

    /// Changes it, durably. Waits for as long as the disk takes: the fate of a store waits for that.
    async fn change(&mut self, change: impl FnOnce(&mut Written)) -> io::Result<()> {
        let mut next = self.written.clone();
        change(&mut next);
        let next = Arc::new(next);
        let (file, text) = (self.file.clone(), Arc::clone(&next));
        let writing =
            tokio::task::spawn_blocking(move || Self { file, written: Written::default() }.write(&text));
        writing.await.map_err(io::Error::other)??;
        self.written = Arc::unwrap_or_clone(next);
        Ok(())
    }
}

fn parse(content: &[u8]) -> Option<Written> {
    let (format, rest) = content.split_first()?;
    if *format == FORMAT { protocol::read(rest) } else { None }
}

impl Founding {
    /// Takes part until this node belongs to a store, and answers those who ask from then on. Never returns.
    pub(super) async fn run(mut self, own: u64) {
        let kept = Kept { promise: self.memory.written.promise.clone(), store: self.memory.written.store };
        let Some(expect) = Expect::from_count(self.expect) else { return };
        let config = Config { expect, settle: SETTLE, seeds: self.seeds };
        let me = Me { node: own, eligible: self.node.is_some(), is_seed: self.is_seed };
        let mut machine = Bootstrap::new(me, config, kept, random::seeded(own), clock::now());
        let mut calls = JoinSet::new();
        self.learn(&mut machine, own);
        loop {
            if let Err(error) = self.act(&mut machine, &mut calls).await {
                tracing::error!(%error, "what this node promised cannot be written: it takes no part in founding the store (store.data_dir)");
                return;
            }
            let due = machine.next_deadline().map(clock::instant);
            tokio::select! {
                Some(_) = calls.join_next(), if !calls.is_empty() => {}
                changed = self.peers.changed() => match changed {
                    Ok(()) => self.learn(&mut machine, own),
                    Err(_) => return,
                },
                told = self.messages.recv() => match told {
                    Some((from, message)) => machine.handle(Input::Received { from, message }, clock::now()),
                    None => return,
                },
                () = async { if let Some(due) = due { sleep_until(due).await } else { std::future::pending().await } } => {
                    machine.advance(clock::now());
                }
            }
        }
    }

    /// Does all that is to be done now.
    async fn act(&mut self, machine: &mut Bootstrap, calls: &mut JoinSet<()>) -> io::Result<()> {
        while let Some(output) = machine.poll() {
            self.carry_out(output, machine, calls).await?;
        }
        self.begin().await
    }

    fn learn(&mut self, machine: &mut Bootstrap, own: u64) {
        let peers = Arc::clone(&self.peers.borrow_and_update());
        let living = peers.iter().filter(|peer| peer.id != own && peer.standing == Standing::Alive);
        machine.handle(Input::Known(living.map(known).collect()), clock::now());
    }

    async fn carry_out(
        &mut self,
        output: Output,
        machine: &mut Bootstrap,
        calls: &mut JoinSet<()>,
    ) -> io::Result<()> {
        match output {
            Output::Persist { number, promise } => {
                self.memory.change(|written| written.promise = promise).await?;
                machine.handle(Input::Persisted(number), clock::now());
            }
            Output::Send { to, message } => {
                let address = super::peers::address(&self.peers, to);
                if let Some(address) = address.filter(|_| calls.len() < MOST) {
                    let (caller, body) = (self.caller.clone(), protocol::write(&message));
                    calls.spawn(async move {
                        // What is lost is said again.
                        let _ = caller
                            .call(&Target { node: to, address }, Lane::Beat, FOUNDING, body, LIMIT)
                            .await;
                    });
                }
            }
            Output::Join(store) => {
                self.belong(store).await?;
                tracing::info!(store = %format_args!("{:016x}", store.0), "found the store of the mesh");
            }
            Output::Superseded(store) => self.leave_behind(store).await?,
            Output::Found(proposal) => self.agreed = Some(proposal),
            Output::Conflict(stores) => {
                tracing::error!(
                    stores = ?stores.iter().map(|store| format!("{:016x}", store.0)).collect::<Vec<_>>(),
                    "members of this mesh belong to different stores: nothing is joined by itself. One of them was founded \
                     apart from the others; take its servers out, and empty their store.data_dir"
                );
            }
        }
        Ok(())
    }

    /// Begins the store that was agreed upon, once all who vote in it are known. A node that ends before that agrees upon the
    /// same again when it is back.
    async fn begin(&mut self) -> io::Result<()> {
        let (Some(proposal), Some(node)) = (&self.agreed, &self.node) else { return Ok(()) };
        let known = proposal.members.nodes().iter().map(|id| self.voter(*id).map(|voter| (*id, voter)));
        let Some(voters) = known.collect::<Option<BTreeMap<u64, Voter>>>() else { return Ok(()) };
        let (store, count) = (proposal.store, proposal.members.nodes().len());
        // Those who are asked to vote must know what for.
        self.fence.adopt(store);
        if let Err(error) = node.found(voters).await {
            // The others have begun it already, which is as good.
            tracing::debug!(error, "the log is there already");
        }
        self.agreed = None;
        self.belong(store).await?;
        tracing::info!(store = %format_args!("{:016x}", store.0), voters = count, "founded the store of the mesh");
        Ok(())
    }

    /// What this node has, or will have, of the log is of `store`. Written first in the log itself: what that says counts.
    async fn belong(&mut self, store: StoreId) -> io::Result<()> {
        self.label.store = Some(store);
        let (label, backend) = (self.label.clone(), Arc::clone(&self.backend));
        tokio::task::spawn_blocking(move || label.write(&backend)).await.map_err(io::Error::other)??;
        self.fence.adopt(store);
        self.memory.change(|written| written.store = Some(store)).await?;
        self.founded.send_replace(Some(store.0));
        Ok(())
    }

    /// The store is in a later epoch, without the log of this node. Whoever has none goes on there at once. A replica ends:
    /// until the next start, which puts its log aside, this node asks the others as a client does.
    async fn leave_behind(&mut self, store: StoreId) -> io::Result<()> {
        self.fence.supersede(store);
        let Some(node) = self.node.as_ref().filter(|node| node.has_log()) else {
            tracing::warn!(epoch = store.epoch(), "the store has gone on in a later epoch");
            return self.belong(store).await;
        };
        let left = self.label.store.map_or(0, StoreId::epoch);
        tracing::error!(
            epoch = store.epoch(),
            left,
            "the store has gone on without the log of this server (outrigger raft recover): what only this log has is not in it. \
             This server takes no part any more; restart it, and it puts its log aside and joins as a new one"
        );
        let ending = tokio::time::timeout(LIMIT, node.shut_down());
        if ending.await.is_err() {
            tracing::error!("the replica that was left behind does not end");
        }
        self.memory.change(|written| written.store = Some(store)).await
    }

    fn voter(&self, id: u64) -> Option<Voter> {
        self.peers.borrow().iter().find(|peer| peer.id == id).map(voter)
    }
}

/// A node as the log has it.
pub(super) fn voter(peer: &Peer) -> Voter {
    Voter { address: peer.address, name: peer.name.as_ref().to_owned(), zone: peer.zone.as_ref().to_owned() }
}

fn known(peer: &Peer) -> Known {
    Known {
        node: peer.id,
        eligible: peer.is_server && !peer.is_draining,
        founded: peer.founded.map(StoreId),
        since: peer.since,
        is_seed: peer.is_seed,
    }
}
