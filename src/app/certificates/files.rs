//! Certificates that somebody else writes into files: read at the start, looked at again and again, swapped when there are
//! new ones. What is no good is told and left alone: the ones in use go on.

use std::{sync::Arc, time::Duration};

use super::{NoCertificate, Renewed, Requests, Shown, chain};
use crate::{
    identity::{IdentityFiles, IdentityParams, Material, MaterialError, MeshTls, NewTrust, PemFiles},
    rt::{DrainWatch, Phase, clock},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Reads the certificates and makes the mesh of them.
///
/// # Errors
/// What is wrong with the files, or with what is in them.
pub(super) fn load(
    params: &IdentityParams,
    places: &IdentityFiles,
) -> Result<(Arc<MeshTls>, PemFiles), NoCertificate> {
    let said = |error: &dyn std::fmt::Display| NoCertificate(error.to_string());
    let files = places.read().map_err(|error| NoCertificate(chain(&error)))?;
    let material = Material::read(&files, &params.domain, &params.own, clock::wall())
        .map_err(|error| NoCertificate(told(places, &error)))?;
    let mesh = MeshTls::new(material, params.version).map_err(|error| said(&error))?;
    Ok((Arc::new(mesh), files))
}

/// What is wrong, and in which file.
fn told(places: &IdentityFiles, error: &MaterialError) -> String {
    format!("{}: {error}", places.path(error.part()).display())
}

/// The task that follows the files.
pub(super) struct Follower {
    params: IdentityParams,
    places: IdentityFiles,
    mesh: Arc<MeshTls>,
    /// What is in use.
    used: PemFiles,
    /// What was seen last, good or not.
    seen: Option<PemFiles>,
    shown: Shown,
}

impl Follower {
    pub(super) fn new(
        params: IdentityParams,
        places: IdentityFiles,
        mesh: Arc<MeshTls>,
        used: PemFiles,
        shown: Shown,
    ) -> Self {
        shown.show(&mesh);
        Self { params, places, mesh, used, seen: None, shown }
    }

    /// Follows until the process leaves.
    pub(super) async fn run(mut self, mut drain: DrainWatch, mut requests: Requests) {
        loop {
            let asked = tokio::select! {
                () = drain.reached(Phase::Stopped) => return,
                // Nobody asks any more once the process leaves.
                Some(asked) = requests.recv() => Some(asked),
                () = tokio::time::sleep(LOOK) => None,
            };
            self.shown.worry(&self.mesh, clock::wall());
            let places = self.places.clone();
            // A file on a dead server must not stop the control runtime.
            let Ok(read) = tokio::task::spawn_blocking(move || places.read()).await else { continue };
            let read = read.map_err(|error| chain(&error));
            match asked {
                // Whoever asked may have gone.
                Some(asked) => drop(asked.send(self.take_now(read))),
                None => match read {
                    Ok(files) => self.look(files),
                    Err(problem) => self.complain(&problem),
                },
            }
        }
    }

    /// Takes up what was read at once: whoever asks for it has finished writing.
    fn take_now(&mut self, read: Result<PemFiles, String>) -> Result<Renewed, String> {
        let taken = read
            .and_then(|files| if files == self.used { Ok(false) } else { self.take(files).map(|()| true) });
        match taken {
            Ok(changed) => Ok(Renewed::of(&self.mesh, changed)),
            Err(problem) => {
                self.complain(&problem);
                Err(problem)
            }
        }
    }

    /// Takes up what was read, once two looks in a row saw the same: files are written one after the other.
    fn look(&mut self, files: PemFiles) {
        if files == self.used {
            self.seen = None;
            self.shown.problem.clear();
            return;
        }
        if self.seen.as_ref() != Some(&files) {
            self.seen = Some(files);
            return;
        }
        if let Err(problem) = self.take(files) {
            self.complain(&problem);
        }
    }

    fn take(&mut self, files: PemFiles) -> Result<(), String> {
        let read = Material::read(&files, &self.params.domain, &self.params.own, clock::wall());
        let material = read.map_err(|error| {
            if matches!(error, MaterialError::Gone(_)) {
                self.believe(&files);
            }
            told(&self.places, &error)
        })?;
        let serial = material.leaf.facts.serial.clone();
        let trust_changed = self.mesh.replace(material);
        self.used = files;
        self.seen = None;
        self.shown.renewed(&self.mesh);
        tracing::info!(serial, trust_changed, "new certificates are in use");
        Ok(())
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
    fn complain(&self, problem: &str) {
        if self.shown.problem.note(problem, clock::wall()) {
            self.shown.failed();
            tracing::error!(problem, "the new certificates cannot be used; those in use go on");
        }
    }
}
