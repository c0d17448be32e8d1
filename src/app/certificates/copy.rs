//! Keeps a copy of the certificate authority of this sidecar in the store of its mesh, for the day on which its machine is
//! lost. What is in a copy, and who holds the authority, is `identity::ca`'s; here it is carried.

use std::{sync::Arc, time::Duration};

use crate::{
    identity::ca::{Authority, COPY_KEY, CaError, NextCopy, Version},
    rt::{DrainWatch, Phase, clock},
    store::{
        Level, Readable as _, Store, StoreError, Transactional as _,
        core::{
            command::{MAX_VALUE, Stay, Transaction},
            key::{Key, Revision},
            outcome::CommandResult,
        },
    },
    telemetry::metrics::CopyMetrics,
    types::Mono,
};

use super::chain;

/// How often it is looked whether the authority has changed.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked what is in the store, although nothing has changed here: somebody may have removed it, or taken
/// over.
const LOOK_THERE: Duration = Duration::from_secs(10);
/// For one call of the store, which has limits of its own.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two tries after one that failed: doubled each time up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Comparisons in a row: one that puts a copy there, one that sees it, and as many again for what others write there.
const TRIES: u32 = 4;
/// A store that is not founded yet, or has no leader, is nothing to worry about for so long.
const PATIENCE: Duration = Duration::from_secs(15);

/// Carries copies of an authority.
pub(super) struct Carrier {
    authority: Arc<Authority>,
    store: Store,
    metrics: CopyMetrics,
    key: Key,
    /// When the copy was last known to be up to date.
    good: Mono,
    /// Of which state that was.
    seen: Option<Version>,
    /// When it is compared although nothing has changed here.
    due: Mono,
    problem: Option<String>,
}

/// What came of a comparison.
enum Compared {
    /// The store has the state as it is.
    Same,
    /// It had not, and was told of it.
    Landed,
    /// Somebody else has written there meanwhile.
    Beaten,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{}", chain(.0))]
    Authority(CaError),
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error("the store gave no answer in time")]
    TimedOut,
    #[error(
        "it has {0} bytes, and a value of the store {MAX_VALUE}: there are too many certificates for a copy"
    )]
    TooLarge(usize),
    #[error("what is in its place changes again and again")]
    Unsettled,
    #[error("the process is leaving")]
    Leaving,
}

impl Carrier {
    /// `None` only if [`COPY_KEY`] could not be a key.
    pub(super) fn new(authority: Arc<Authority>, store: &Store, metrics: CopyMetrics) -> Option<Self> {
        Some(Self {
            authority,
            store: store.on_behalf_of("authority"),
            metrics,
            key: Key::new(COPY_KEY).ok()?,
            good: clock::now(),
            seen: None,
            due: Mono::ZERO,
            problem: None,
        })
    }

    /// Goes on until the process leaves, or another directory holds the authority.
    pub(super) async fn run(mut self, mut drain: DrainWatch) {
        tokio::select! {
            () = drain.reached(Phase::Stopped) => {}
            () = self.carry() => {}
        }
    }

    async fn carry(&mut self) {
        let mut pause = LOOK;
        loop {
            match self.look().await {
                Ok(()) => {
                    pause = LOOK;
                    self.good = clock::now();
                    self.metrics.behind(Duration::ZERO);
                    if self.problem.take().is_some() {
                        tracing::info!("the store has a copy of the certificate authority as it is now");
                    }
                }
                // Told by the service of the authority, which ends as well.
                Err(Problem::Authority(CaError::Superseded { .. })) => return self.metrics.superseded(),
                Err(Problem::Leaving) => return,
                Err(problem) => {
                    self.seen = None;
                    self.metrics.copied(false);
                    self.metrics.behind(clock::now().since(self.good));
                    self.complain(problem.to_string());
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Sees to it that the store has the state as it is, if there is a reason to think that it has not.
    async fn look(&mut self) -> Result<(), Problem> {
        let authority = Arc::clone(&self.authority);
        let version = tokio::task::spawn_blocking(move || authority.version());
        let version = version.await.map_err(|_| Problem::Leaving)?.map_err(Problem::Authority)?;
        if self.seen == Some(version) && clock::now() < self.due {
            return Ok(());
        }
        let mut landed = 0;
        for _ in 0..TRIES {
            match self.compare().await? {
                Compared::Same => {
                    // Of the state that was there before: if it has changed meanwhile, it is compared once more.
                    self.seen = Some(version);
                    self.due = clock::now().after(LOOK_THERE);
                    return Ok(());
                }
                Compared::Landed => landed += 1,
                Compared::Beaten => {}
            }
            if landed == 2 {
                // It changes all the time: the store has what it was a moment ago, and the next look is soon.
                self.seen = None;
                return Ok(());
            }
        }
        Err(Problem::Unsettled)
    }

    /// Compares what is in the store with the state as it is, and puts a copy there if they differ.
    async fn compare(&mut self) -> Result<Compared, Problem> {
        let found = limited(self.store.get(&self.key, Level::Strong)).await?;
        let (authority, there) =
            (Arc::clone(&self.authority), found.as_ref().map(|found| found.value.clone()));
        let next = tokio::task::spawn_blocking(move || authority.next_copy(there.as_deref(), clock::wall()));
        let copy = match next.await.map_err(|_| Problem::Leaving)?.map_err(Problem::Authority)? {
            NextCopy::UpToDate => return Ok(Compared::Same),
            NextCopy::Put(copy) if copy.len() > MAX_VALUE => return Err(Problem::TooLarge(copy.len())),
            NextCopy::Put(copy) => copy,
        };
        let revision = found.map_or(Revision(0), |found| found.modified);
        let put = Transaction::put(self.key.clone(), copy.into(), Stay::Forever);
        let put = put.if_modified_at(self.key.clone(), revision);
        let outcome = limited(self.store.transact(Store::next_op()?, put)).await?;
        if !matches!(outcome.result, CommandResult::Transacted { held: true, .. }) {
            return Ok(Compared::Beaten);
        }
        self.metrics.copied(true);
        Ok(Compared::Landed)
    }

    /// Says once what is wrong.
    fn complain(&mut self, problem: String) {
        let is_lasting = clock::now().since(self.good) > PATIENCE;
        if is_lasting && self.problem.as_ref() != Some(&problem) {
            tracing::warn!(
                problem,
                "the store has no copy of the certificate authority as it is now; it signs all the same"
            );
            self.problem = Some(problem);
        }
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
    Ok(tokio::time::timeout(LIMIT, call).await.map_err(|_| Problem::TimedOut)??)
}
