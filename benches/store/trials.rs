//! What is measured, and how often.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use outrigger::store::{
    Level, Readable as _, Store, Watch as _, Watchable as _, Writable as _,
    core::{
        command::Stay,
        key::{Key, Revision},
    },
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    etcd::Etcd,
    http::Http,
    load::{self, Client, Sample, Verb},
    machine::{Directory, Meter, Process, cpu, said, until},
    ours::{self, Mesh, Shape},
};

/// How much is measured.
pub(crate) struct Plan {
    /// What, by name.
    pub(crate) only: Vec<String>,
    pub(crate) has_etcd: bool,
    /// Of the comparison and of the data plane.
    pub(crate) rounds: usize,
    /// Of one load.
    pub(crate) length: Duration,
    pub(crate) kills: usize,
    /// Routes that are written, and keys that watchers wait for.
    pub(crate) news: usize,
    pub(crate) watchers: usize,
}

impl Plan {
    pub(crate) fn full(has_etcd: bool) -> Self {
        let length = Duration::from_secs(4);
        Self { only: all(), has_etcd, rounds: 5, length, kills: 40, news: 200, watchers: 1000 }
    }

    /// All of it, and little of each.
    pub(crate) fn short(has_etcd: bool) -> Self {
        let length = Duration::from_millis(200);
        Self { only: all(), has_etcd, rounds: 1, length, kills: 1, news: 3, watchers: 20 }
    }

    pub(crate) fn leave_out_requests(&mut self) {
        self.only.retain(|part| part != "requests");
    }

    fn has(&self, what: &str) -> bool {
        self.only.iter().any(|only| only == what)
    }
}

/// A row of the comparison.
pub(crate) struct Row {
    pub(crate) verb: Verb,
    pub(crate) clients: usize,
    pub(crate) ours: Vec<Sample>,
    /// Empty where it has no such thing, or is not there.
    pub(crate) etcd: Vec<Sample>,
}

/// All that was measured; empty if it was not.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) rows: Vec<Row>,
    /// Lease reads within the process of the leader, in a second.
    pub(crate) within: Vec<f64>,
    /// From the death of the leader to the next write.
    pub(crate) kills: Vec<Duration>,
    /// From the answer to a route's write until the last of the sidecars served it, and from the beginning of the write.
    pub(crate) served: Vec<Duration>,
    pub(crate) served_since_asked: Vec<Duration>,
    /// From the answer to a write until so many watchers were told, for the middle one and the last.
    pub(crate) told_half: Vec<Duration>,
    pub(crate) told_all: Vec<Duration>,
    /// Microseconds of CPU for a request, without a store and with one.
    pub(crate) without: Vec<f64>,
    pub(crate) with: Vec<f64>,
    /// CPU time of an idle server of the store in a second, and of a sidecar without.
    pub(crate) idle_with: Vec<Duration>,
    pub(crate) idle_without: Vec<Duration>,
    /// The share of the machine that others had while each part was measured.
    pub(crate) others: Vec<(&'static str, f64)>,
}

impl Figures {
    pub(crate) async fn measure(plan: &Plan, tell: impl Fn(&str)) -> Result<Self> {
        if let Some(unknown) = plan.only.iter().find(|only| !PARTS.contains(&only.as_str())) {
            anyhow::bail!("there is no {unknown} to measure, but {}", PARTS.join(", "));
        }
        let mut figures = Self::default();
        if plan.has("compare") {
            figures.compare(plan, &tell).await?;
        }
        if plan.has("within") {
            figures.read_within(plan, &tell).await?;
        }
        if plan.has("kill") {
            figures.kill(plan, &tell).await?;
        }
        if plan.has("routes") {
            figures.spread_routes(plan, &tell).await?;
        }
        if plan.has("watchers") {
            figures.tell_watchers(plan, &tell).await?;
        }
        if plan.has("requests") {
            figures.ask_through(plan, &tell).await?;
        }
        Ok(figures)
    }

