//! The binary as a child process, with a configuration of its own in a directory of its own.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU8, AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use super::{Response, client, eventually};

/// A running sidecar. Dropping it kills the process and removes its directory.
pub(crate) struct Sidecar {
    child: Child,
    directory: Directory,
    config: Value,
    admin: SocketAddr,
    inbound: Option<SocketAddr>,
    outbound: Option<SocketAddr>,
}

impl Sidecar {
    /// Starts one with the defaults of [`base`], in which `config` replaces what it names; waits until it is ready.
    pub(crate) async fn start(config: Value) -> Self {
        Self::start_by(config, |binary| Command::new(binary)).await
    }

    /// [`Sidecar::start`] with a limit on open descriptors.
    pub(crate) async fn start_with_descriptors(config: Value, most: u32) -> Self {
        Self::start_by(config, |binary| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\""), binary]);
            shell
        })
        .await
    }

    /// Starts one that need not become ready.
    pub(crate) fn begin(config: Value) -> Self {
        Self::begin_by(config, |binary| Command::new(binary))
    }

    async fn start_by(config: Value, command: impl Fn(&str) -> Command) -> Self {
        let mut sidecar = Self::begin_by(config, command);
        sidecar.until_ready().await;
        sidecar
    }

    fn begin_by(config: Value, command: impl Fn(&str) -> Command) -> Self {
        let admin = free_address();
        let mut whole = base(admin);
        merge(&mut whole, config);
        // Of one whose admin API is a Unix socket the metrics listener tells when it is ready.
        let is_socket = whole["admin"]["address"].as_str().is_some_and(|text| text.starts_with("unix:"));
        let metrics = whole["admin"]["metrics_address"].as_str().and_then(|text| text.parse().ok());
        let admin = metrics.filter(|_| is_socket).unwrap_or(admin);
        let directory = Directory::new();
        write(&directory.config(), &whole);
        let child = spawn(&mut command(env!("CARGO_BIN_EXE_outrigger")), &directory);
        Self { child, directory, config: whole, admin, inbound: None, outbound: None }
    }

    /// Waits until it is ready.
    pub(crate) async fn until_ready(&mut self) {
        eventually("the sidecar is ready", async || {
            assert!(self.is_running(), "it did not start");
            tokio::net::TcpStream::connect(self.admin).await.ok()?;
            let ready = self.ask("GET", "/readyz", "").await?;
            (ready.status == 200).then_some(())
        })
        .await;
        let status = self.status().await;
        let address = |side: &str| status["listeners"][side].as_str().and_then(|text| text.parse().ok());
        self.inbound = address("inbound");
        self.outbound = address("outbound");
    }

    /// Where the network reaches the application.
    pub(crate) fn inbound(&self) -> SocketAddr {
        self.inbound.expect("the inbound listener is on")
    }

    /// Where the application reaches services.
    pub(crate) fn outbound(&self) -> SocketAddr {
        self.outbound.expect("the outbound listener is on")
    }

    /// Where the admin API is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The directory that is the sidecar's own.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// A request to the admin API; `None` if it does not answer.
    pub(crate) async fn ask(&self, method: &str, target: &str, body: &str) -> Option<Response> {
        self.try_ask(method, target, "", body).await
    }

    /// A request to the admin API with more fields.
    pub(crate) async fn ask_with(&self, method: &str, target: &str, fields: &str) -> Response {
        self.try_ask(method, target, fields, "").await.expect("the admin API answers")
    }

    async fn try_ask(&self, method: &str, target: &str, fields: &str, body: &str) -> Option<Response> {
        let mut client = client::Client::connect(self.admin).await;
        let length = body.len();
        client
            .send(format!(
                "{method} {target} HTTP/1.1\r\nhost: localhost\r\nx-outrigger: 1\r\n{fields}\
                 content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            ))
            .await;
        client.try_response().await
    }

    /// A GET of the admin API.
    pub(crate) async fn admin_get(&self, target: &str) -> Response {
        self.ask("GET", target, "").await.expect("the admin API answers")
    }

    /// `GET /v1/status`.
    pub(crate) async fn status(&self) -> Value {
        self.document("/v1/status").await
    }

    /// A document of the admin API.
    pub(crate) async fn document(&self, target: &str) -> Value {
        let answer = self.admin_get(target).await;
        serde_json::from_slice(&answer.body.data).expect("JSON")
    }

    /// State of the endpoint at `address`, as `/v1/services` tells it.
    pub(crate) async fn endpoint_state(&self, address: &str) -> Option<String> {
        let services = self.document("/v1/services").await;
        let endpoints = services["items"].as_array()?.iter().filter_map(|item| item["endpoints"].as_array());
        let found = endpoints.flatten().find(|endpoint| endpoint["address"] == address)?;
        found["state"].as_str().map(str::to_owned)
    }

    /// Sum of the series of `name` whose labels contain all of `labels`; 0 if there is none.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin_get("/metrics").await.text();
        let of_name = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        };
        text.lines()
            .filter(of_name)
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until [`Sidecar::metric`] is at least `least`.
    pub(crate) async fn until_metric(&self, name: &str, labels: &[&str], least: f64) {
        let what = format!("{name} with {labels:?} reaches {least}");
        eventually(&what, async || (self.metric(name, labels).await >= least).then_some(())).await;
    }

    /// Lines of the access log so far.
    pub(crate) fn access_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.0.join("stdout")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first line of the access log about `path`; waits for it.
    pub(crate) async fn logged(&self, path: &str) -> Value {
        eventually(&format!("a line of the access log about {path}"), async || {
            self.access_log().into_iter().find(|line| line["path"] == path)
        })
        .await
    }

    /// What the sidecar has written to standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.0.join("stderr")).unwrap_or_default()
    }

    /// Changes the file as `change` says; the sidecar is not told.
    pub(crate) fn edit(&mut self, change: Value) {
        merge(&mut self.config, change);
        write(&self.directory.config(), &self.config);
    }

    /// Puts `text` in the place of the file.
    pub(crate) fn write_config(&self, text: &str) {
        fs::write(self.directory.config(), text).expect("the directory is ours");
    }

    /// Reloads by the admin API; the status of the answer and its document.
    pub(crate) async fn reload(&self) -> (u16, Value) {
        let answer = self.ask("POST", "/v1/reload", "").await.expect("the admin API answers");
        (answer.status, serde_json::from_slice(&answer.body.data).unwrap_or_default())
    }

    /// Sends a signal: `TERM`, `HUP` and so on.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
        assert!(sent.success(), "the sidecar is gone");
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the sidecar ends", async || self.child.try_wait().expect("the child is ours")).await
    }

    /// Whether the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time used so far, in clock ticks (100 a second on Linux).
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // utime and stime are fields 14 and 15; the state, field 3, is the first after the name.
        fields[11..=12].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the sidecar\n{}", self.log());
        }
    }
}

