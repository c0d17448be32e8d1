//! What the show says before it begins: what runs where, and what to try, as commands.

use std::{io::Write, path::PathBuf};

use super::{
    DemoError,
    fleet::{Alive, CLIENTS, Fleet, NAMES, SERVERS, SPARE},
    load,
    process::Process,
    shift,
    sidecar::{Ports, ROUTE, SECOND},
    workspace::Workspace,
};

/// Says what runs where, and what to try.
pub(super) fn write(fleet: &Fleet, workspace: &Workspace, out: &mut dyn Write) -> Result<(), DemoError> {
    writeln!(out)?;
    for (name, instance) in NAMES.iter().zip(fleet.instances()) {
        let Some(Alive { application, address, sidecar }) = &instance.alive else { continue };
        let Ports { traffic, admin, .. } = instance.ports;
        let sidecar = sidecar.as_ref().map(Process::pid).unwrap_or_default();
        writeln!(
            out,
            "  {name:<8} application at {address} (pid {}), sidecar at {traffic} (pid {sidecar}), its admin API at {admin}",
            application.pid(),
        )?;
    }
    for (name, client) in CLIENTS.iter().zip(fleet.clients()) {
        let (Ports { traffic, admin, .. }, pid) = (client.ports, client.process.pid());
        writeln!(out, "  {name:<8} sidecar at {traffic} (pid {pid}), its admin API at {admin}")?;
    }
    let spare = fleet.spare();
    let (name, address, pid) = (NAMES[SPARE], spare.address, spare.application.pid());
    writeln!(
        out,
        "  {name:<8} application at {address} (pid {pid}), no sidecar: start it by hand, see below"
    )?;
    writeln!(out)?;
    if let Some(join) = fleet.join() {
        writeln!(
            out,
            "  mesh     {} members found each other {:.1} s after the last had started, all by the one address {join}",
            fleet.sidecars().len(),
            fleet.gathered().as_secs_f64()
        )?;
    }
    writeln!(
        out,
        "  store    the sidecars of {} keep it, once they agree; all others ask them",
        NAMES[..SERVERS].join(", ")
    )?;
    invite(fleet, workspace, out)?;
    writeln!(
        out,
        "load: {} connections, about {} requests per second through the sidecars of both clients; Ctrl-C ends it",
        load::CONNECTIONS,
        load::RATE
    )?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Says what to try, as commands.
fn invite(fleet: &Fleet, workspace: &Workspace, out: &mut dyn Write) -> Result<(), DemoError> {
    let canary = shift::prepare(workspace)?;
    let Ports { traffic, admin, .. } = fleet.clients()[0].ports;
    let spare = fleet.spare();
    let binary = binary()?;
    let binary = binary.display();
    writeln!(out)?;
    writeln!(out, "  try      curl -i http://{traffic}/")?;
    writeln!(out, "  look     curl http://{admin}/v1/services")?;
    writeln!(out, "  members  {binary} members --admin http://{admin}")?;
    writeln!(out, "  add      {binary} run --config {}", spare.configuration.display())?;
    writeln!(
        out,
        "           ({}, whose admin API will be at {}; Ctrl-C takes it out again)",
        NAMES[SPARE], spare.ports.admin
    )?;
    let (part, canary) = (shift::PERCENT, canary.display());
    writeln!(out, "  shift    {binary} routes put -f {canary} --admin http://{admin}")?;
    writeln!(
        out,
        "           ({part} % of the traffic to {SECOND}, on all sidecars; `routes rm {ROUTE}` instead of `put` takes it back)"
    )?;
    let servers = || NAMES.iter().zip(fleet.instances()).enumerate().take(SERVERS);
    for (index, (name, instance)) in servers() {
        let label = if index == 0 { "leads" } else { "" };
        let admin = instance.ports.admin;
        writeln!(out, "  {label:<8} {binary} raft status --admin http://{admin} # as {name} sees it")?;
    }
    for (index, (name, _)) in servers() {
        let (label, pid) = (if index == 0 { "kill" } else { "" }, fleet.sidecar(index).map(Process::pid));
        writeln!(out, "  {label:<8} kill -9 {} # the sidecar of {name}", pid.unwrap_or_default())?;
    }
    writeln!(out, "           (first of whoever leads, then of a second one: it costs no request)")?;
    if let Some(first) = fleet.instances().first() {
        let files = workspace.path().join("certificates").join(CLIENTS[0]);
        let (traffic, files) = (first.ports.traffic, files.display());
        writeln!(out, "  refused  curl -k https://{traffic}/")?;
        writeln!(out, "  allowed  curl -k --cert {files}/tls.crt --key {files}/tls.key https://{traffic}/")?;
    }
    writeln!(out, "  files    {}", workspace.path().display())?;
    Ok(writeln!(out)?)
}

/// What starts another sidecar.
pub(super) fn binary() -> Result<PathBuf, DemoError> {
    Ok(std::env::current_exe()?)
}
