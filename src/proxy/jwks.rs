//! Keeps the keys of the issuers of tokens up to date: files are looked at, URLs are fetched. Runs on the control
//! runtime. What is verified with the keys is in `identity::jwt`.
//!
//! Keys are replaced as a whole or not at all. A source that fails leaves them as they are; a token with a key that is
//! not among them is refused, and makes the next look come sooner.

mod fetch;

use std::{sync::Arc, time::Duration};

use rustc_hash::FxHashMap;
use tokio::{sync::watch, task::AbortHandle};

use self::fetch::FetchError;
use crate::{
    identity::jwt::{Issuer, IssuerKeys, KeySet, KeySetError, KeySource, Update, Verifier, read_keys},
    rt::clock,
    snapshot::{MeshSnapshot, SnapshotCell},
    telemetry::metrics::{JwksMetrics, RefreshOutcome, Registry},
    types::Mono,
};

/// How often a file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// First wait after a failure; doubled up to the usual interval, at most [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// At least this long between two looks at a URL, whatever keys tokens name: anybody can make up such a token.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the keys of all issuers in `cell`, and follows it with every generation that `published` tells. Ends when the
/// sender is gone; dropping the future ends all looks.
pub async fn run(
    cell: SnapshotCell,
    registry: Arc<Registry>,
    mut published: watch::Receiver<u64>,
    mut rng: fastrand::Rng,
) {
    let mut keepers = FxHashMap::default();
    loop {
        let snapshot = cell.load();
        let issuers = snapshot.inbound.jwt.as_deref().map(Verifier::issuers).unwrap_or_default();
        follow(&mut keepers, issuers, &registry, &mut rng);
        drop(snapshot);
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// Reads the files of all issuers once, so that the first request finds their keys. A failure is told when
/// [`run`] meets it. Blocks.
pub fn read_files(snapshot: &MeshSnapshot) {
    for issuer in snapshot.inbound.jwt.as_deref().map(Verifier::issuers).unwrap_or_default() {
        if let Some(Ok(set)) = read_keys(&issuer.params.source) {
            issuer.keys.update(set);
        }
    }
}

/// One looking task; dropping it ends it.
struct Keeper {
    source: KeySource,
    keys: Arc<IssuerKeys>,
    task: AbortHandle,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn follow(
    keepers: &mut FxHashMap<Arc<str>, Keeper>,
    issuers: &[Issuer],
    registry: &Registry,
    rng: &mut fastrand::Rng,
) {
    let mut kept = FxHashMap::default();
    for issuer in issuers {
        let name = &issuer.params.issuer;
        let known = keepers.remove(name);
        // Those that are there were read before anything was served, unless they are of another source.
        let succeeded = known.is_none() && !issuer.keys.load().is_empty();
        let is_same = |keeper: &Keeper| {
            keeper.source == issuer.params.source && Arc::ptr_eq(&keeper.keys, &issuer.keys)
        };
        let keeper = known.filter(is_same).unwrap_or_else(|| {
            let (source, keys) = (issuer.params.source.clone(), Arc::clone(&issuer.keys));
            let look = Look {
                issuer: Arc::clone(name),
                source: source.clone(),
                keys: Arc::clone(&keys),
                metrics: JwksMetrics::resolve(registry, name),
                failures: 0,
                succeeded,
                rng: rng.fork(),
            };
            Keeper { source, keys, task: tokio::spawn(look.for_ever()).abort_handle() }
        });
        kept.insert(Arc::clone(name), keeper);
    }
    // What is left belongs to issuers that are gone.
    *keepers = kept;
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Content(#[from] KeySetError),
    #[error("cannot be fetched")]
    Fetch(#[from] FetchError),
    #[error("the reader ended")]
    Reader(#[from] tokio::task::JoinError),
}

/// Looks at one source again and again.
struct Look {
    issuer: Arc<str>,
    source: KeySource,
    keys: Arc<IssuerKeys>,
    metrics: Arc<JwksMetrics>,
    /// In a row.
    failures: u32,
    /// This source has given keys before.
    succeeded: bool,
    rng: fastrand::Rng,
}

impl Look {
    async fn for_ever(mut self) {
        loop {
            let began = clock::now();
            match self.look().await {
                Ok(set) => self.take(set),
                Err(error) => self.fail(&error),
            }
            self.wait(began).await;
        }
    }

    async fn look(&self) -> Result<KeySet, LookError> {
        if let KeySource::Url(url) = &self.source {
            let body = fetch::get(url).await?;
            return Ok(KeySet::from_jwks(&body)?);
        }
        let source = self.source.clone();
        // A file on a server that is gone must not stop the control runtime.
        let read = tokio::task::spawn_blocking(move || read_keys(&source)).await?;
        Ok(read.unwrap_or_else(|| Ok(KeySet::empty()))?)
    }

    fn take(&mut self, set: KeySet) {
        let found = set.len();
        let update = self.keys.update(set);
        if update == Update::Changed || self.failures > 0 {
            tracing::info!(issuer = &*self.issuer, keys = found, "the keys of an issuer are up to date");
        }
        self.failures = 0;
        self.succeeded = true;
        let outcome = match update {
            Update::Changed => RefreshOutcome::Changed,
            Update::Unchanged => RefreshOutcome::Unchanged,
        };
        self.metrics.refreshed(outcome, found);
    }

    fn fail(&mut self, error: &LookError) {
        if !self.succeeded && self.failures == 0 {
            // Keys of another source, which the configuration does not name any more.
            self.keys.update(KeySet::empty());
        }
        self.failures = self.failures.saturating_add(1);
        let kept = self.keys.load().len();
        self.metrics.refreshed(RefreshOutcome::Failure, kept);
        // Once for each time that it begins to fail; how often it does is in the metric.
        if self.failures == 1 {
            let reason = with_causes(error);
            tracing::error!(
                issuer = &*self.issuer,
                reason,
                keys = kept,
                "the keys of an issuer cannot be had"
            );
        }
    }

    /// Until the next look is due.
    async fn wait(&mut self, began: Mono) {
        let (usual, least) = match &self.source {
            KeySource::File(_) | KeySource::Secret(_) => (FILE_INTERVAL, FILE_INTERVAL),
            KeySource::Url(url) => (url.refresh, MIN_INTERVAL.min(url.refresh)),
        };
        let interval = interval(usual, self.failures);
        // Sidecars that were started together do not come together.
        let due = clock::instant(began.after(interval.mul_f64(0.9 + self.rng.f64() * 0.2)));
        let soonest = clock::instant(began.after(least));
        let asked = async {
            self.keys.wanted().await;
            tokio::time::sleep_until(soonest).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = asked => {}
        }
    }
}

/// From the beginning of one look to that of the next.
fn interval(usual: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => usual,
        Some(doublings) => {
            let backoff = BACKOFF.saturating_mul(2_u32.saturating_pow(doublings.min(10)));
            backoff.min(MAX_BACKOFF).min(usual)
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_bring_the_next_look_nearer_and_then_further_away_again() {
        let usual = Duration::from_secs(300);
        let seconds: Vec<u64> =
            [0, 1, 2, 3, 7, 8, 50].map(|failures| interval(usual, failures).as_secs()).to_vec();
        assert_eq!(seconds, [300, 1, 2, 4, 60, 60, 60]);
        assert_eq!(interval(Duration::from_secs(1), 9), Duration::from_secs(1));
    }
}
