//! Certificates of the built-in authority: the first one, for a token or from what was kept; then another one in time, and
//! what is trusted as soon as it changes. If the authority is gone, what is in use goes on.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{NoCertificate, Renewed, Requests, Shown, chain};
use crate::{
    identity::{
        Builtin, IdentityParams, Kept, Material, MeshTls, PemFiles,
        ca::{CaError, JoinToken, Node, TokenId},
    },
    peer::{
        MeshPhase, Proof, Service, ServiceError, ServiceParams, Source, SourceError, Wanted, backoff, is_due,
        look_interval, renew_at,
    },
    rt::{Drain, DrainWatch, Phase, Tasks, clock, random},
    telemetry::metrics::{CopyMetrics, Registry},
    types::{EndpointAddress, Live, Mono},
};

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// The kernel's name of this machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Where this sidecar asks. Starts the authority's service, if it is this sidecar that holds it.
pub(super) async fn source(
    how: &Builtin,
    registry: &Arc<Registry>,
    drain: &Drain,
    tasks: &mut Tasks,
) -> Result<Source, NoCertificate> {
    let others = || Source::Remote(how.servers.iter().map(|server| EndpointAddress::Tcp(*server)).collect());
    let Some(place) = &how.authority else { return Ok(others()) };
    let params = ServiceParams { place: place.clone(), leaf_ttl: how.leaf_ttl };
    let service = match Service::start(params, registry).await {
        Ok(service) => service,
        Err(error @ ServiceError::Authority(CaError::Superseded { .. })) => {
            // What is kept serves on until it ends: a mesh must not lose a sidecar for that.
            tracing::error!(
                error = chain(&error),
                "this sidecar does not hold the certificate authority any more: name the one that does in `mtls.ca.servers`, \
                 and take `mtls.ca.authority` out"
            );
            CopyMetrics::resolve(registry).superseded();
            return Ok(others());
        }
        Err(error) => {
            let why = format!("the certificate authority cannot be started: {}", chain(&error));
            return Err(NoCertificate(why));
        }
    };
    let authority = service.authority();
    tasks.spawn("authority", service.run(drain.watch()));
    Ok(Source::Local(authority))
}

/// What gets certificates.
pub(super) struct Keeper {
    params: IdentityParams,
    how: Builtin,
    source: Source,
    kept: Kept,
    shown: Shown,
    chance: fastrand::Rng,
    /// A token that an authority did not take.
    refused: Option<TokenId>,
}

impl Keeper {
    pub(super) fn new(params: IdentityParams, how: Builtin, source: Source, shown: Shown) -> Self {
        let kept = Kept::new(&how.dir);
        let chance = random::seeded(u64::MAX - 4);
        Self { params, how, source, kept, shown, chance, refused: None }
    }

    /// Begins with what was kept, or else waits for a certificate, however long that takes.
    pub(super) async fn first(mut self, waiting: &Live<String>) -> Result<Keeping, NoCertificate> {
        let mut failures = 0;
        let mut said = None;
        loop {
            let problem = match self.kept().await {
                Ok(Some((files, material))) => return self.begin(files, material),
                Ok(None) => None,
                Err(problem) => Some(problem),
            };
            let outcome = match self.obtain(None).await {
                Ok(files) => self.read(&files).map(|material| (files, material)),
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok((files, material)) => {
                    self.keep(&files).await;
                    return self.begin(files, material);
                }
                Err(error) => error,
            };
            let why = match problem {
                Some(problem) => format!("{error} (what was kept cannot be used: {problem})"),
                None => error,
            };
            if said.as_ref() != Some(&why) {
                tracing::warn!(why, "there is no certificate yet; trying again");
                said = Some(why.clone());
            }
            drop(waiting.swap(Arc::new(format!("waiting for a certificate: {why}"))));
            self.shown.failed();
            failures += 1;
            // Never at once: full jitter may draw nothing, and a loop must not spin.
            tokio::time::sleep(backoff(failures, self.chance.f64()).max(TICK / 4)).await;
        }
    }

