//! All processes of the demo: four instances, each an application and its sidecar, two sidecars of clients, and an
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
    sidecar::{FIRST, Kit, LOOK, Ports, Role, SECOND, START_LIMIT, Sidecar},
    workspace::Workspace,
};
use crate::{rt::clock, types::Mono};

/// The instances, in order. The second is the one that dies; the first and the third have their troubles, too.
pub(super) const NAMES: [&str; 5] = ["api-1", "api-2", "api-3", "api-v2", "api-4"];

/// The sidecars of the clients.
pub(super) const CLIENTS: [&str; 2] = ["client-1", "client-2"];

/// So many sidecars keep the store of the mesh, those of the first instances.
pub(super) const SERVERS: usize = 3;

/// Which instance is of the other version.
pub(super) const OTHER: usize = 3;

/// Which instance is no member of the mesh until somebody starts its sidecar; all before it are from the beginning.
pub(super) const SPARE: usize = 4;

/// Which instance dies.
pub(super) const VICTIM: usize = 1;

/// Which instance answers with errors for a while.
pub(super) const FAILING: usize = 0;

/// Which instance is slow for a while.
pub(super) const SLOW: usize = 2;

/// Longest wait for an application to take note.
const TOLD: Duration = Duration::from_secs(2);

/// What runs. Dropping it kills everything.
pub(super) struct Fleet {
    instances: Vec<Instance>,
    clients: Vec<Sidecar>,
    spare: Spare,
    started: Mono,
    gathered: Duration,
    check_interval: Duration,
    issuer: Issuer,
    gossip: Gossip,
}

/// A process has ended that the show did not end.
pub(super) enum Casualty {
    /// The sidecar of this instance: somebody has killed it by hand.
    Killed(usize),
    /// For a reason of its own.
    Fault(DemoError),
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
    /// The process of its sidecar; `None` once that was killed alone.
    pub(super) sidecar: Option<Process>,
}

impl Fleet {
    /// Starts everything and waits until all of it serves, and all members of the mesh know of each other.
    pub(super) async fn start(workspace: &Workspace, check_interval: Duration) -> Result<Self, DemoError> {
        let (issuer, mut gossip) = (Issuer::start(workspace)?, Gossip::start(workspace)?);
        let kit = Kit { workspace, issuer: &issuer, gossip: &gossip, check_interval };
        let first = Instance::start(0, None, &kit).await?;
        gossip.join = Some(first.ports.gossip);
        let kit = Kit { workspace, issuer: &issuer, gossip: &gossip, check_interval };
        let client = |name| Sidecar::start(name, Role::Client, None, &kit);
        let (second, third, other, one, two, spare) = tokio::try_join!(
            Instance::start(1, None, &kit),
            Instance::start(2, None, &kit),
            Instance::start(OTHER, None, &kit),
            client(CLIENTS[0]),
            client(CLIENTS[1]),
            Spare::start(&kit),
        )?;
        let (instances, clients) = (vec![first, second, third, other], vec![one, two]);
        let started = clock::now();
        let all = instances.iter().map(|instance| (instance.ports, false));
        let all = all.chain(clients.iter().map(|client| (client.ports, true)));
        let all = all.map(|(ports, is_client)| (ports.admin, is_client));
        gather(all.collect(), clients[0].process.log()).await?;
        let gathered = clock::now().since(started);
        Ok(Self { instances, clients, spare, started, gathered, check_interval, issuer, gossip })
    }

    /// The instances, in the order of [`NAMES`].
    pub(super) fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The sidecars of the clients, in the order of [`CLIENTS`].
    pub(super) fn clients(&self) -> &[Sidecar] {
        &self.clients
    }

