//! A part of the traffic goes to the other version: the route that says so, `outrigger routes put` with it, and when all
//! sidecars serve by it.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use super::{
    DemoError,
    client::Connection,
    sidecar::{FIRST, ROUTE, SECOND, SERVICE},
    store::{ask, taken_over},
    workspace::Workspace,
};
use crate::rt::clock;

/// Percent of the requests that the route sends to the other version.
pub(super) const PERCENT: u32 = 10;

/// Longest time for the command.
const LIMIT: Duration = Duration::from_secs(10);

/// How long it is repeated: while another leader is elected, it may not be known what came of a write, and one that is
/// repeated does no harm.
const REPEATED: Duration = Duration::from_secs(30);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the last sidecar may take.
const SERVED: Duration = Duration::from_secs(10);

/// Between two looks at a sidecar.
const LOOK: Duration = Duration::from_millis(2);

/// The route is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shifted {
    /// The revision that it was written as.
    pub(super) revision: u64,
    /// How many sidecars serve by it.
    pub(super) sidecars: usize,
    /// When the last of them was seen to, from when the command said that it is written.
    pub(super) after: Duration,
}

/// Writes the route into a file, which the command takes.
pub(super) fn prepare(workspace: &Workspace) -> Result<PathBuf, DemoError> {
    workspace.write("canary.yaml", &route()).map_err(DemoError::Workspace)
}

fn route() -> String {
    let rest = 100 - PERCENT;
    format!(
        "name: {ROUTE} # instead of the route of that name in the files\n\
         split:\n\
         - {{ service: {SERVICE}, subset: {{ version: {FIRST} }}, weight: {rest} }}\n\
         - {{ service: {SERVICE}, subset: {{ version: {SECOND} }}, weight: {PERCENT} }}\n"
    )
}

/// Runs `outrigger routes put` with `file`, asks the sidecar at `admin` to write it, and waits until all `sidecars` serve
/// by it. Says why not, if they do not.
pub(super) async fn put(
    file: &Path,
    admin: SocketAddr,
    sidecars: Vec<(&'static str, SocketAddr)>,
) -> Result<Shifted, String> {
    let begun = clock::now();
    let revision = loop {
        match write(file, admin).await {
            Ok(revision) => break revision,
            Err(why) if clock::now().since(begun) > REPEATED => return Err(why),
            Err(_) => sleep(PAUSE).await,
        }
    };
    let (written, count) = (clock::now(), sidecars.len());
    let mut waiting: Vec<_> =
        sidecars.into_iter().map(|(name, admin)| (name, Connection::new(admin))).collect();
    loop {
        let mut missing = Vec::with_capacity(waiting.len());
        for (name, mut admin) in waiting {
            let told = ask(&mut admin, "/v1/routes").await;
            if told.as_ref().and_then(taken_over).is_none_or(|has| has < revision) {
                missing.push((name, admin));
            }
        }
        let after = clock::now().since(written);
        if missing.is_empty() {
            return Ok(Shifted { revision, sidecars: count, after });
        }
        if after > SERVED {
            let names: Vec<_> = missing.into_iter().map(|(name, _)| name).collect();
            return Err(format!("{SERVED:?} after it was written, {} did not serve by it", names.join(", ")));
        }
        waiting = missing;
        sleep(LOOK).await;
    }
}

async fn write(file: &Path, admin: SocketAddr) -> Result<u64, String> {
    let refused = |error: io::Error| format!("`outrigger routes put` cannot be run: {error}");
    let binary = std::env::current_exe().map_err(refused)?;
    let mut command = Command::new(binary);
    command
        .args(["routes", "put", "-o", "json", "--admin"])
        .arg(format!("http://{admin}"))
        .arg("-f")
        .arg(file);
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(LIMIT, running).await;
    let output = output.map_err(|_| format!("`outrigger routes put` took longer than {LIMIT:?}"))?;
    let output = output.map_err(refused)?;
    let revision = serde_json::from_slice::<Value>(&output.stdout).ok();
    let revision = revision.and_then(|written| written["revision"].as_u64());
    revision.filter(|_| output.status.success()).ok_or_else(|| {
        let why = String::from_utf8_lossy(&output.stderr);
        format!("`outrigger routes put` failed ({}): {}", output.status, why.trim_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Record;

    #[test]
    fn the_route_takes_the_place_of_the_one_in_the_files() {
        assert_eq!(Record::name_in(&route()).as_deref(), Some(ROUTE));
    }
}