    fn begin(self, used: PemFiles, material: Material) -> Result<Keeping, NoCertificate> {
        let mut keeper = self;
        let renew_at = renew_at(&material.leaf.facts, keeper.chance.f64());
        let mesh = MeshTls::new(material, keeper.params.version)
            .map_err(|error| NoCertificate(error.to_string()))?;
        keeper.shown.show(&mesh);
        Ok(Keeping {
            keeper,
            mesh: Arc::new(mesh),
            used,
            renew_at,
            is_root_old: false,
            next_look: Mono::ZERO,
            failures: 0,
            next_try: Mono::ZERO,
        })
    }

    fn read(&self, files: &PemFiles) -> Result<Material, String> {
        let Self { params, .. } = self;
        Material::read(files, &params.domain, &params.own, clock::wall()).map_err(|error| error.to_string())
    }

    /// What was kept, if it can be used.
    async fn kept(&self) -> Result<Option<(PemFiles, Material)>, String> {
        let kept = self.kept.clone();
        let read =
            tokio::task::spawn_blocking(move || kept.read()).await.map_err(|error| error.to_string())?;
        let Some(files) = read.map_err(|error| chain(&error))? else { return Ok(None) };
        let material = self.read(&files)?;
        Ok(Some((files, material)))
    }

    /// Keeps it for the next start. A disk that is full does not stop a sidecar.
    async fn keep(&self, files: &PemFiles) {
        let (kept, files) = (self.kept.clone(), files.clone());
        let written = tokio::task::spawn_blocking(move || kept.write(&files)).await;
        if let Ok(Err(error)) = written {
            tracing::error!(
                error = chain(&error),
                "the certificate is in use, but cannot be kept for the next start"
            );
        }
    }

    /// Gets a certificate: by the one in use, or else by a token.
    async fn obtain(&mut self, material: Option<&Arc<Material>>) -> Result<PemFiles, String> {
        let wanted = Wanted {
            domain: self.params.domain.clone(),
            own: self.params.own.clone(),
            node: self.how.node.clone().or_else(host_name),
            ttl: self.how.leaf_ttl,
        };
        if matches!(self.source, Source::Local(_)) {
            return self.ask(Proof::Nothing, &wanted).await.map_err(|error| error.to_string());
        }
        let mut refusal = None;
        if let Some(material) = material {
            match self.ask(Proof::Member(material), &wanted).await {
                Ok(files) => return Ok(files),
                // The authority may not know us any more, or have a root that we do not know.
                Err(error) if error.is_refused() => refusal = Some(error.to_string()),
                Err(error) => return Err(error.to_string()),
            }
        }
        let token = match self.token().await {
            Ok(token) if self.refused != Some(token.id()) => token,
            Ok(_) => {
                return Err(refusal.unwrap_or_else(|| {
                    "the join token was refused; put a new one into its place".to_owned()
                }));
            }
            Err(error) => return Err(refusal.unwrap_or(error)),
        };
        match self.ask(Proof::Token(&token), &wanted).await {
            Ok(files) => Ok(files),
            Err(error) => {
                self.refused = error.is_refused().then(|| token.id());
                Err(error.to_string())
            }
        }
    }

    async fn ask(&self, proof: Proof<'_>, wanted: &Wanted) -> Result<PemFiles, SourceError> {
        self.source.certificate(proof, wanted).await.map(|obtained| obtained.files)
    }

    async fn token(&self) -> Result<JoinToken, String> {
        let how = self.how.clone();
        let read = tokio::task::spawn_blocking(move || how.token()).await;
        let token = read.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        token.ok_or_else(|| "there is no `token_file` to join with".to_owned())
    }
}

/// What this machine is called, if that can be a name.
fn host_name() -> Option<Node> {
    std::fs::read_to_string(HOST_NAME).ok()?.trim().parse().ok()
}

/// A certificate in use, and what will be done about it.
pub(super) struct Keeping {
    keeper: Keeper,
    mesh: Arc<MeshTls>,
    used: PemFiles,
    renew_at: SystemTime,
    /// Another root signs by now.
    is_root_old: bool,
    next_look: Mono,
    failures: u32,
    next_try: Mono,
}

