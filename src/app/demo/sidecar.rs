//! One sidecar of the demo: its configuration, its start on free ports, and how to know that it serves.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::time::sleep;

use super::{
    DemoError, authority::Issuer, client::Connection, gossip::Gossip, process::Process, workspace::Workspace,
};
use crate::{
    net,
    rt::{clock, random},
};

/// Longest wait until a child serves.
pub(super) const START_LIMIT: Duration = Duration::from_secs(15);

/// How often a child that starts is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// How often other ports are tried when something took the chosen ones.
const ATTEMPTS: usize = 8;

/// Below the range from which kernels take ports for outgoing connections: one of those could otherwise sit on the
/// port of an instance when it returns.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The addresses of one sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// The one listener that it has.
    pub(super) traffic: SocketAddr,
    /// Admin API.
    pub(super) admin: SocketAddr,
    /// Where it gossips.
    pub(super) gossip: SocketAddr,
    /// Where others reach its part of the store.
    pub(super) store: SocketAddr,
}

impl Ports {
    /// Addresses on loopback where nobody listens right now.
    pub(super) fn free() -> Self {
        let mut rng = random::seeded(u64::from(std::process::id()));
        let mut taken = Vec::new();
        let mut free = || {
            let candidates = std::iter::repeat_with(|| loopback(rng.u16(PORTS))).take(PORTS.len());
            let is_free = |address: &SocketAddr| {
                !taken.contains(address) && net::bind(*address, 1).is_ok() && UdpSocket::bind(address).is_ok()
            };
            // If nothing is free there, the kernel's refusal in the child's log says so better than we could.
            let found = candidates.into_iter().find(is_free).unwrap_or(loopback(PORTS.end));
            taken.push(found);
            found
        };
        Self { traffic: free(), admin: free(), gossip: free(), store: free() }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What is called.
pub(super) const SERVICE: &str = "api";

/// The route to it, in the file of each client. One of that name in the store takes its place.
pub(super) const ROUTE: &str = "api";

/// The version that the file sends everybody to, and another one.
pub(super) const FIRST: &str = "v1";
/// See [`FIRST`].
pub(super) const SECOND: &str = "v2";

/// What stands beside the sidecar.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// An application, for which it takes requests.
    Instance {
        /// Where it listens.
        application: SocketAddr,
        /// Which version of it that is.
        version: &'static str,
        /// Whether its sidecar keeps the store of the mesh, with others.
        is_server: bool,
    },
    /// The load, for which it sends requests to whoever stands beside an instance.
    Client,
}

impl Role {
    /// The service that it belongs to.
    pub(super) fn service(self) -> &'static str {
        match self {
            Self::Instance { .. } => SERVICE,
            Self::Client => "client",
        }
    }

    /// The section about the store, for a sidecar that keeps what it knows of it in `home`.
    fn store(self, bind: SocketAddr, home: &Path) -> String {
        match self {
            Self::Instance { is_server: true, .. } => {
                let home = home.display();
                // All processes of the show share one machine, perhaps with others: who is late is not dead.
                format!(
                    "store:\n  \
                       mode: server\n  \
                       bind: \"{bind}\"\n  \
                       data_dir: {home}\n  \
                       heartbeat: 100ms\n  \
                       election_timeout: 500ms\n"
                )
            }
            Self::Instance { .. } | Self::Client => {
                format!("store: {{ mode: client, bind: \"{bind}\" }}\n")
            }
        }
    }

