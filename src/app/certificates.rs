//! The sidecar's own certificates: where they come from, what is shown and said of them, and how somebody asks for new ones.
//! Files of others are certificates/files.rs, the built-in authority certificates/builtin.rs, and the copy of it that the
//! store keeps certificates/copy.rs.

mod builtin;
mod copy;
mod files;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, oneshot};

use super::identity::{Identity, LastProblem};
use crate::{
    identity::{Facts, IdentityParams, IdentitySource, MeshTls, ca::Authority},
    peer::Source,
    rt::{Drain, Tasks},
    store::Store,
    telemetry::metrics::{CertificateMetrics, CopyMetrics, Registry},
    types::Live,
};

/// Part of its life that a certificate has left when it is time to worry aloud.
const WORRY_SHARE: u32 = 5;
/// How often that is said.
const WORRY_INTERVAL: Duration = Duration::from_secs(600);
/// People who ask for new certificates at the same time.
const ASKING: usize = 4;

/// Why a sidecar has no certificate to begin with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoCertificate(String);

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The certificate in use after somebody asked for a new one.
#[derive(Clone, Debug)]
pub(crate) struct Renewed {
    pub(crate) serial: String,
    pub(crate) not_after: SystemTime,
    /// Whether it is another one than before.
    pub(crate) changed: bool,
}

impl Renewed {
    fn of(mesh: &MeshTls, changed: bool) -> Self {
        let material = mesh.material();
        let Facts { serial, not_after, .. } = &material.leaf.facts;
        Self { serial: serial.clone(), not_after: *not_after, changed }
    }
}

type Requests = mpsc::Receiver<oneshot::Sender<Result<Renewed, String>>>;

/// Asks for new certificates; clones are cheap. Without mTLS there is nobody to ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct RenewHandle(Option<mpsc::Sender<oneshot::Sender<Result<Renewed, String>>>>);

impl RenewHandle {
    /// Gets new certificates now, or looks at the files now.
    ///
    /// # Errors
    /// Why the certificate in use goes on.
    pub(crate) async fn renew(&self) -> Result<Renewed, String> {
        let Some(keeper) = &self.0 else { return Err("mTLS is switched off".to_owned()) };
        let (answer, outcome) = oneshot::channel();
        keeper.try_send(answer).map_err(|_| "others have asked already".to_owned())?;
        outcome.await.unwrap_or_else(|_| Err("the sidecar is shutting down".to_owned()))
    }
}

/// What a sidecar has of certificates once it has one; nothing without mTLS.
#[derive(Default)]
pub(super) struct Started {
    pub(super) identity: Option<Identity>,
    pub(super) renewal: RenewHandle,
    /// The authority that signs them, if it is this sidecar that holds it.
    pub(super) authority: Option<Arc<Authority>>,
}

/// Gets the first certificates, however long that takes, and starts what keeps them good. `waiting` says meanwhile what
/// is waited for. Cancel-safe: dropping the future leaves only tasks of `tasks`.
///
/// # Errors
/// What waiting cannot mend: files that are no good, an authority that cannot be opened.
pub(super) async fn start(
    params: &IdentityParams,
    waiting: &Live<String>,
    registry: &Arc<Registry>,
    drain: &Drain,
    tasks: &mut Tasks,
) -> Result<Started, NoCertificate> {
    let (asking, requests) = mpsc::channel(ASKING);
    let problem = LastProblem::default();
    let mut authority = None;
    let mesh = match &params.source {
        IdentitySource::Files(places) => {
            let (mesh, used) = files::load(params, places)?;
            let shown = Shown::new(registry, problem.clone());
            let follower =
                files::Follower::new(params.clone(), places.clone(), Arc::clone(&mesh), used, shown);
            tasks.spawn("certificates", follower.run(drain.watch(), requests));
            mesh
        }
        IdentitySource::Builtin(how) => {
            let source = builtin::source(how, registry, drain, tasks).await?;
            if let Source::Local(held) = &source {
                authority = Some(Arc::clone(held));
            }
            let keeper = builtin::Keeper::new(
                params.clone(),
                how.clone(),
                source,
                Shown::new(registry, problem.clone()),
            );
            let keeping = keeper.first(waiting).await?;
            let mesh = keeping.mesh();
            tasks.spawn("certificates", keeping.run(drain.watch(), requests));
            mesh
        }
    };
    tracing::info!(identity = %mesh.own(), "certificates are in use");
    let (identity, renewal) = (Identity { mesh, problem }, RenewHandle(Some(asking)));
    Ok(Started { identity: Some(identity), renewal, authority })
}

/// Starts what keeps a copy of `authority` in the store, if there are both.
pub(super) fn keep_copy(
    authority: Option<Arc<Authority>>,
    store: Option<&Store>,
    registry: &Arc<Registry>,
    drain: &Drain,
    tasks: &mut Tasks,
) {
    let Some(authority) = authority else { return };
    let Some(store) = store else {
        if authority.has_copies() {
            tracing::error!(
                "there is a copy of this certificate authority in the store of its mesh, and this sidecar has no part in that \
                 (`store`): it cannot say that it holds the authority, nor learn that another one does"
            );
        }
        return;
    };
    if let Some(carrier) = copy::Carrier::new(authority, store, CopyMetrics::resolve(registry)) {
        tasks.spawn("copy of the authority", carrier.run(drain.watch()));
    }
}

/// What metrics, status and log tell of the certificates.
struct Shown {
    metrics: CertificateMetrics,
    problem: LastProblem,
    worried: Option<SystemTime>,
}

impl Shown {
    fn new(registry: &Arc<Registry>, problem: LastProblem) -> Self {
        Self { metrics: CertificateMetrics::resolve(registry), problem, worried: None }
    }

    fn show(&self, mesh: &MeshTls) {
        let material = mesh.material();
        let Facts { not_before, not_after, .. } = material.leaf.facts;
        self.metrics.validity("leaf", not_before, not_after);
        if let Some((from, until)) = material.roots_validity() {
            self.metrics.validity("ca", from, until);
        }
    }

    /// New ones are in use.
    fn renewed(&mut self, mesh: &MeshTls) {
        self.worried = None;
        self.problem.clear();
        self.metrics.renewed(true);
        self.show(mesh);
    }

    /// New ones could not be had, or not be used.
    fn failed(&self) {
        self.metrics.renewed(false);
    }

    /// Nobody has renewed the certificate, and it is about to expire.
    fn worry(&mut self, mesh: &MeshTls, now: SystemTime) {
        let material = mesh.material();
        let (from, life) = crate::peer::life(&material.leaf.facts);
        let not_after = from + life;
        let left = not_after.duration_since(now).unwrap_or_default();
        let recently = |last: SystemTime| now.duration_since(last).is_ok_and(|since| since < WORRY_INTERVAL);
        if left > life / WORRY_SHARE || self.worried.is_some_and(recently) {
            return;
        }
        self.worried = Some(now);
        let left = humantime::format_duration(Duration::from_secs(left.as_secs())).to_string();
        if now > not_after {
            tracing::error!("the certificate has expired; nobody in the mesh believes this sidecar any more");
        } else {
            tracing::warn!(left, "the certificate is about to expire and was not renewed");
        }
    }
}