    /// The same load for three sidecars and three etcd servers, in turns.
    async fn compare(&mut self, plan: &Plan, tell: &impl Fn(&str)) -> Result<()> {
        let mesh = Mesh::start(TRIO, &json!({})).await?;
        let ours: Vec<_> = mesh.clients(1).await?.into_iter().map(Client::Ours).collect();
        let etcd = if plan.has_etcd { Some(Etcd::start().await?) } else { None };
        let theirs: Vec<_> = match &etcd {
            Some(etcd) => etcd.client(CONNECTIONS).await?.into_iter().map(Client::Etcd).collect(),
            None => Vec::new(),
        };
        let loads = [(Verb::Put, 1), (Verb::Put, 64), (Verb::Get, 1), (Verb::Get, 64), (Verb::Lease, 64)];
        let row = |(verb, clients)| Row { verb, clients, ours: Vec::new(), etcd: Vec::new() };
        let mut rows: Vec<_> = loads.map(row).into();
        let meter =
            Meter::start([mesh.processes(), etcd.iter().flat_map(Etcd::processes).collect()].concat())?;
        // The first round warms up and is not counted.
        for round in 0..=plan.rounds {
            let length = if round == 0 { plan.length / 4 } else { plan.length };
            for Row { verb, clients, ours: samples, etcd: others } in &mut rows {
                let sample = load::run(&ours, *clients, *verb, length, mesh.processes()).await?;
                tell(&format!("round {round}, ours, {}", told(*verb, *clients, &sample)));
                samples.extend((round > 0).then_some(sample));
                let Some(etcd) = etcd.as_ref().filter(|_| *verb != Verb::Lease) else { continue };
                let sample = load::run(&theirs, *clients, *verb, length, etcd.processes()).await?;
                tell(&format!("round {round}, etcd, {}", told(*verb, *clients, &sample)));
                others.extend((round > 0).then_some(sample));
            }
        }
        self.others.push(("the comparison", meter.stop()?.others));
        self.rows = rows;
        Ok(())
    }

    /// Lease reads where the leader is.
    async fn read_within(&mut self, plan: &Plan, tell: &impl Fn(&str)) -> Result<()> {
        let directory = Directory::new("within")?;
        let (stores, leader) = ours::within(&directory).await?;
        let store = [Client::Ours(stores[leader].clone())];
        load::run(&store, 1, Verb::Put, Duration::from_millis(200), Vec::new()).await?;
        let meter = Meter::start(Vec::new())?;
        for _ in 0..plan.rounds {
            let sample = load::run(&store, 8, Verb::Lease, plan.length / 4, Vec::new()).await?;
            tell(&format!("within the process, {}", told(Verb::Lease, 8, &sample)));
            self.within.push(sample.per_second);
        }
        self.others.push(("reads within the process", meter.stop()?.others));
        Ok(())
    }

    /// The leader is killed, again and again.
    async fn kill(&mut self, plan: &Plan, tell: &impl Fn(&str)) -> Result<()> {
        let mut mesh = Mesh::start(TRIO, &json!({})).await?;
        let client = mesh.clients(1).await?.pop().context("one client")?;
        let meter = Meter::start(Vec::new())?;
        for number in 0..plan.kills {
            put(&client, "bench/kill", "before").await?;
            let leader = mesh.leader().await?;
            // At any moment between two heartbeats.
            tokio::time::sleep(Duration::from_millis(number as u64 * 17 % 50)).await;
            mesh.kill(leader);
            let began = Instant::now();
            // Asks again with the same operation until it is decided, as the sidecar does for its own clients.
            put(&client, "bench/kill", "after").await?;
            let took = began.elapsed();
            tell(&format!("kill {number}: {} ms", took.as_millis()));
            self.kills.push(took);
            mesh.restart(leader)?;
            mesh.until_whole().await?;
        }
        self.others.push(("kills", meter.stop()?.others));
        Ok(())
    }

    /// Routes are written at one sidecar, and asked for at all seven until they answer by it.
    async fn spread_routes(&mut self, plan: &Plan, tell: &impl Fn(&str)) -> Result<()> {
        let mesh = Mesh::start(SEVEN, &json!({})).await?;
        let (seen, mut news) = mpsc::channel(64);
        let mut pollers = JoinSet::new();
        for (at, node) in mesh.nodes.iter().enumerate() {
            pollers.spawn(poll(at, Http::connect(node.outbound).await?, seen.clone()));
        }
        let mut admins = Vec::new();
        for node in &mesh.nodes {
            admins.push(Http::connect(node.admin).await?);
        }
        let meter = Meter::start(mesh.processes())?;
        let count = mesh.nodes.len();
        // The first few are not counted: until then not all sidecars may follow the store.
        for number in 0..plan.news + 3 {
            tokio::time::sleep(Duration::from_millis(20 + number as u64 * 13 % 50)).await;
            let route = json!({
                "match": { "path": "/bench" },
                "direct_response": { "status": 200, "body": number.to_string() },
            });
            let began = Instant::now();
            let admin = &mut admins[number % count];
            let (status, said) = admin.ask("PUT", "/v1/routes/bench", route.to_string()).await?;
            let answered = Instant::now();
            ensure!(status == 200, "{status}: {said:?}");
            let mut last = answered;
            let mut left = count;
            while left > 0 {
                let next = tokio::time::timeout(Duration::from_secs(30), news.recv()).await;
                let Some((node, what, at)) = next.with_context(|| format!("route {number}"))? else {
                    // Says why.
                    while let Some(ended) = pollers.join_next().await {
                        ended??;
                    }
                    anyhow::bail!("those who ask have ended");
                };
                if what == number {
                    (left, last) = (left - 1, last.max(at));
                } else {
                    ensure!(what < number, "sidecar {node} serves {what} before it is written");
                }
            }
            if number >= 3 {
                self.served.push(last.saturating_duration_since(answered));
                self.served_since_asked.push(last.saturating_duration_since(began));
            }
        }
        self.others.push(("routes", meter.stop()?.others));
        tell(&format!("routes: {} written", plan.news));
        Ok(())
    }