    fn sections(self, traffic: SocketAddr, check_interval: Duration) -> String {
        let name = self.service();
        match self {
            Self::Instance { application, version, .. } => {
                let (interval, timeout) = (check_interval.as_millis(), check_interval.as_millis() * 4 / 5);
                format!(
                    "service:\n  \
                       name: {name}\n  \
                       address: {application}\n  \
                       protocol: http1\n  \
                       tags: {{ version: {version} }}\n  \
                       health_check: {{ path: /healthz, interval: {interval}ms, timeout: {timeout}ms, unhealthy_threshold: 2 }}\n\
                     intentions: {{ rules: [{{ source: client, action: allow }}] }}\n\
                     listeners:\n  \
                       inbound: {{ address: {traffic} }}\n  \
                       outbound: {{ enabled: false }}\n"
                )
            }
            Self::Client => format!(
                "service: {{ name: {name}, address: 127.0.0.1:9 }} # takes no requests, so nothing is there\n\
                 intentions: {{ default_action: deny }}\n\
                 listeners:\n  \
                   inbound: {{ enabled: false }}\n  \
                   outbound: {{ address: {traffic} }}\n\
                 defaults:\n  \
                   retry: {{ attempts: 2, retry_on: [connect-failure, refused-stream, reset, gateway-error] }}\n\
                 routes:\n  \
                   - name: {ROUTE} # no addresses anywhere: the mesh knows who stands beside an instance of it\n    \
                     service: {SERVICE}\n    \
                     subset: {{ version: {FIRST} }}\n"
            ),
        }
    }
}

/// What all sidecars of a show have in common.
pub(super) struct Kit<'a> {
    /// Where their files are.
    pub(super) workspace: &'a Workspace,
    /// Who signs their certificates.
    pub(super) issuer: &'a Issuer,
    /// How they find each other.
    pub(super) gossip: &'a Gossip,
    /// How often each checks its application.
    pub(super) check_interval: Duration,
}

impl Kit<'_> {
    /// Writes what the sidecar called `name` needs, and returns its configuration.
    pub(super) fn prepare(&self, name: &str, role: Role, ports: &Ports) -> Result<PathBuf, DemoError> {
        let certificates = self.issuer.issue(role.service(), name)?;
        let text = self.configuration(name, role, ports, &certificates);
        self.workspace.write(&format!("{name}.yaml"), &text).map_err(DemoError::Workspace)
    }

    fn configuration(&self, name: &str, role: Role, ports: &Ports, certificates: &Path) -> String {
        let Ports { traffic, admin, gossip, store } = *ports;
        let (own, mesh) = (role.sections(traffic, self.check_interval), self.gossip.section(name, gossip));
        let store = role.store(store, &self.gossip.home(name).join("store"));
        let directory = certificates.display();
        format!(
            "version: 1\n{own}{mesh}{store}\
             mtls:\n  \
               ca:\n    \
                 mode: files\n    \
                 cert_file: {directory}/tls.crt\n    \
                 key_file: {directory}/tls.key\n    \
                 ca_file: {directory}/ca.crt\n    \
                 crl_file: {directory}/crl.pem\n\
             workers: 1\n\
             admin: {{ address: {admin}, metrics_address: none }}\n\
             telemetry: {{ log: {{ format: text }} }}\n\
             reload: {{ interval: 200ms }}\n\
             shutdown: {{ grace: 0s }}\n"
        )
    }
}

/// A sidecar that serves.
#[derive(Debug)]
pub(super) struct Sidecar {
    /// Its process.
    pub(super) process: Process,
    /// Where it listens.
    pub(super) ports: Ports,
}

impl Sidecar {
    /// Starts a sidecar and waits until it serves. Tries `preferred` first, if given, then other ports as long as
    /// something else takes them away.
    pub(super) async fn start(
        name: &str,
        role: Role,
        preferred: Option<Ports>,
        kit: &Kit<'_>,
    ) -> Result<Self, DemoError> {
        let mut ports = preferred.unwrap_or_else(Ports::free);
        for _ in 1..ATTEMPTS {
            match Self::start_at(name, role, ports, kit).await {
                Err(error) if error.is_port_clash() => ports = Ports::free(),
                other => return other,
            }
        }
        Self::start_at(name, role, ports, kit).await
    }