impl Keeping {
    pub(super) fn mesh(&self) -> Arc<MeshTls> {
        Arc::clone(&self.mesh)
    }

    /// Keeps it good until the process leaves.
    pub(super) async fn run(mut self, mut drain: DrainWatch, mut requests: Requests) {
        loop {
            let asked = tokio::select! {
                () = drain.reached(Phase::Stopped) => return,
                // Nobody asks any more once the process leaves.
                Some(asked) = requests.recv() => Some(asked),
                () = tokio::time::sleep(TICK) => None,
            };
            self.keeper.shown.worry(&self.mesh, clock::wall());
            if asked.is_some() || clock::now() >= self.next_look {
                self.look().await;
            }
            if let Some(asked) = asked {
                // Whoever asked may have gone.
                let _ = asked.send(self.renew().await);
                continue;
            }
            let not_before = self.mesh.material().leaf.facts.not_before;
            let is_due = self.is_root_old || is_due(not_before, self.renew_at, clock::wall());
            if is_due && clock::now() >= self.next_try {
                // What went wrong is in the log, and tried again.
                let _ = self.renew().await;
            }
        }
    }

    /// Looks what is trusted, and takes it up.
    async fn look(&mut self) {
        let material = self.mesh.material();
        let facts = &material.leaf.facts;
        let bundle = match self.keeper.source.bundle(&material, &self.used.roots).await {
            Ok(bundle) => bundle,
            Err(error) => {
                self.next_look = clock::now().after(look_interval(MeshPhase::Trust, facts));
                self.complain(&error.to_string());
                return;
            }
        };
        self.next_look = clock::now().after(look_interval(bundle.phase, facts));
        let (roots, lists) = (bundle.bundle.into_bytes(), bundle.crl.into_bytes());
        if roots != self.used.roots || lists != self.used.lists {
            if roots != self.used.roots {
                // At once, so that the authority knows that they are in use.
                self.next_look = clock::now();
            }
            let PemFiles { chain, key, .. } = self.used.clone();
            match self.take(PemFiles { chain, key, roots, lists }).await {
                Ok(()) => tracing::info!(phase = ?bundle.phase, "what the mesh trusts has changed"),
                Err(problem) => self.complain(&format!("what the mesh trusts now cannot be used: {problem}")),
            }
        }
        if let Ok(signing) = bundle.signing.parse() {
            self.is_root_old = !self.mesh.material().is_signed_by(&signing, clock::wall());
        }
    }

    async fn renew(&mut self) -> Result<Renewed, String> {
        let material = self.mesh.material();
        let renewed = match self.keeper.obtain(Some(&material)).await {
            Ok(files) => self.take(files).await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = renewed {
            self.keeper.shown.failed();
            self.failures = self.failures.saturating_add(1);
            self.next_try = clock::now().after(backoff(self.failures, self.keeper.chance.f64()));
            self.complain(&problem);
            return Err(problem);
        }
        let facts = self.mesh.material().leaf.facts.clone();
        self.renew_at = renew_at(&facts, self.keeper.chance.f64());
        self.is_root_old = false;
        // At once, so that the authority knows that it is in use.
        self.next_look = clock::now();
        self.failures = 0;
        self.keeper.shown.renewed(&self.mesh);
        tracing::info!(serial = %facts.serial, "the certificate was renewed");
        Ok(Renewed::of(&self.mesh, true))
    }

    /// Uses `files` from now on, and keeps them.
    async fn take(&mut self, files: PemFiles) -> Result<(), String> {
        let material = self.keeper.read(&files)?;
        self.keeper.keep(&files).await;
        self.mesh.replace(material);
        self.keeper.shown.show(&self.mesh);
        self.used = files;
        Ok(())
    }

    /// Says once what is wrong, and goes on with what is in use.
    fn complain(&mut self, problem: &str) {
        if self.keeper.shown.problem.note(problem, clock::wall()) {
            tracing::warn!(
                problem,
                "the certificate authority is of no help; the certificate in use goes on"
            );
        }
    }
}