    /// Keys are written, and many watch them, each over connections of its own.
    async fn tell_watchers(&mut self, plan: &Plan, tell: &impl Fn(&str)) -> Result<()> {
        let mesh = Mesh::start(SERVERS, &json!({})).await?;
        let client = mesh.clients(1).await?.pop().context("one client")?;
        let (heard, mut news) = mpsc::channel(plan.watchers);
        let mut watchers = JoinSet::new();
        put(&client, "watched/bench", "begin").await?;
        let key = Key::new("watched/bench")?;
        let after = client.get(&key, Level::Strong).await?.context("it was put")?.modified;
        for store in mesh.clients(plan.watchers).await? {
            watchers.spawn(watch(store, after, heard.clone()));
        }
        let meter = Meter::start(mesh.processes())?;
        // The first few are not counted: then they connect.
        for number in 0..plan.news / 4 + 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            put(&client, "watched/bench", &number.to_string()).await?;
            let written = Instant::now();
            let mut times = Vec::new();
            let mut missed: HashMap<usize, usize> = HashMap::new();
            while times.len() < plan.watchers {
                let next = tokio::time::timeout(Duration::from_secs(30), news.recv());
                let Ok(Some((what, at))) = next.await else {
                    anyhow::bail!("{} of {} watchers were told of {number}", times.len(), plan.watchers)
                };
                if what == number {
                    times.push(Instant::saturating_duration_since(&at, written));
                } else {
                    *missed.entry(what).or_default() += 1;
                }
            }
            times.sort_unstable();
            let (half, all) = (load::percentile(&times, 0.5), load::percentile(&times, 1.0));
            tell(&format!("watchers, {number}: half {half:?}, all {all:?}"));
            if number >= 3 {
                self.told_half.push(half);
                self.told_all.push(all);
            }
        }
        self.others.push(("watchers", meter.stop()?.others));
        Ok(())
    }

    /// Requests through a sidecar that leads the store of three, and through one of three without a store, in turns.
    async fn ask_through(&mut self, plan: &Plan, tell: &impl Fn(&str)) -> Result<()> {
        let directory = Directory::new("requests")?;
        let binary = Path::new(env!("CARGO_BIN_EXE_outrigger")).with_file_name("examples/echo_app");
        ensure!(
            binary.exists(),
            "{} is not there: cargo build --release --example echo_app",
            binary.display()
        );
        let log = directory.0.join("app.log");
        let mut command = Command::new(binary);
        let app = Process::start(command.args(["--listen", "127.0.0.1:0"]), &log)?;
        let address = until("the application listens", async || {
            let text = fs::read_to_string(&log).ok()?;
            text.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).map(str::to_owned)
        });
        let address = address.await?;
        let over = json!({
            "routes": [{ "match": { "path_prefix": "/" }, "service": "app" }],
            "services": { "app": { "endpoints": [address] } },
        });
        let with = Mesh::start(Shape { name: "with", ..TRIO }, &over).await?;
        let without = Mesh::start(Shape { name: "without", has_store: false, ..TRIO }, &over).await?;
        let leader = with.leader().await?;
        let measured = [(&without.nodes[0], "without"), (&with.nodes[leader], "with")];
        pin(app.id(), LOAD_CORE)?;
        for process in with.processes().into_iter().chain(without.processes()) {
            let is_measured = measured.iter().any(|(node, _)| node.process() == Some(process));
            pin(process, if is_measured { PROXY_CORE } else { LOAD_CORE })?;
        }
        let meter = Meter::start(Vec::new())?;
        for round in 0..=plan.rounds {
            for (node, kind) in measured {
                let process = node.process().context("it runs")?;
                let seconds = plan.length.as_secs().max(1);
                let before = cpu(process)?;
                let requests = wrk(&node.outbound.to_string(), seconds).await?;
                let each = cpu(process)?.saturating_sub(before).as_secs_f64() * 1e6 / requests;
                tell(&format!(
                    "round {round}, {kind} a store: {requests} requests, {each:.2} us of CPU each"
                ));
                if round > 0 {
                    if kind == "with" { &mut self.with } else { &mut self.without }.push(each);
                }
            }
        }
        for (node, kind) in measured {
            let process = node.process().context("it runs")?;
            let (before, seconds) = (cpu(process)?, plan.length.as_secs_f64() * 2.0);
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            let each = (cpu(process)?.saturating_sub(before)).div_f64(seconds);
            if kind == "with" { &mut self.idle_with } else { &mut self.idle_without }.push(each);
        }
        self.others.push(("requests (the load and those asked count as others)", meter.stop()?.others));
        Ok(())
    }
}

