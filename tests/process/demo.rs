//! `outrigger demo`: sidecars find each other and found a store, no request fails whoever dies, and nothing is left, however
//! the show ends.

use std::{
    io::{BufRead as _, BufReader, Lines},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const BINARY: &str = env!("CARGO_BIN_EXE_outrigger");
/// Only a broken mesh takes as long to agree.
const LIMIT: Duration = Duration::from_secs(15);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);
/// All who may be members, by name.
const NODES: [&str; 7] = ["api-1", "api-2", "api-3", "api-4", "api-v2", "client-1", "client-2"];

/// A running show. What a test does not see ended is ended with it.
struct Show {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: String,
}

impl Show {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        let mut child = command.arg("demo").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, seen: String::new() }
    }

    /// Reads on until a line contains `text`. The show ends by itself or is ended, so this cannot hang.
    fn until(&mut self, text: &str) -> String {
        loop {
            let line = self.next().unwrap_or_else(|| panic!("no `{text}` in:\n{}", self.seen));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn next(&mut self) -> Option<String> {
        let line = self.lines.next()?.unwrap();
        self.seen.push_str(&line);
        self.seen.push('\n');
        Some(line)
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Reads to the end and holds the show to what it promises: exit code 0, not one failed request, no process
    /// and no file left. Returns all that it printed.
    fn ends_well(mut self) -> String {
        while self.next().is_some() {}
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}:\n{}", self.seen);
        let heading = self.seen.lines().find(|line| line.contains(" requests, "));
        let heading = heading.unwrap_or_else(|| panic!("no table in:\n{}", self.seen));
        assert!(heading.ends_with(" requests, 0 failed"), "{}", self.seen);
        let children = children(&self.seen);
        assert_eq!(children.len(), 11, "{}", self.seen);
        let alive: Vec<_> = children.into_iter().filter(|pid| is_ours(*pid)).collect();
        assert!(alive.is_empty(), "{alive:?} still run:\n{}", self.seen);
        let files = word_after(&self.seen, "  files    ").map(PathBuf::from).unwrap();
        assert!(!files.exists(), "{} is left", files.display());
        std::mem::take(&mut self.seen)
    }
}

/// A sidecar that was started by hand.
struct ByHand(Child);

impl ByHand {
    fn start(configuration: &str) -> Self {
        let mut command = Command::new(BINARY);
        Self(
            command
                .args(["run", "--config", configuration])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Not with SIGKILL, which would leave the children of the show behind.
            self.signal("-TERM");
            let _ = self.child.wait();
        }
    }
}

/// The process ids that the show tells.
fn children(seen: &str) -> Vec<u32> {
    // What comes after it names some of them again.
    let introduction = seen.split("\nload: ").next().unwrap();
    let pids = introduction.split("(pid ").skip(1);
    pids.map(|rest| rest.split(')').next().unwrap().parse().unwrap()).collect()
}

/// Whether the process with that id is one of ours: ids are given out again.
fn is_ours(pid: u32) -> bool {
    let command_line = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"));
    command_line.is_ok_and(|line| String::from_utf8_lossy(&line).contains(BINARY))
}

/// The word that follows `text`, without punctuation.
fn word_after<'a>(seen: &'a str, text: &str) -> Option<&'a str> {
    let (_, rest) = seen.split_once(text)?;
    rest.split_whitespace().next().map(|word| word.trim_end_matches(','))
}

/// The members as `outrigger members` tells them: name and state.
fn members(admin: &str) -> Option<Vec<(String, String)>> {
    let mut command = Command::new(BINARY);
    let told = command.args(["members", "-o", "json", "--admin", admin]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).ok()?;
    let word = |item: &serde_json::Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let items = told["items"].as_array()?;
    Some(items.iter().map(|item| (word(item, "node"), word(item, "state"))).collect())
}

/// Waits until each of `admins` tells that `dead` is dead and all others live.
fn all_say(admins: &[String], dead: &[&str]) {
    let expected: Vec<_> = NODES
        .map(|node| (node.to_owned(), if dead.contains(&node) { "dead" } else { "alive" }.to_owned()))
        .into();
    for admin in admins {
        let begun = Instant::now();
        loop {
            let said = members(admin);
            if said.as_ref() == Some(&expected) {
                break;
            }
            assert!(begun.elapsed() < LIMIT, "{admin} says {said:?}");
            sleep(PAUSE);
        }
    }
}

#[test]
fn one_started_by_hand_gets_traffic_and_everybody_knows_who_is_there() {
    let mut show = Show::start(&["--seconds", "40"]);
    show.until("load:");
    let configurations: Vec<_> = NODES
        .map(|name| {
            PathBuf::from(word_after(&show.seen, "  files    ").unwrap()).join(format!("{name}.yaml"))
        })
        .into();
    for file in configurations {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("endpoints"), "{}:\n{text}", file.display());
    }
    let mut admins: Vec<String> = show
        .seen
        .split("its admin API at ")
        .skip(1)
        .map(|rest| rest.split('\n').next().unwrap().to_owned())
        .collect();
    admins.push(
        word_after(&show.seen, "whose admin API will be at ").unwrap().trim_end_matches(';').to_owned(),
    );
    assert_eq!(admins.len(), NODES.len(), "{}", show.seen);

    let added = ByHand::start(word_after(&show.seen, "run --config ").unwrap());
    show.until("api-4 answers its first request");
    all_say(&admins, &[]);

    show.until("api-2 is dead");
    admins.remove(1);
    all_say(&admins, &["api-2"]);

    drop(added);
    show.signal("-INT");
    show.ends_well();
}