/// Runs the binary with `args` to its end.
pub(crate) fn run(args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    clean(&mut command).args(args).stdin(Stdio::null()).output().expect("the binary can be run")
}

/// What nearly every test wants: ports that the kernel chooses, one worker, every line of the access log, no
/// reload but on demand, no wait at the end.
fn base(admin: SocketAddr) -> Value {
    json!({
        "version": 1,
        "service": { "name": "tested", "address": "127.0.0.1:9" },
        "workers": 1,
        "listeners": {
            "inbound": { "address": "127.0.0.1:0" },
            "outbound": { "address": "127.0.0.1:0" },
        },
        "mtls": { "mode": "disabled" },
        "admin": { "address": admin.to_string(), "metrics_address": "none" },
        "telemetry": { "log": { "level": "info,outrigger=debug" }, "access_log": { "only": "all" } },
        "reload": { "watch": false },
        "shutdown": { "grace": "0s" },
    })
}

/// A configuration of one service, `api`, that takes every outbound request.
pub(crate) fn api(endpoints: &[String]) -> Value {
    json!({
        "routes": [{ "name": "all", "service": "api" }],
        "services": { "api": { "endpoints": endpoints } },
    })
}

/// `base` with what `over` names replaced; objects are merged.
pub(crate) fn with(mut base: Value, over: Value) -> Value {
    merge(&mut base, over);
    base
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// An address that nobody uses: for what cannot be given port 0. It is on a loopback address of its own, because
/// a port of 127.0.0.1 that is free now may soon be the near end of somebody's connection.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed).max(2));
    let held = TcpListener::bind((own, 0)).expect("all of 127.0.0.0/8 is loopback");
    held.local_addr().expect("a bound socket has an address")
}

fn write(path: &Path, config: &Value) {
    // JSON is YAML. Renamed into place, so that a watcher never sees half of it.
    let aside = path.with_extension("new");
    fs::write(&aside, format!("{config:#}\n")).expect("the directory is ours");
    fs::rename(&aside, path).expect("the directory is ours");
}

fn spawn(command: &mut Command, directory: &Directory) -> Child {
    let output = |name: &str| File::create(directory.0.join(name)).expect("the directory is ours");
    clean(command)
        .args(["run", "--config"])
        .arg(directory.config())
        .stdin(Stdio::null())
        .stdout(output("stdout"))
        .stderr(output("stderr"))
        .spawn()
        .expect("the binary can be run")
}

/// Nothing of the caller's environment may change what is tested.
fn clean(command: &mut Command) -> &mut Command {
    let named = ["OUTRIGGER_WORKERS", "OUTRIGGER_ADMIN", "OUTRIGGER_TOKEN_FILE", "NOTIFY_SOCKET"];
    named.iter().fold(command, |command, name| command.env_remove(name))
}

/// A temporary directory; removed when dropped.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("outrigger-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory can be written");
        Self(path)
    }

    fn config(&self) -> PathBuf {
        self.0.join("outrigger.yaml")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What stays behind is the temporary directory's business.
        let _ = fs::remove_dir_all(&self.0);
    }
}