    /// Where the sidecars that keep the store are asked how it is.
    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        self.instances.iter().take(SERVERS).map(|instance| instance.ports.admin).collect()
    }

    /// The sidecars that live, with where they are asked.
    pub(super) fn sidecars(&self) -> Vec<(&'static str, SocketAddr)> {
        let lives =
            |instance: &Instance| instance.alive.as_ref().is_some_and(|alive| alive.sidecar.is_some());
        let instances = NAMES.iter().zip(&self.instances).filter(|(_, instance)| lives(instance));
        let instances = instances.map(|(name, instance)| (*name, instance.ports.admin));
        instances
            .chain(CLIENTS.iter().zip(&self.clients).map(|(name, client)| (*name, client.ports.admin)))
            .collect()
    }

    /// The sidecar of an instance, if it lives.
    pub(super) fn sidecar(&self, instance: usize) -> Option<&Process> {
        self.instances.get(instance)?.alive.as_ref()?.sidecar.as_ref()
    }

    /// When the last sidecar served.
    pub(super) fn started(&self) -> Mono {
        self.started
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
        let mut killed = format!("application {}", application.pid());
        // The sidecar first: one that outlived its application would answer that it is gone, which is a
        // different fault and a slower death than the one to be shown.
        if let Some(sidecar) = sidecar {
            killed = format!("sidecar {} and {killed}", sidecar.pid());
            sidecar.kill().await.map_err(DemoError::Kill)?;
        }
        application.kill().await.map_err(DemoError::Kill)?;
        Ok(killed)
    }

    /// Kills the sidecar of an instance alone. Returns its process id; `None` if it was dead.
    pub(super) async fn kill_sidecar(&mut self, instance: usize) -> Result<Option<u32>, DemoError> {
        let alive = self.instances.get_mut(instance).and_then(|instance| instance.alive.as_mut());
        let Some(sidecar) = alive.and_then(|alive| alive.sidecar.take()) else { return Ok(None) };
        let pid = sidecar.pid();
        sidecar.kill().await.map_err(DemoError::Kill)?;
        Ok(Some(pid))
    }

    /// Starts the victim again: where it was, or elsewhere if its port was taken meanwhile. Nobody is told: it joins
    /// the mesh as it did before. Tells whether it moved.
    pub(super) async fn restore(&mut self, workspace: &Workspace) -> Result<bool, DemoError> {
        let before = self.instances[VICTIM].ports;
        let Self { issuer, gossip, check_interval, .. } = self;
        let kit = Kit { workspace, issuer, gossip, check_interval: *check_interval };
        let restored = Instance::start(VICTIM, Some(before), &kit).await?;
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

    /// The first process found dead that should live. A sidecar that somebody killed is found once.
    pub(super) fn casualty(&mut self) -> Option<Casualty> {
        let Self { instances, clients, spare, .. } = self;
        for (index, instance) in instances.iter_mut().enumerate() {
            let Some(alive) = &mut instance.alive else { continue };
            if alive.sidecar.as_mut().is_some_and(Process::was_ended) {
                alive.sidecar = None;
                return Some(Casualty::Killed(index));
            }
        }
        let instances = instances.iter_mut().filter_map(|instance| instance.alive.as_mut());
        let processes = instances.flat_map(|alive| [Some(&mut alive.application), alive.sidecar.as_mut()]);
        let clients = clients.iter_mut().map(|client| Some(&mut client.process));
        let mut all = processes.chain(clients).chain([Some(&mut spare.application)]).flatten();
        all.find_map(Process::died).map(Casualty::Fault)
    }

    /// Ends all processes and waits until they are gone.
    pub(super) async fn end(self) -> Result<(), DemoError> {
        let instances = self.instances.into_iter().filter_map(|instance| instance.alive);
        let processes = instances.flat_map(|alive| [alive.sidecar, Some(alive.application)]).flatten();
        let clients = self.clients.into_iter().map(|client| client.process);
        let mut outcome = Ok(());
        for process in clients.chain([self.spare.application]).chain(processes) {
            // One that resists is no reason to spare the others.
            outcome = outcome.and(process.kill().await.map_err(DemoError::Kill));
        }
        outcome
    }
}

impl Instance {
    async fn start(index: usize, ports: Option<Ports>, kit: &Kit<'_>) -> Result<Self, DemoError> {
        let name = NAMES[index];
        let (application, address) = start_application(name, kit.workspace).await?;
        let sidecar = Sidecar::start(name, role(index, address), ports, kit).await?;
        let alive = Alive { application, address, sidecar: Some(sidecar.process) };
        Ok(Self { ports: sidecar.ports, alive: Some(alive) })
    }
}

impl Spare {
    async fn start(kit: &Kit<'_>) -> Result<Self, DemoError> {
        let (application, address) = start_application(NAMES[SPARE], kit.workspace).await?;
        let ports = Ports::free();
        let configuration = kit.prepare(NAMES[SPARE], role(SPARE, address), &ports)?;
        Ok(Self { application, address, configuration, ports })
    }
}

/// What the sidecar beside an instance is, whose application listens at `application`.
fn role(index: usize, application: SocketAddr) -> Role {
    let version = if index == OTHER { SECOND } else { FIRST };
    Role::Instance { application, version, is_server: index < SERVERS }
}

/// Waits until each of the sidecars with these admin APIs knows of all of them, and those of clients send to all
/// instances. `log` is one of theirs.
async fn gather(admins: Vec<(SocketAddr, bool)>, log: &Path) -> Result<(), DemoError> {
    let (begun, members) = (clock::now(), admins.len());
    let waiting = admins.into_iter().map(|(admin, is_client)| (Connection::new(admin), is_client));
    let mut waiting: Vec<_> = waiting.collect();
    while let Some((admin, is_client)) = waiting.last_mut() {
        let look = Look::take(admin).await.unwrap_or_default();
        if look.alive() == members && (!*is_client || look.in_rotation() == SPARE) {
            waiting.pop();
            continue;
        }
        if clock::now().since(begun) > START_LIMIT {
            let what = "the mesh".to_owned();
            return Err(DemoError::NotReady { what, after: START_LIMIT, log: log.to_owned() });
        }
        sleep(LOOK).await;
    }
    Ok(())
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