#[test]
fn instances_die_fail_and_slow_down_without_a_failed_request() {
    let seen = Show::start(&["--seconds", "6"]).ends_well();
    let (_, events) = seen.split_once(" requests, 0 failed").unwrap();
    for event in
        ["killed api-2", "started api-2 again", "api-1 answers every request with 503", "api-3 takes"]
    {
        assert!(events.contains(event), "{event}: {seen}");
    }
}

#[test]
fn an_instance_whose_port_was_taken_returns_elsewhere() {
    let mut show = Show::start(&["--seconds", "8"]);
    let instance = show.until("api-2    application at");
    let address: SocketAddr = word_after(&instance, "sidecar at ").unwrap().parse().unwrap();
    show.until("killed api-2");
    let squatter = TcpListener::bind(address).unwrap();
    // It hangs up on everybody. One that kept silent would cost whoever asks it a timeout, rightly.
    std::thread::spawn(move || squatter.incoming().for_each(drop));
    let seen = show.ends_well();
    assert!(seen.contains("its port was taken"), "{seen}");
}

#[test]
fn an_interrupt_ends_the_show_with_its_table() {
    let mut show = Show::start(&[]);
    show.until("req/s");
    show.signal("-INT");
    show.ends_well();
}

/// What the closing table of the scenario says of one step: percent that went to the other version through each client,
/// requests, failures.
fn step(seen: &str, name: &str) -> ([f64; 2], u64, u64) {
    let row = format!("  {name}  ");
    let line = seen.lines().find(|line| line.starts_with(&row) && line.contains(" % of "));
    let line = line.unwrap_or_else(|| panic!("no `{name}` in:\n{seen}"));
    let words: Vec<_> = line.trim().strip_prefix(name).unwrap().split_whitespace().collect();
    // `9.8 % of 1003  10.1 % of 1000  2003  0`
    let [first, "%", "of", _, second, "%", "of", _, requests, failed] = words[..] else {
        panic!("{line}");
    };
    let number = |word: &str| word.parse().unwrap();
    ([first, second].map(|word| word.parse().unwrap()), number(requests), number(failed))
}

#[test]
fn a_tenth_is_shifted_on_all_sidecars_and_two_of_three_who_keep_the_store_die_without_a_failed_request() {
    let mut show = Show::start(&["--scenario", "store", "--seconds", "240"]);
    show.until("the store is founded");
    let seen = show.ends_well();
    assert!(seen.contains("founded  by api-1, api-2, api-3, "), "{seen}");
    assert!(seen.contains("in force on all 6 sidecars "), "{seen}");
    assert!(seen.contains("nobody leads, one of three is no majority"), "{seen}");
    let (shares, requests, failed) = step(&seen, "by the files");
    assert!(shares.iter().all(|share| *share < 0.6) && requests >= 1600 && failed == 0, "{seen}");
    let (shares, requests, failed) = step(&seen, "shifted");
    assert!(shares.iter().all(|share| (5.0..=16.0).contains(share)), "{seen}");
    assert!(requests >= 2000 && failed == 0, "{seen}");
    for name in ["leader dead", "two of three dead"] {
        let (shares, requests, failed) = step(&seen, name);
        assert!(shares.iter().all(|share| (5.0..=16.0).contains(share)), "{seen}");
        assert!(requests >= 1600 && failed == 0, "{seen}");
    }
    assert!(seen.contains("holds: "), "{seen}");
}

#[test]
fn the_same_is_done_by_hand_with_the_commands_that_are_shown() {
    let mut show = Show::start(&["--seconds", "600"]);
    show.until("load:");
    let shown = |text: &str| {
        let line = show.seen.lines().find(|line| line.contains(text));
        let line = line.unwrap_or_else(|| panic!("no `{text}` in:\n{}", show.seen));
        line.trim().split_once(' ').unwrap().1.to_owned()
    };
    let (shift, status) = (shown(" routes put "), shown(" raft status "));
    show.until(" leads the store, term");
    // Only until it is done: a leader that was elected just now may not be the last one.
    let begun = Instant::now();
    while !run(&shift).status.success() {
        assert!(begun.elapsed() < LIMIT, "{shift}");
        sleep(PAUSE);
    }
    let told = String::from_utf8(run(&status).stdout).unwrap();
    assert!(told.contains("NODE") && told.contains("api-3"), "{told}\n{}", show.seen);
    for client in ["client-1", "client-2"] {
        let news = format!("{client} serves by the route `api` of the store");
        if !show.seen.contains(&news) {
            show.until(&news);
        }
    }
    for next in [" leads the store, term", "nobody leads the store"] {
        let leads = show.seen.lines().rfind(|line| line.contains(" leads the store, term")).unwrap();
        assert!(run(&format!("kill -9 {}", word_after(leads, "kill -9 ").unwrap())).status.success());
        show.until("somebody killed the sidecar of ");
        show.until(next);
    }
    show.until("is dead: the mesh has noticed");
    show.signal("-INT");
    show.ends_well();
}

/// Runs what was shown.
fn run(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).output().unwrap()
}
