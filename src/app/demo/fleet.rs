//! All processes of the demo: three instances, each an application and its sidecar, the sidecar of the client, and an
//! application that has no sidecar until somebody starts one by hand.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    DemoError,
    application::{LISTENING, Mood},
    authority::Issuer,
    client::Connection,
    gossip::Gossip,
    process::Process,
    rotation::Look,
    sidecar::{Kit, LOOK, Ports, Role, START_LIMIT, Sidecar},
    workspace::Workspace,
};
use crate::rt::clock;

/// The instances, in order. The second is the one that dies; the first and the third have their troubles, too.
pub(super) const NAMES: [&str; 4] = ["api-1", "api-2", "api-3", "api-4"];

/// Which instance is no member of the mesh until somebody starts its sidecar; all before it are from the beginning.
pub(super) const SPARE: usize = 3;

/// Which instance dies.
pub(super) const VICTIM: usize = 1;

/// Which instance answers with errors for a while.
pub(super) const FAILING: usize = 0;

/// Which instance is slow for a while.
pub(super) const SLOW: usize = 2;

/// Longest wait for an application to take note.
const TOLD: Duration = Duration::from_secs(2);

/// Name of the client.
const CLIENT: &str = "client";

/// What runs. Dropping it kills everything.
pub(super) struct Fleet {
    instances: Vec<Instance>,
    client: Sidecar,
    spare: Spare,
    gathered: Duration,
    check_interval: Duration,
    issuer: Issuer,
    gossip: Gossip,
}

/// An application with everything that a sidecar beside it needs, but without the sidecar.
#[derive(Debug)]
pub(super) struct Spare {
    /// The application.
    pub(super) application: Process,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// The configuration for its sidecar.
    pub(super) configuration: PathBuf,
    /// Where that listens.
    pub(super) ports: Ports,
}

/// One instance of the application.
#[derive(Debug)]
pub(super) struct Instance {
    /// Where its sidecar listens, or did when it lived.
    pub(super) ports: Ports,
    /// Its processes; `None` while it is dead.
    pub(super) alive: Option<Alive>,
}

/// The processes of an instance.
#[derive(Debug)]
pub(super) struct Alive {
    /// The application.
    pub(super) application: Process,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// The process of its sidecar.
    pub(super) sidecar: Process,
}

impl Fleet {
    /// Starts everything and waits until all of it serves, and all members of the mesh know of each other.
    pub(super) async fn start(workspace: &Workspace, check_interval: Duration) -> Result<Self, DemoError> {
        let (issuer, mut gossip) = (Issuer::start(workspace)?, Gossip::start(workspace)?);
        let mut instances = Vec::with_capacity(SPARE);
        for name in &NAMES[..SPARE] {
            let kit = Kit { workspace, issuer: &issuer, gossip: &gossip, check_interval };
            let instance = Instance::start(name, None, &kit).await?;
            gossip.join = gossip.join.or(Some(instance.ports.gossip));
            instances.push(instance);
        }
        let kit = Kit { workspace, issuer: &issuer, gossip: &gossip, check_interval };
        let client = Sidecar::start(CLIENT, Role::Client, None, &kit).await?;
        let all = instances.iter().map(|instance| instance.ports).chain([client.ports]);
        let gathered = gather(all.map(|ports| ports.admin).collect(), client.process.log()).await?;
        let spare = Spare::start(&kit).await?;
        Ok(Self { instances, client, spare, gathered, check_interval, issuer, gossip })
    }

    /// The instances, in the order of [`NAMES`].
    pub(super) fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The sidecar of the client.
    pub(super) fn client(&self) -> &Sidecar {
        &self.client
    }

    /// The application without a sidecar.
    pub(super) fn spare(&self) -> &Spare {
        &self.spare
    }

    /// The one address that whoever joins has to know.
    pub(super) fn join(&self) -> Option<SocketAddr> {
        self.gossip.join
    }

    /// How long it took, from when the last sidecar served, until all members knew of each other.
    pub(super) fn gathered(&self) -> Duration {
        self.gathered
    }

    /// Kills the victim with all its processes, as when its machine fails. Returns what was killed.
    pub(super) async fn kill(&mut self) -> Result<String, DemoError> {
        let Some(Alive { application, sidecar, .. }) = self.instances[VICTIM].alive.take() else {
            return Ok("nothing: it is dead already".to_owned());
        };
        let killed = format!("sidecar {} and application {}", sidecar.pid(), application.pid());
        // The sidecar first: one that outlived its application would answer that it is gone, which is a
        // different fault and a slower death than the one to be shown.
        sidecar.kill().await.map_err(DemoError::Kill)?;
        application.kill().await.map_err(DemoError::Kill)?;
        Ok(killed)
    }

    /// Starts the victim again: where it was, or elsewhere if its port was taken meanwhile. Nobody is told: it joins
    /// the mesh as it did before. Tells whether it moved.
    pub(super) async fn restore(&mut self, workspace: &Workspace) -> Result<bool, DemoError> {
        let before = self.instances[VICTIM].ports;
        let Self { issuer, gossip, check_interval, .. } = self;
        let kit = Kit { workspace, issuer, gossip, check_interval: *check_interval };
        let restored = Instance::start(NAMES[VICTIM], Some(before), &kit).await?;
        let moved = restored.ports.traffic != before.traffic;
        self.instances[VICTIM] = restored;
        Ok(moved)
    }