    async fn start_at(name: &str, role: Role, ports: Ports, kit: &Kit<'_>) -> Result<Self, DemoError> {
        let file = kit.prepare(name, role, &ports)?;
        let arguments = ["run", "--config"].map(OsStr::new);
        let log = kit.workspace.log(&format!("{name}-sidecar")).map_err(DemoError::Workspace)?;
        let what = format!("the sidecar of {name}");
        let arguments = [arguments[0], arguments[1], file.as_os_str()];
        let mut process = Process::start(what.clone(), &arguments, log)?;
        let mut admin = Connection::new(ports.admin);
        let begun = clock::now();
        while !serves(&mut admin, &ports).await {
            if let Some(died) = process.died() {
                return Err(died);
            }
            if clock::now().since(begun) > START_LIMIT {
                return Err(DemoError::NotReady { what, after: START_LIMIT, log: process.log().to_owned() });
            }
            sleep(LOOK).await;
        }
        Ok(Self { process, ports })
    }
}

/// Whether the sidecar with these ports is ready. A stranger who took a port in the last moment is not: the
/// addresses must be ours as well.
async fn serves(admin: &mut Connection, ports: &Ports) -> bool {
    let Ok(answer) = admin.get("/v1/status", START_LIMIT).await else { return false };
    let Ok(status) = serde_json::from_slice::<Value>(&answer.body) else { return false };
    let traffic = ports.traffic.to_string();
    let listeners = &status["listeners"];
    let is_ours = listeners["inbound"] == *traffic || listeners["outbound"] == *traffic;
    is_ours && status["state"] == "ready"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{self, Bundle, ProcessEnvironment, Text},
        membership::Seed,
        snapshot::EndpointSource,
        store::Mode,
        types::EndpointAddress,
    };

    fn load(role: Role, join: Option<SocketAddr>) -> Bundle {
        let workspace = Workspace::create().unwrap();
        let issuer = Issuer::start(&workspace).unwrap();
        let mut gossip = Gossip::start(&workspace).unwrap();
        gossip.join = join;
        let check_interval = Duration::from_millis(300);
        let kit = Kit { workspace: &workspace, issuer: &issuer, gossip: &gossip, check_interval };
        let [traffic, admin, gossip, store] = [20_001, 20_002, 20_003, 20_004].map(loopback);
        let ports = Ports { traffic, admin, gossip, store };
        let text = std::fs::read(kit.prepare("api-1", role, &ports).unwrap()).unwrap();
        let source = Text::read("demo.yaml", text.as_slice()).unwrap();
        let (bundle, findings) = config::load(&source, &ProcessEnvironment).unwrap();
        assert!(findings.is_empty(), "{}", findings.render_text(config::Style::Plain));
        bundle
    }

    fn instance(is_server: bool) -> Role {
        Role::Instance { application: loopback(8080), version: FIRST, is_server }
    }

    #[test]
    fn the_configuration_of_an_instance_is_without_findings() {
        let bundle = load(instance(true), None);
        assert_eq!((bundle.workers, bundle.admin.address), (Some(1), EndpointAddress::Tcp(loopback(20_002))));
        assert_eq!(bundle.admin.metrics_address, None);
        let mesh = bundle.mesh.unwrap();
        assert_eq!((&*mesh.node, mesh.bind, mesh.join), ("api-1", loopback(20_003), Vec::new()));
        let store = bundle.store.unwrap();
        assert_eq!((store.mode, store.bind, store.bootstrap_expect), (Mode::Server, loopback(20_004), 3));
    }

    #[test]
    fn who_does_not_keep_the_store_asks_those_who_do() {
        let modes = [instance(false), Role::Client].map(|role| load(role, None).store.unwrap().mode);
        assert_eq!(modes, [Mode::Client, Mode::Client]);
    }

    #[test]
    fn the_configuration_of_the_client_knows_one_address_and_no_endpoint() {
        let bundle = load(Role::Client, Some(loopback(20_009)));
        assert_eq!(bundle.mesh.unwrap().join, [Seed::Address(loopback(20_009))]);
        let services: Vec<_> =
            bundle.directory.clusters.iter().map(|one| (&*one.name, &one.source)).collect();
        assert_eq!(services, [("api", &EndpointSource::Mesh)]);
    }

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let Ports { traffic, admin, gossip, store } = Ports::free();
        let mut ports = [traffic, admin, gossip, store].map(|address| address.port());
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] < pair[1]), "{ports:?}");
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
