//! `outrigger iptables`: the rules of the firewall that send an unmodified application's connections through the
//! sidecar. What they are is in rules.rs, how they come into force in change.rs and apply.rs.

mod apply;
mod change;
mod ports;
mod rules;

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode};

use self::{
    apply::{Done, Ipv6},
    change::{Installed, to_restore},
    ports::{InboundPorts, Ports},
    rules::{Family, Interception, OWN_PORTS},
};
use super::exit;
use crate::{
    config::{self, Bundle, FileSource, ProcessEnvironment, Style},
    types::EndpointAddress,
};

/// Ports of the listeners when no configuration is given: the defaults of the configuration.
const INBOUND: u16 = 15006;
const OUTBOUND: u16 = 15001;

/// Redirect the connections of an unmodified application through the sidecar
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The sidecar needs `listeners: { transparent: true }` and must run as the user of --uid, which nothing\n\
                  else may use. Never redirected: what that user dials, loopback, link-local addresses (metadata\n\
                  services), SSH (22), DNS (53), the sidecar's own ports (15000-15020, 7946-7947 and those of the\n\
                  configuration). Only TCP is.\n\n\
                  Exit codes: 0 done, 1 the firewall could not be changed, 2 wrong usage, 3 invalid configuration.\n\n\
                  Examples:\n  outrigger iptables print -c outrigger.yaml\n  \
                  outrigger iptables apply --uid 1337 --skip-outbound 3306,5432\n  \
                  outrigger iptables remove"
)]
pub(super) struct IptablesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Show the rules and change nothing; needs no rights
    Print(RuleArgs),
    /// Bring the rules into force; doing it again changes nothing
    Apply(RuleArgs),
    /// Take the rules away; fine if there are none
    Remove(ToolArgs),
}

#[derive(clap::Args, Debug)]
struct ToolArgs {
    /// Use nft instead of iptables
    #[arg(long)]
    nft: bool,
    /// Fail where IPv6 cannot be redirected. Default: say so and go on
    #[arg(long, conflicts_with = "no_ipv6")]
    ipv6: bool,
    /// Leave IPv6 alone
    #[arg(long)]
    no_ipv6: bool,
}

#[derive(clap::Args, Debug)]
struct RuleArgs {
    #[command(flatten)]
    tool: ToolArgs,
    /// Take the ports of the listeners, and those to leave alone, from this configuration
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// User that the sidecar runs as; its own connections are not redirected
    #[arg(long, value_name = "UID", default_value_t = 1337)]
    uid: u32,
    /// Ports of this machine to redirect: `all`, or as `8080,9000-9010`
    #[arg(long, value_name = "PORTS", default_value = "all")]
    inbound_ports: InboundPorts,
    /// Ports of this machine to leave alone
    #[arg(long, value_name = "PORTS")]
    skip_inbound: Option<Ports>,
    /// Ports of others to leave alone
    #[arg(long, value_name = "PORTS")]
    skip_outbound: Option<Ports>,
}

impl ToolArgs {
    fn ipv6(&self) -> Ipv6 {
        match (self.ipv6, self.no_ipv6) {
            (_, true) => Ipv6::Never,
            (true, false) => Ipv6::Required,
            (false, false) => Ipv6::IfPossible,
        }
    }
}

/// Why the command ended without having done its work.
struct Failure {
    code: u8,
    /// Lines for standard error.
    text: String,
}

impl Failure {
    fn new(code: u8, error: impl std::fmt::Display, hint: &str) -> Self {
        Self { code, text: format!("error: {error}\nhint: {hint}") }
    }
}

