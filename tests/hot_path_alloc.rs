//! Allocations per proxied request, counted and held. Not of a level of tests: a counting allocator belongs to a
//! whole process, and only the sidecar may run in it. The application and the client are this binary again, as a
//! child process.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "all of it is one test and its peers")]

use std::{
    alloc::System,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use outrigger::app::{self, RunParams};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a request may allocate: the 16.0 that were measured, and a tenth more. Lower it when less is needed.
const MOST_PER_REQUEST: f64 = 17.6;
/// Requests that are counted.
const COUNTED: u32 = 1000;
/// Requests before: pools, buffers and metrics are there after the first of them.
const WARM_UP: u32 = 200;
/// Set in the child: the address of the sidecar.
const PEER: &str = "OUTRIGGER_ALLOC_PEER";
const REQUEST: &[u8] = b"GET /items/7?q=1 HTTP/1.1\r\nhost: api\r\nuser-agent: test\r\naccept: */*\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nhello, world\n";
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_keep_alive_get_allocates_no_more_than_it_did() {
    if let Ok(sidecar) = env::var(PEER) {
        return be_the_peers(sidecar.parse().unwrap());
    }
    let (outbound, admin) = (free_address(1), free_address(2));
    let mut peers = Peers::start(outbound);
    let file = env::temp_dir().join(format!("outrigger-alloc-{}.yaml", std::process::id()));
    let application = &peers.application;
    let config = format!(
        "version: 1\nservice: {{ name: counted, address: 127.0.0.1:9 }}\nworkers: 1\n\
         listeners: {{ inbound: {{ enabled: false }}, outbound: {{ address: {outbound} }} }}\n\
         routes: [{{ service: api }}]\nservices: {{ api: {{ endpoints: [\"{application}\"] }} }}\n\
         admin: {{ address: \"{admin}\", metrics_address: none }}\nmtls: {{ mode: disabled }}\n\
         reload: {{ watch: false }}\n"
    );
    fs::write(&file, config).unwrap();
    let params = RunParams { config: file.clone(), workers: None, log_level: Some("warn".to_owned()) };
    // It ends with the process, which is its own.
    thread::spawn(move || app::run(&params).unwrap());

    peers.send(WARM_UP);
    fs::remove_file(&file).unwrap();
    let region = Region::new(ALLOCATOR);
    peers.send(COUNTED);
    let change = region.change();
    let made = (change.allocations + change.reallocations) as f64 / f64::from(COUNTED);
    let bytes = change.bytes_allocated as f64 / f64::from(COUNTED);
    println!("{made:.2} allocations, {bytes:.0} bytes per request");
    assert!(made <= MOST_PER_REQUEST, "{made:.2} allocations per request, at most {MOST_PER_REQUEST}");
}

/// The child, seen from the parent.
struct Peers {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
    application: String,
}

impl Peers {
    fn start(sidecar: SocketAddr) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--nocapture", "--test-threads=1"])
            .env(PEER, sidecar.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let reports = BufReader::new(child.stdout.take().unwrap());
        let mut peers = Self { child, orders, reports, application: String::new() };
        peers.application = peers.report("application ");
        peers
    }

    /// Has so many requests sent, and waits for the last answer.
    fn send(&mut self, requests: u32) {
        writeln!(self.orders, "{requests}").unwrap();
        self.report("answered");
    }

    /// The rest of the next line that has this beginning; the harness of the child prints others.
    fn report(&mut self, beginning: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.reports.read_line(&mut line).unwrap() > 0, "the peers ended");
            if let Some(at) = line.find(beginning) {
                return line[at + beginning.len()..].trim().to_owned();
            }
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It also ends when its orders end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Life of the child: an application on a thread, and a client that sends as many requests as each line of the
/// input says.
fn be_the_peers(sidecar: SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("application {}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer_all(stream.unwrap()));
        }
    });
    let mut client = None;
    for order in std::io::stdin().lines() {
        let client = client.get_or_insert_with(|| connect(sidecar));
        for _ in 0..order.unwrap().parse::<u32>().unwrap() {
            client.write_all(REQUEST).unwrap();
            let answer = read_until(client, b"hello, world\n");
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
        println!("answered");
    }
}

fn connect(sidecar: SocketAddr) -> TcpStream {
    let until = Instant::now() + LIMIT;
    loop {
        match TcpStream::connect(sidecar) {
            Ok(stream) => {
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < until, "the sidecar does not listen: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn answer_all(mut stream: TcpStream) {
    while !read_until(&mut stream, b"\r\n\r\n").is_empty() {
        stream.write_all(ANSWER).unwrap();
    }
}

/// Bytes up to `end`, behind which nothing comes unasked; empty if the stream ended.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), [0; 4096]);
    while !all.ends_with(end) {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return Vec::new(),
            Ok(count) => all.extend_from_slice(&part[..count]),
        }
    }
    all
}

/// An address that nobody uses, on a loopback address of its own.
fn free_address(number: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let held = TcpListener::bind((Ipv4Addr::new(127, high, low, 200 + number), 0)).unwrap();
    held.local_addr().unwrap()
}
