//! One sidecar of the demo: its configuration, its start on free ports, and how to know that it serves.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use serde_json::Value;
use tokio::time::sleep;

use super::{DemoError, authority::Issuer, client::Connection, process::Process, workspace::Workspace};
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
}

impl Ports {
    /// Two addresses on loopback where nobody listens right now.
    fn free() -> Self {
        let mut rng = random::seeded(u64::from(std::process::id()));
        let mut free = || {
            let candidates = std::iter::repeat_with(|| loopback(rng.u16(PORTS))).take(PORTS.len());
            // If nothing is free there, the kernel's refusal in the child's log says so better than we could.
            candidates
                .into_iter()
                .find(|address| net::bind(*address, 1).is_ok())
                .unwrap_or(loopback(PORTS.end))
        };
        let traffic = free();
        let admin = std::iter::repeat_with(free).find(|admin| *admin != traffic);
        Self { traffic, admin: admin.unwrap_or(traffic) }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What stands beside the sidecar.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// An application at this address, for which it takes requests.
    Instance(SocketAddr),
    /// The load, for which it sends requests to these instances.
    Client {
        /// Where their sidecars listen.
        endpoints: Vec<SocketAddr>,
        /// Interval of its health checks.
        check_interval: Duration,
    },
}

impl Role {
    /// The service that it belongs to.
    pub(super) fn service(&self) -> &'static str {
        match self {
            Self::Instance(_) => "api",
            Self::Client { .. } => "client",
        }
    }

    /// The configuration of a sidecar with this role, whose certificate is in the directory `certificates`.
    pub(super) fn configuration(&self, ports: &Ports, certificates: &Path) -> String {
        let Ports { traffic, admin } = ports;
        let (name, directory) = (self.service(), certificates.display());
        let own = match self {
            Self::Instance(application) => format!(
                "service: {{ name: {name}, address: {application}, protocol: http1 }}\n\
                 intentions: {{ rules: [{{ source: client, action: allow }}] }}\n\
                 listeners:\n  \
                   inbound: {{ address: {traffic} }}\n  \
                   outbound: {{ enabled: false }}\n"
            ),
            Self::Client { endpoints, check_interval } => {
                let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
                let (endpoints, interval) = (endpoints.join(", "), check_interval.as_millis());
                format!(
                    "service: {{ name: {name}, address: 127.0.0.1:9 }} # takes no requests, so nothing is there\n\
                     intentions: {{ default_action: deny }}\n\
                     listeners:\n  \
                       inbound: {{ enabled: false }}\n  \
                       outbound: {{ address: {traffic} }}\n\
                     routes:\n  \
                       - service: api\n    \
                         retry: {{ attempts: 2, retry_on: [connect-failure, refused-stream, reset, gateway-error] }}\n\
                     services:\n  \
                       api:\n    \
                         endpoints: [{endpoints}]\n    \
                         health_check:\n      \
                           path: /healthz\n      \
                           interval: {interval}ms\n      \
                           timeout: {}ms\n      \
                           unhealthy_threshold: 2\n",
                    check_interval.as_millis() * 4 / 5
                )
            }
        };
        format!(
            "version: 1\n{own}\
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
        role: &Role,
        preferred: Option<Ports>,
        workspace: &Workspace,
        issuer: &Issuer,
    ) -> Result<Self, DemoError> {
        let certificates = issuer.issue(role.service(), name)?;
        let mut ports = preferred.unwrap_or_else(Ports::free);
        for _ in 1..ATTEMPTS {
            match Self::start_at(name, role, ports, workspace, &certificates).await {
                Err(error) if error.is_port_clash() => ports = Ports::free(),
                other => return other,
            }
        }
        Self::start_at(name, role, ports, workspace, &certificates).await
    }

    async fn start_at(
        name: &str,
        role: &Role,
        ports: Ports,
        workspace: &Workspace,
        certificates: &Path,
    ) -> Result<Self, DemoError> {
        let text = role.configuration(&ports, certificates);
        let written = workspace.write(&configuration_file(name), &text);
        let file = written.map_err(DemoError::Workspace)?;
        let arguments = ["run", "--config"].map(OsStr::new);
        let log = workspace.log(&format!("{name}-sidecar")).map_err(DemoError::Workspace)?;
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

/// Name of the configuration file of the sidecar of `name`.
pub(super) fn configuration_file(name: &str) -> String {
    format!("{name}.yaml")
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
        types::EndpointAddress,
    };

    const PORTS: Ports = Ports {
        traffic: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 20_001),
        admin: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 20_002),
    };

    fn load(role: &Role) -> Bundle {
        let text = role.configuration(&PORTS, Path::new("/nowhere"));
        let source = Text::read("demo.yaml", text.as_bytes()).unwrap();
        let (bundle, findings) = config::load(&source, &ProcessEnvironment).unwrap();
        assert!(findings.is_empty(), "{text}\n{}", findings.render_text(config::Style::Plain));
        bundle
    }

    #[test]
    fn the_configuration_of_an_instance_is_without_findings() {
        let bundle = load(&Role::Instance("127.0.0.1:8080".parse().unwrap()));
        assert_eq!((bundle.workers, bundle.admin.address), (Some(1), EndpointAddress::Tcp(PORTS.admin)));
        assert_eq!(bundle.admin.metrics_address, None);
    }

    #[test]
    fn the_configuration_of_the_client_is_without_findings() {
        let endpoints = (1..=3).map(loopback).collect();
        let bundle = load(&Role::Client { endpoints, check_interval: Duration::from_millis(300) });
        assert_eq!(bundle.workers, Some(1));
    }

    #[test]
    fn free_ports_are_two_and_can_be_bound() {
        let ports = Ports::free();
        assert_ne!(ports.traffic, ports.admin);
        assert!(super::PORTS.contains(&ports.traffic.port()) && super::PORTS.contains(&ports.admin.port()));
    }
}