fn all() -> Vec<String> {
    PARTS.map(str::to_owned).into()
}

fn told(verb: Verb, clients: usize, sample: &Sample) -> String {
    let Sample { per_second, p50_ms, p99_ms, cpu_us, others } = sample;
    format!(
        "{verb:?} of {clients}: {per_second:.0}/s, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, {cpu_us:.0} us of CPU; \
         others had {:.0} %",
        others * 100.0
    )
}

async fn put(store: &Store, key: &str, value: &str) -> Result<()> {
    let (op, key, value) = (Store::next_op()?, Key::new(key)?, Bytes::copy_from_slice(value.as_bytes()));
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match store.put(op, key.clone(), value.clone(), Stay::Forever).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => {}
        }
    }
}

/// Asks again and again, and tells each answer that is not that of before.
async fn poll(node: usize, mut http: Http, seen: mpsc::Sender<(usize, usize, Instant)>) -> Result<()> {
    let mut last = None;
    loop {
        let (_, body) = http.ask("GET", "/bench", String::new()).await?;
        let now = Instant::now();
        // Before the first route there is none, and the answer is no number.
        let number = std::str::from_utf8(&body).ok().and_then(|text| text.parse::<usize>().ok());
        if let Some(number) = number.filter(|number| last != Some(*number)) {
            last = Some(number);
            seen.send((node, number, now)).await?;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Tells each value that the watched key gets.
async fn watch(store: Store, after: Revision, heard: mpsc::Sender<(usize, Instant)>) -> Result<()> {
    let mut watch = store.watch("watched/", after);
    loop {
        let Ok(changes) = watch.next().await else { continue };
        let now = Instant::now();
        for change in changes {
            let value = change.after.map(|after| after.value).unwrap_or_default();
            if let Some(number) = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()) {
                heard.send((number, now)).await?;
            }
        }
    }
}

/// All threads of a process on one core.
fn pin(process: u32, core: usize) -> Result<()> {
    let (core, process) = (core.to_string(), process.to_string());
    let done = Command::new("taskset").args(["-a", "-c", "-p", &core, &process]).output();
    ensure!(done.context("taskset")?.status.success(), "process {process} cannot be bound to core {core}");
    Ok(())
}

/// Requests that were answered.
async fn wrk(address: &str, seconds: u64) -> Result<f64> {
    let (url, length) = (format!("http://{address}/"), format!("-d{seconds}s"));
    let core = LOAD_CORE.to_string();
    let asking = tokio::task::spawn_blocking(move || {
        Command::new("taskset")
            .args(["-c", &core, "wrk", "-t1", "-c64", &length, "--timeout", "10s", &url])
            .output()
    });
    let done = asking.await?.context("wrk")?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "requests failed:\n{text}");
    let mut words =
        text.lines().find(|line| line.contains(" requests in ")).unwrap_or_default().split_whitespace();
    words.next().and_then(|word| word.parse().ok()).with_context(|| format!("wrk says:\n{text}"))
}

/// Whether the tools for requests through a sidecar are there.
pub(crate) fn has_wrk() -> bool {
    !said("wrk", &["-v"]).is_empty()
}

const TRIO: Shape = Shape { name: "trio", servers: 3, clients: 0, has_store: true };
const SEVEN: Shape = Shape { name: "seven", servers: 3, clients: 4, has_store: true };
const SERVERS: Shape = Shape { name: "servers", servers: 5, clients: 0, has_store: true };

/// Between two requests of who looks whether a route is served: with the request itself, the resolution.
pub(crate) const POLL: Duration = Duration::from_millis(1);

/// As in benches/peers.
const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// What there is to measure.
const PARTS: [&str; 6] = ["compare", "within", "kill", "routes", "watchers", "requests"];

/// Connections to etcd's leader; ours has one.
pub(crate) const CONNECTIONS: usize = 1;
