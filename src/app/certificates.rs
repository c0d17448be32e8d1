//! The sidecar's own certificates: read at the start, looked at again and again, swapped when there are new ones. What is
//! no good is told and left alone: the ones in use go on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::identity::LastProblem;
use crate::{
    identity::{Facts, IdentityParams, Material, MaterialError, MeshTls, NewTrust, PemFiles},
    rt::{DrainWatch, Phase, clock},
    telemetry::metrics::{CertificateMetrics, Registry},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Part of its life that a certificate has left when it is time to worry aloud.
const WORRY_SHARE: u32 = 5;
/// How often that is said.
const WORRY_INTERVAL: Duration = Duration::from_secs(600);

/// Why a sidecar has no certificate to begin with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoCertificate(String);

/// Reads the certificates and makes the mesh of them.
///
/// # Errors
/// What is wrong with the files, or with what is in them.
pub(crate) fn load(params: &IdentityParams) -> Result<(Arc<MeshTls>, PemFiles), NoCertificate> {
    let said = |error: &dyn std::fmt::Display| NoCertificate(error.to_string());
    let files = params.files.read().map_err(|error| NoCertificate(chain(&error)))?;
    let material = Material::read(&files, &params.domain, &params.own, clock::wall())
        .map_err(|error| NoCertificate(told(params, &error)))?;
    let mesh = MeshTls::new(material, params.version).map_err(|error| said(&error))?;
    Ok((Arc::new(mesh), files))
}

/// What is wrong, and in which file.
fn told(params: &IdentityParams, error: &MaterialError) -> String {
    format!("{}: {error}", params.files.path(error.part()).display())
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The task that follows the files.
pub(crate) struct Follower {
    params: IdentityParams,
    mesh: Arc<MeshTls>,
    /// What is in use.
    used: PemFiles,
    /// What was seen last, good or not.
    seen: Option<PemFiles>,
    /// What was wrong with it.
    problem: LastProblem,
    worried: Option<SystemTime>,
    metrics: CertificateMetrics,
}

impl Follower {
    pub(crate) fn new(
        params: IdentityParams,
        mesh: Arc<MeshTls>,
        used: PemFiles,
        problem: LastProblem,
        registry: &Arc<Registry>,
    ) -> Self {
        let metrics = CertificateMetrics::resolve(registry);
        let follower = Self { params, mesh, used, seen: None, problem, worried: None, metrics };
        follower.show();
        follower
    }

    /// Follows until the process leaves.
    pub(crate) async fn run(mut self, mut drain: DrainWatch) {
        loop {
            tokio::select! {
                () = drain.reached(Phase::Stopped) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            self.worry(clock::wall());
            let files = self.params.files.clone();
            // A file on a dead server must not stop the control runtime.
            let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { continue };
            match read {
                Ok(files) => self.look(files),
                Err(error) => self.complain(&chain(&error)),
            }
        }
    }

    /// Takes up what was read, once two looks in a row saw the same: files are written one after the other.
    fn look(&mut self, files: PemFiles) {
        if files == self.used {
            self.seen = None;
            self.problem.clear();
            return;
        }
        if self.seen.as_ref() != Some(&files) {
            self.seen = Some(files);
            return;
        }
        match Material::read(&files, &self.params.domain, &self.params.own, clock::wall()) {
            Ok(material) => {
                let facts = material.leaf.facts.clone();
                let trust_changed = self.mesh.replace(material);
                self.used = files;
                self.seen = None;
                self.problem.clear();
                self.worried = None;
                self.metrics.renewed(true);
                self.show();
                tracing::info!(serial = %facts.serial, trust_changed, "new certificates are in use");
            }
            Err(error) => {
                let problem = told(&self.params, &error);
                self.complain(&problem);
                if matches!(error, MaterialError::Gone(_)) {
                    self.believe(&files);
                }
            }
        }
    }

    /// Our own certificate has expired, or is on the list that came. That is no reason to go on believing the others on
    /// it.
    fn believe(&mut self, files: &PemFiles) {
        let same = files.roots == self.used.roots && files.lists == self.used.lists;
        let Ok(trust) = NewTrust::read(files, &self.params.domain) else { return };
        if !same && self.mesh.replace_trust(trust) {
            self.used.roots.clone_from(&files.roots);
            self.used.lists.clone_from(&files.lists);
            tracing::warn!("new roots or revocation lists are in use, with the certificate that there was");
        }
    }

    /// Says once what is wrong, and goes on with what is in use.
    fn complain(&mut self, problem: &str) {
        if self.problem.note(problem, clock::wall()) {
            self.metrics.renewed(false);
            tracing::error!(problem, "the new certificates cannot be used; those in use go on");
        }
    }

    fn show(&self) {
        let material = self.mesh.material();
        let Facts { not_before, not_after, .. } = material.leaf.facts;
        self.metrics.validity("leaf", not_before, not_after);
        if let Some((from, until)) = material.roots_validity() {
            self.metrics.validity("ca", from, until);
        }
    }

    /// Nobody has renewed the certificate, and it is about to expire.
    fn worry(&mut self, now: SystemTime) {
        let material = self.mesh.material();
        let Facts { not_before, not_after, .. } = material.leaf.facts;
        let lifetime = not_after.duration_since(not_before).unwrap_or_default();
        let left = not_after.duration_since(now).unwrap_or_default();
        let recently = |last: SystemTime| now.duration_since(last).is_ok_and(|since| since < WORRY_INTERVAL);
        if left > lifetime / WORRY_SHARE || self.worried.is_some_and(recently) {
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