    /// Puts the application of an instance into a mood. One that is dead has none.
    pub(super) async fn tell(&self, instance: usize, mood: Mood) -> Result<(), DemoError> {
        let Some(alive) = self.instances.get(instance).and_then(|instance| instance.alive.as_ref()) else {
            return Ok(());
        };
        // Past all sidecars: this is what happens inside the application.
        let told = Connection::new(alive.address).ask("PUT", mood.path(), TOLD).await;
        let failed = |why: String| DemoError::Start {
            what: format!("the change of mood of {}", NAMES[instance]),
            source: std::io::Error::other(why),
        };
        match told {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(failed(format!("status {}", answer.status))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The first process found dead that should live.
    pub(super) fn casualty(&mut self) -> Option<DemoError> {
        let instances = self.instances.iter_mut().filter_map(|instance| instance.alive.as_mut());
        let processes = instances.flat_map(|alive| [&mut alive.application, &mut alive.sidecar]);
        processes.chain([&mut self.client.process, &mut self.spare.application]).find_map(Process::died)
    }

    /// Ends all processes and waits until they are gone.
    pub(super) async fn end(self) -> Result<(), DemoError> {
        let instances = self.instances.into_iter().filter_map(|instance| instance.alive);
        let processes = instances.flat_map(|alive| [alive.sidecar, alive.application]);
        let mut outcome = Ok(());
        for process in [self.client.process, self.spare.application].into_iter().chain(processes) {
            // One that resists is no reason to spare the others.
            outcome = outcome.and(process.kill().await.map_err(DemoError::Kill));
        }
        outcome
    }
}

impl Instance {
    async fn start(name: &str, ports: Option<Ports>, kit: &Kit<'_>) -> Result<Self, DemoError> {
        let (application, address) = start_application(name, kit.workspace).await?;
        let sidecar = Sidecar::start(name, Role::Instance(address), ports, kit).await?;
        let alive = Alive { application, address, sidecar: sidecar.process };
        Ok(Self { ports: sidecar.ports, alive: Some(alive) })
    }
}

impl Spare {
    async fn start(kit: &Kit<'_>) -> Result<Self, DemoError> {
        let (application, address) = start_application(NAMES[SPARE], kit.workspace).await?;
        let ports = Ports::free();
        let configuration = kit.prepare(NAMES[SPARE], Role::Instance(address), &ports)?;
        Ok(Self { application, address, configuration, ports })
    }
}

/// Waits until each of the sidecars with these admin APIs knows of all of them, and the last, the client's, sends to all
/// instances. Returns how long that took. `log` is the client's.
async fn gather(admins: Vec<SocketAddr>, log: &Path) -> Result<Duration, DemoError> {
    let (begun, members) = (clock::now(), admins.len());
    let mut waiting: Vec<Connection> = admins.into_iter().map(Connection::new).collect();
    while let Some(admin) = waiting.first_mut() {
        let look = Look::take(admin).await.unwrap_or_default();
        let is_client = waiting.len() == 1;
        if look.alive() == members && (!is_client || look.in_rotation() == SPARE) {
            waiting.remove(0);
            continue;
        }
        if clock::now().since(begun) > START_LIMIT {
            let what = "the mesh".to_owned();
            return Err(DemoError::NotReady { what, after: START_LIMIT, log: log.to_owned() });
        }
        sleep(LOOK).await;
    }
    Ok(clock::now().since(begun))
}

/// Starts the application, which takes a port that the kernel chooses and writes it into its log.
async fn start_application(name: &str, workspace: &Workspace) -> Result<(Process, SocketAddr), DemoError> {
    let arguments = ["demo-app", "--listen", "127.0.0.1:0", "--name", name].map(OsStr::new);
    let log = workspace.log(&format!("{name}-application")).map_err(DemoError::Workspace)?;
    let what = format!("the application of {name}");
    let mut process = Process::start(what.clone(), &arguments, log)?;
    let begun = clock::now();
    loop {
        let log = fs::read_to_string(process.log()).map_err(DemoError::Workspace)?;
        if let Some(address) = listening(&log) {
            return Ok((process, address));
        }
        if let Some(died) = process.died() {
            return Err(died);
        }
        if clock::now().since(begun) > START_LIMIT {
            return Err(DemoError::NotReady { what, after: START_LIMIT, log: process.log().to_owned() });
        }
        sleep(LOOK).await;
    }
}

/// The address in the log of an application, once the line that says it is complete.
fn listening(log: &str) -> Option<SocketAddr> {
    let (_, after) = log.split_once(LISTENING)?;
    after.split_once('\n')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_no_address() {
        assert_eq!(listening("listening 127.0.0.1:80"), None);
        assert_eq!(listening("listening 127.0.0.1:8080\n"), Some(([127, 0, 0, 1], 8080).into()));
    }
}
