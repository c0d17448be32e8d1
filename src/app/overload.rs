//! Measures what the process may run out of, has policy/overload decide, and tells the workers. Also sweeps the keys
//! of rate limits, which is too slow for a worker.

use std::{fs, sync::Arc, time::Duration};

use super::state::ProcessState;
use crate::{
    policy::overload::{Action, Overload, OverloadParams, Resource},
    proxy::Pressure,
    rt::{DrainWatch, Phase, clock},
    snapshot::SnapshotCell,
    telemetry::metrics::{OverloadMetrics, Registry},
};

/// How often everything is measured.
const PERIOD: Duration = Duration::from_millis(500);
/// Measurements between sweeps of rate limits: every 30 s.
const SWEEP_EVERY: u32 = 60;

/// The task's parts.
pub(super) struct Sampler {
    state: Arc<ProcessState>,
    pressure: Arc<Pressure>,
    cell: SnapshotCell,
    metrics: OverloadMetrics,
}

impl Sampler {
    /// A sampler, and what it tells so many workers.
    pub(super) fn new(
        state: &Arc<ProcessState>,
        cell: &SnapshotCell,
        registry: &Registry,
        workers: usize,
    ) -> (Self, Arc<Pressure>) {
        let metrics = OverloadMetrics::resolve(registry);
        let pressure = Pressure::new(workers, metrics.clone());
        let (state, cell) = (Arc::clone(state), Arc::clone(cell));
        (Self { state, pressure: Arc::clone(&pressure), cell, metrics }, pressure)
    }

    /// Measures until the process drains: then nothing new comes anyway.
    pub(super) async fn run(self, mut drain: DrainWatch) {
        let mut overload = Overload::default();
        let mut before = overload.update(&self.state.running().bundle.overload, &[None; 3]);
        let (mut last_lag, mut count) = (Duration::ZERO, 0_u32);
        loop {
            tokio::select! {
                () = drain.reached(Phase::Draining) => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            let params = self.state.running().bundle.overload;
            let lag = self.pressure.lag(clock::now());
            // Twice in a row: one long step, or a machine that slept, is over when it is seen.
            let used = measure(&params, lag.min(last_lag));
            last_lag = lag;
            let actions = overload.update(&params, &used);
            self.pressure.set(actions);
            for resource in Resource::ALL {
                self.metrics.set_pressure(resource as usize, used[resource as usize].unwrap_or_default());
            }
            for action in Action::ALL {
                self.metrics.set_active(action as usize, actions.has(action));
            }
            if actions != before {
                let overloaded = actions.has(Action::RefuseRequests);
                self.state.update(|running| running.overloaded = overloaded);
                let [memory, descriptors, lag] = used;
                tracing::warn!(?memory, ?descriptors, ?lag, was = ?before, now = ?actions, "overload changed");
                before = actions;
            }
            count = count.wrapping_add(1);
            if count.is_multiple_of(SWEEP_EVERY) {
                self.sweep();
            }
        }
    }

    fn sweep(&self) {
        let snapshot = self.cell.load();
        let routes = snapshot.routes.iter().chain(std::iter::once(&snapshot.inbound.route));
        for limit in routes.flat_map(|route| &route.traffic.limits) {
            limit.sweep(clock::now());
        }
    }
}

/// What is used of each resource; `None` where it or its limit cannot be known.
fn measure(params: &OverloadParams, lag: Duration) -> [Option<f64>; Resource::ALL.len()] {
    if !params.enabled {
        return [None; 3];
    }
    let limit = params.max_memory.map(u64::from).or_else(cgroup_limit);
    let memory = limit.and_then(|limit| Some(resident()? as f64 / limit as f64));
    let descriptors = max_descriptors().and_then(|most| Some(open_descriptors()? as f64 / most as f64));
    [memory, descriptors, Some(lag.as_secs_f64() / params.max_lag.as_secs_f64())]
}

/// Resident memory of this process; the application may share the cgroup, but what it uses is not ours to free.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// The limit of the cgroup that the process is in, version 2 or 1.
fn cgroup_limit() -> Option<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = |path: String| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let own = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        match controllers {
            "" => limit(format!("/sys/fs/cgroup{path}/memory.max")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                limit(format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"))
            }
            _ => None,
        }
    };
    // In a container the path is often that of the host, and the own group is mounted at the top.
    let tops = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let tops = tops.into_iter().filter_map(|path| limit(path.to_owned()));
    // Version 1 says "no limit" with a number near the top of what fits.
    membership.lines().filter_map(own).chain(tops).filter(|limit| (1..1 << 60).contains(limit)).min()
}

fn open_descriptors() -> Option<u64> {
    // Since Linux 6.2 the size of the directory is the number; before that it has to be read.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        open => Some(open),
    }
}

fn max_descriptors() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_this_process_uses() {
        assert!(resident().is_some_and(|bytes| bytes > 100_000));
        assert!(
            open_descriptors().zip(max_descriptors()).is_some_and(|(open, most)| 0 < open && open <= most)
        );
    }
}
