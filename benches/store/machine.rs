//! What the bench has of the machine: processes that it starts and ends, their CPU time, addresses and directories.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// A process of the bench. Dropping it kills it.
pub(crate) struct Process(std::process::Child);

impl Process {
    /// Runs `command`; what it says goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let said = File::options().create(true).append(true).open(log)?;
        let command = command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        Ok(Self(command.spawn().with_context(|| format!("{command:?}"))?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory on the disk of the build products, gone with this.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("store-{}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An address of loopback that is nobody else's: also after who has it was killed, nobody else gets it.
pub(crate) fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [.., own] = std::process::id().to_be_bytes();
    let [high, low] = NEXT.fetch_add(1, Relaxed).to_be_bytes();
    if high > 0 {
        bail!("too many addresses");
    }
    let held = TcpListener::bind((Ipv4Addr::new(127, own.max(1), low, 9), 0))?;
    Ok(held.local_addr()?)
}

/// User and system time of a process so far. The kernel tells it in steps of 10 ms.
pub(crate) fn cpu(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).context("no number");
    Ok(TICK * u32::try_from(ticks(11)? + ticks(12)?)?)
}

/// The time for which the processors of the machine were busy so far.
fn busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // User, nice, system, then idle and waiting, interrupts of both kinds, stolen.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum();
    Ok(TICK * u32::try_from(busy)?)
}

const TICK: Duration = Duration::from_millis(10);

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// CPU time of some processes, of this one, and of all others, from its beginning on.
pub(crate) struct Meter {
    of: Vec<u32>,
    began: Instant,
    measured: Duration,
    own: Duration,
    busy: Duration,
}

/// What a [`Meter`] has seen.
#[derive(Clone, Copy)]
pub(crate) struct Used {
    pub(crate) time: Duration,
    /// By the processes that are measured.
    pub(crate) cpu: Duration,
    /// The share of the machine that others used, 0 to 1.
    pub(crate) others: f64,
}

impl Meter {
    pub(crate) fn start(of: Vec<u32>) -> Result<Self> {
        let mut meter =
            Self { of, began: Instant::now(), measured: Duration::ZERO, own: Duration::ZERO, busy: busy()? };
        (meter.measured, meter.own) = (meter.sum()?, cpu(std::process::id())?);
        Ok(meter)
    }

    pub(crate) fn stop(self) -> Result<Used> {
        let time = self.began.elapsed();
        let cpu_used = self.sum()?.saturating_sub(self.measured);
        let own = cpu(std::process::id())?.saturating_sub(self.own);
        let others = busy()?.saturating_sub(self.busy).saturating_sub(cpu_used + own);
        let others = others.as_secs_f64() / time.as_secs_f64() / cores() as f64;
        Ok(Used { time, cpu: cpu_used, others })
    }

    fn sum(&self) -> Result<Duration> {
        self.of.iter().map(|process| cpu(*process)).sum()
    }
}

/// What `command` prints, in one line; empty if it cannot be run.
pub(crate) fn said(command: &str, arguments: &[&str]) -> String {
    let done = Command::new(command).args(arguments).output();
    let text = done.map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The first value of a field of `/proc/cpuinfo` or the like.
pub(crate) fn told(file: &str, field: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.split_once([':', '=']));
    line.map(|(_, value)| value.trim().trim_matches('"').to_owned()).unwrap_or_default()
}

/// Asks `what` until it says something, for a minute at most.
pub(crate) async fn until<T>(name: &str, mut what: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = what().await {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("waited for a minute: {name}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
