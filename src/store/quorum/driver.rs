//! Runs the machine of one server: the only task that touches it. Batches go to the disk one after the other, and what
//! comes meanwhile goes with the next one.

use std::{collections::HashMap, io, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::sleep_until,
};

#[cfg(feature = "planted-bugs")]
use super::core::rules::Planted;
use super::{
    core::{
        machine::Machine,
        rules::{Answer, Input, Now, Output, Reach, Rules},
    },
    disk,
    handle::{Job, QuorumStatus},
    keyspaces::Keyspaces,
    links::Links,
};
#[cfg(feature = "planted-bugs")]
use crate::store::planted::{Bug, has};
use crate::{
    peer::rpc::Caller,
    rt::clock,
    store::{Standing, StoreError, backend::StorageBackend, embedded, fence::Fence, peers::Peers},
    types::Mono,
};

/// Calls and packets that wait for the machine; others are refused, or lost.
const QUEUE: usize = 1024;
/// As many are taken in before what follows from them goes out.
const TOGETHER: usize = 128;

/// A server of this tier, before it runs.
pub(crate) struct Opened {
    pub(crate) driver: Driver,
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) status: watch::Receiver<QuorumStatus>,
}

/// See the head of this file.
pub(crate) struct Driver {
    machine: Machine,
    backend: Arc<dyn StorageBackend>,
    jobs: mpsc::Receiver<Job>,
    peers: Peers,
    links: Links,
    asking: HashMap<u64, oneshot::Sender<Result<Answer, StoreError>>>,
    asked: u64,
    status: watch::Sender<QuorumStatus>,
    told: Mono,
}

impl Driver {
    /// Reads what is on the disk. Blocks.
    ///
    /// # Errors
    /// If that cannot be read, or is damaged.
    pub(in crate::store) fn open(
        own: u64,
        writer: u64,
        spaces: &Keyspaces,
        backend: Arc<dyn StorageBackend>,
        caller: Caller,
        peers: Peers,
        fence: Fence,
    ) -> io::Result<Opened> {
        let loaded = disk::load(backend.as_ref())?;
        let machine = Machine::new(own, writer, rules(), spaces.specs(), loaded, now());
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (status, shown) = watch::channel(QuorumStatus::default());
        let links = Links::new(caller, peers.clone(), fence);
        let asking = HashMap::new();
        let driver =
            Self { machine, backend, jobs: queue, peers, links, asking, asked: 0, status, told: Mono::ZERO };
        Ok(Opened { driver, jobs, status: shown })
    }

    /// Runs until nobody can ask any more, or the disk fails.
    pub(crate) async fn run(mut self) {
        let mut writing: Option<(u64, JoinHandle<io::Result<()>>)> = None;
        self.learn();
        loop {
            self.carry_out();
            if writing.is_none()
                && let Some((number, changes)) = self.machine.batch()
            {
                let backend = Arc::clone(&self.backend);
                writing = Some((number, tokio::task::spawn_blocking(move || disk::store(&backend, changes))));
            }
            let due = clock::instant(self.machine.next_deadline());
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => self.take(job),
                    None => return,
                },
                written = async { match &mut writing {
                    Some((number, task)) => (*number, task.await),
                    None => std::future::pending().await,
                } } => {
                    writing = None;
                    match written {
                        (number, Ok(Ok(()))) => self.machine.handle(Input::Synced(number), now()),
                        (_, Ok(Err(error))) => return self.fail(&error).await,
                        (_, Err(error)) => return self.fail(&io::Error::other(error)).await,
                    }
                }
                () = self.links.sent() => {}
                changed = self.peers.changed() => match changed {
                    Ok(()) => self.learn(),
                    Err(_) => return,
                },
                () = sleep_until(due) => self.machine.advance(now()),
            }
        }
    }

    fn learn(&mut self) {
        let peers = Arc::clone(&self.peers.borrow_and_update());
        let servers = peers.iter().filter(|peer| peer.is_server).map(|peer| {
            let reach = match peer.standing {
                Standing::Alive | Standing::Suspect => Reach::There,
                Standing::Gone => Reach::Gone,
            };
            (peer.id, reach)
        });
        self.machine.handle(Input::Peers(servers.collect()), now());
    }

    /// Takes in a job, and those that wait behind it: what follows from them goes out together.
    fn take(&mut self, job: Job) {
        self.take_one(job);
        for _ in 1..TOGETHER {
            let Ok(job) = self.jobs.try_recv() else { return };
            self.take_one(job);
        }
    }

    fn take_one(&mut self, job: Job) {
        match job {
            Job::Received(from, packet) => {
                // Whoever is no server has no part in this.
                if self.peers.borrow().iter().any(|peer| peer.id == from && peer.is_server) {
                    self.machine.handle(Input::Received(from, packet), now());
                }
            }
            Job::Asked(want, level, reply) => {
                self.asked += 1;
                self.asking.insert(self.asked, reply);
                self.machine.handle(Input::Asked(self.asked, want, level), now());
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Send(to, packet) => self.links.send(to, packet),
                Output::Answer(request, answer) => {
                    if let Some(reply) = self.asking.remove(&request) {
                        // Whoever asked may have gone.
                        let _ = reply.send(Ok(answer));
                    }
                }
            }
        }
        let now = clock::now();
        if now.since(self.told) >= TELLING {
            self.told = now;
            self.status.send_replace(QuorumStatus::of(&self.machine));
        }
    }

    /// Answers everybody that the disk has failed: what cannot be kept is not confirmed.
    async fn fail(mut self, error: &io::Error) {
        tracing::error!(%error, "the leaderless tier of the store cannot write, and has ended on this node (store.data_dir); a restart may mend it");
        self.asking.clear();
        while let Some(job) = self.jobs.recv().await {
            if let Job::Asked(_, _, reply) = job {
                let _ = reply.send(Err(StoreError::Failed(format!("its disk cannot be written: {error}"))));
            }
        }
    }
}

fn rules() -> Rules {
    Rules {
        #[cfg(feature = "planted-bugs")]
        planted: has(Bug::HintsAsWrites).then_some(Planted::HintsCount),
        ..Rules::default()
    }
}

/// The machine's time.
fn now() -> Now {
    Now { mono: clock::now(), wall_ms: embedded::wall_ms() }
}

/// How often what is counted is told, at most.
const TELLING: std::time::Duration = std::time::Duration::from_secs(1);