/// Runs the command.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the command says is its output")]
pub(super) fn iptables(args: &IptablesArgs) -> ExitCode {
    let mut warnings = Vec::new();
    match run(&args.action, &mut warnings) {
        Ok(text) => {
            warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            eprintln!("{}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// The command without the process around it; returns what it has to say.
fn run(action: &Action, warnings: &mut Vec<String>) -> Result<String, Failure> {
    match action {
        Action::Print(args) => {
            let wanted = wanted(args, warnings)?;
            let ipv6 = args.tool.ipv6() != Ipv6::Never;
            Ok(if args.tool.nft { wanted.nft(ipv6) } else { printed(&wanted, ipv6) })
        }
        Action::Apply(args) => {
            let wanted = wanted(args, warnings)?;
            let done = change(Some(&wanted), &args.tool)?;
            warnings.extend(done.without_ipv6.iter().map(|why| format!("IPv6 is not redirected: {why}")));
            Ok(told(&wanted, &done))
        }
        Action::Remove(tool) => {
            let done = change(None, tool)?;
            // Where no rule of IPv6 can be made, none has to go.
            Ok(if done.was_there { "removed\n" } else { "nothing to remove\n" }.to_owned())
        }
    }
}

fn change(wanted: Option<&Interception>, tool: &ToolArgs) -> Result<Done, Failure> {
    let changed = match tool.nft {
        true => apply::nft(wanted, tool.ipv6()),
        false => apply::iptables(wanted, tool.ipv6()),
    };
    changed.map_err(|error| Failure::new(exit::FAILED, &error, error.hint()))
}

fn told(wanted: &Interception, done: &Done) -> String {
    let families: Vec<&str> = done.families.iter().map(|family| family.name()).collect();
    let mut text = format!("redirected over {}:", families.join(" and "));
    if let Some((port, _)) = &wanted.inbound {
        let _ = write!(text, " inbound to port {port}");
    }
    if let Some(port) = wanted.outbound {
        let comma = if wanted.inbound.is_some() { "," } else { "" };
        let _ = write!(text, "{comma} outbound to port {port}");
    }
    text.push('\n');
    text
}

/// The rules as iptables-restore takes them where there are none yet.
fn printed(wanted: &Interception, ipv6: bool) -> String {
    let mut text = String::new();
    for family in Family::BOTH {
        let tool = match family {
            Family::V4 => "iptables-restore",
            Family::V6 if ipv6 => "ip6tables-restore",
            Family::V6 => continue,
        };
        let _ = writeln!(text, "# {}: {tool} --noflush", family.name());
        text.push_str(&to_restore(&Installed::default(), Some(wanted), family));
    }
    text
}

fn wanted(args: &RuleArgs, warnings: &mut Vec<String>) -> Result<Interception, Failure> {
    let mut wanted = Interception {
        inbound: Some((INBOUND, args.inbound_ports.clone())),
        outbound: Some(OUTBOUND),
        uid: args.uid,
        own: Ports::new(OWN_PORTS),
        skip_inbound: args.skip_inbound.clone().unwrap_or_default(),
        skip_outbound: args.skip_outbound.clone().unwrap_or_default(),
        application: None,
    };
    if let Some(file) = &args.config {
        adapt(&mut wanted, &read(file)?, warnings)?;
    }
    if args.uid == 0 {
        warnings.push("--uid 0: connections of every process of root go past the sidecar".to_owned());
    }
    Ok(wanted)
}

fn read(file: &std::path::Path) -> Result<Bundle, Failure> {
    let text = FileSource::new(file).read().map_err(|problem| {
        let error = format!("cannot read {}: {problem}", file.display());
        Failure::new(exit::FAILED, error, "name the file that the sidecar runs with, or leave -c away")
    })?;
    let loaded = config::load(&text, &ProcessEnvironment);
    loaded.map(|(bundle, _)| bundle).map_err(|findings| {
        let error = format!("{} is invalid", file.display());
        let mut failure = Failure::new(exit::INVALID, error, "`outrigger check` explains each finding");
        failure.text.insert_str(0, &findings.render_text(Style::Plain));
        failure
    })
}

/// Takes over from a configuration what the rules depend on.
fn adapt(wanted: &mut Interception, bundle: &Bundle, warnings: &mut Vec<String>) -> Result<(), Failure> {
    let listeners = &bundle.listeners;
    if !listeners.transparent {
        warnings.push(
            "`listeners.transparent` is false: the sidecar would not know where connections were going"
                .to_owned(),
        );
    }
    let inbound = listeners.inbound.as_ref().map(|listener| listener.address);
    let outbound = listeners.outbound.as_ref().map(|listener| listener.address);
    let reached_inbound = |address: SocketAddr| !address.ip().is_loopback();
    let reached_outbound = |address: SocketAddr| address.ip().is_loopback() || address.ip().is_unspecified();
    let inbound = port(inbound, "inbound", reached_inbound, "\"0.0.0.0:15006\"")?;
    wanted.outbound = port(outbound, "outbound", reached_outbound, "127.0.0.1:15001")?;
    wanted.inbound = inbound.and_then(|port| wanted.inbound.take().map(|(_, ports)| (port, ports)));
    let admin = match &bundle.admin.address {
        EndpointAddress::Tcp(address) => Some(address.port()),
        EndpointAddress::Unix(_) => None,
    };
    let more = [inbound, wanted.outbound, admin];
    let metrics = bundle.admin.metrics_address.map(|address| address.port());
    let tcp = listeners.tcp.iter().map(|listener| listener.address.port());
    let more = more.into_iter().chain([metrics]).flatten().chain(tcp).filter(|port| *port != 0);
    wanted.own = wanted.own.and(more.map(|port| port..=port));
    wanted.application = match &bundle.directory.local.address {
        EndpointAddress::Tcp(address) => rules::to_except(*address),
        EndpointAddress::Unix(_) => None,
    };
    Ok(())
}

/// The port of a listener to which the kernel can redirect.
fn port(
    address: Option<SocketAddr>,
    side: &str,
    reached: impl Fn(SocketAddr) -> bool,
    example: &str,
) -> Result<Option<u16>, Failure> {
    let Some(address) = address else { return Ok(None) };
    let hint = format!("write `listeners: {{ {side}: {{ address: {example} }} }}`");
    if address.port() == 0 {
        let error = format!("`listeners.{side}.address` has port 0, which is another one at each start");
        return Err(Failure::new(exit::FAILED, error, &hint));
    }
    if !reached(address) {
        let error = format!("redirected connections do not reach `listeners.{side}.address`, {address}");
        return Err(Failure::new(exit::FAILED, error, &hint));
    }
    Ok(Some(address.port()))
}

#[cfg(test)]
mod tests;
