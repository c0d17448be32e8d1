//! The rules of the house as functions from source files to violations. Each violation names file and line and
//! says what to do. The tables are the constants at the end: a change there is a decision, with an ADR.

use std::path::Path;

use regex::Regex;

use crate::source::SourceFile;

/// Imports between modules follow [`MODULES`].
pub(crate) fn imports(files: &[SourceFile]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.path != "src/lib.rs") {
        let module = file.module();
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            violations.push(format!(
                "{}:1: module `{module}` has no row in the import table; add it to MODULES and to ARCHITECTURE.md",
                file.path
            ));
            continue;
        };
        for reference in file.references() {
            let Some(target) = file.target(&reference) else { continue };
            let is_known = MODULES.iter().any(|(name, _)| *name == target);
            // Deep inside an inline module `super` leads less far than it seems; unknown names are no modules.
            let is_climbing = reference.path[0] == "super" && !is_known && target != "*";
            if target == module || allowed.contains(&target) || is_climbing {
                continue;
            }
            let written = reference.path.join("::");
            violations.push(if is_known {
                format!(
                    "{}:{}: `{module}` must not import `{target}` ({written}); take a type of its own as argument, \
                     move the code to where both may reach, or argue for the edge in an ADR",
                    file.path, reference.line
                )
            } else {
                format!(
                    "{}:{}: `{written}` names no module of the import table; write the path through the module \
                     that owns the item",
                    file.path, reference.line
                )
            });
        }
    }
    violations
}

/// Pure code names no task, file, socket, lock, clock or source of chance.
pub(crate) fn purity(files: &[SourceFile]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| PURE.iter().any(|pure| file.path.starts_with(pure))) {
        for word in ["async", "await"] {
            for line in file.lines_with(word) {
                violations.push(format!(
                    "{}:{line}: `{word}` in pure code; decide here, wait in the caller",
                    file.path
                ));
            }
        }
        for reference in file.references() {
            let impure = IMPURE_PATHS.iter().any(|path| reference.starts_with(path))
                || IMPURE_NAMES.iter().any(|name| reference.mentions(name))
                || draws_chance(&reference.path);
            if impure {
                violations.push(format!(
                    "{}:{}: `{}` in pure code; take the time (`now: Mono`), the generator or the data as an \
                     argument",
                    file.path,
                    reference.line,
                    reference.path.join("::")
                ));
            }
        }
    }
    violations
}

/// Time is read and chance is seeded in `rt` only.
pub(crate) fn clocks_and_chance(files: &[SourceFile]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with("src/rt/")) {
        for reference in file.references() {
            let advice = if reference.calls("Instant", "now") || reference.calls("SystemTime", "now") {
                "only `rt` reads a clock; take `now` as an argument or ask `rt`"
            } else if draws_chance(&reference.path) {
                "only `rt` seeds a generator; take it as an argument"
            } else {
                continue;
            };
            violations.push(format!(
                "{}:{}: `{}`: {advice}",
                file.path,
                reference.line,
                reference.path.join("::")
            ));
        }
    }
    violations
}

/// Tasks and threads start in `rt`, which gives them a name and an owner, unless `exceptions` says for a file who
/// joins what it starts.
pub(crate) fn spawns(files: &[SourceFile], exceptions: &[Exception]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut spawning = Vec::new();
    for file in files.iter().filter(|file| !file.path.starts_with("src/rt/")) {
        for reference in file.references() {
            if !SPAWNS.iter().any(|(kind, function)| reference.calls(kind, function)) {
                continue;
            }
            spawning.push(file.path.as_str());
            if !exceptions.iter().any(|exception| exception.place == file.path) {
                violations.push(format!(
                    "{}:{}: `{}`: start it through `rt`, with a name and an owner who joins it, or tell the owner in \
                     SPAWNING_FILES",
                    file.path,
                    reference.line,
                    reference.path.join("::")
                ));
            }
        }
    }
    violations.extend(unneeded(exceptions, |place| spawning.contains(&place)));
    violations
}

/// A generator that seeds itself, or the global one of `fastrand`. One made from a seed is as good as an
/// argument: the seed has to come from somewhere, and `rt` is the only place it can come from.
fn draws_chance(path: &[String]) -> bool {
    let is_function = |name: &str| name.starts_with(|first: char| first.is_ascii_lowercase());
    path.windows(2).any(|pair| {
        (pair[0] == "fastrand" && is_function(&pair[1]))
            || (pair[0] == "Rng" && matches!(pair[1].as_str(), "new" | "default"))
    })
}

/// Each crate of [`FOREIGN`] is named only where it belongs.
pub(crate) fn foreign_crates(files: &[SourceFile]) -> Vec<String> {
    let mut violations = Vec::new();
    for file in files {
        for reference in file.references() {
            let Some((name, homes)) = FOREIGN.iter().find(|(name, _)| reference.path[0] == *name) else {
                continue;
            };
            if !homes.iter().any(|home| file.path.starts_with(home)) {
                violations.push(format!(
                    "{}:{}: `{name}` belongs to {}; use what that module offers",
                    file.path,
                    reference.line,
                    homes.join(", ")
                ));
            }
        }
    }
    violations
}

/// No file has more than [`MAX_FILE_LINES`] lines that are not test code, unless `exceptions` says why.
pub(crate) fn file_length(files: &[SourceFile], exceptions: &[Exception]) -> Vec<String> {
    let long: Vec<_> = files.iter().filter(|file| file.code_lines() > MAX_FILE_LINES).collect();
    let mut violations: Vec<_> = long
        .iter()
        .filter(|file| !exceptions.iter().any(|exception| exception.place == file.path))
        .map(|file| {
            format!(
                "{}:{MAX_FILE_LINES}: {} lines that are not tests, at most {MAX_FILE_LINES}; split it by idea, or \
                 give a reason in LONG_FILES",
                file.path,
                file.code_lines()
            )
        })
        .collect();
    violations.extend(unneeded(exceptions, |place| long.iter().any(|file| file.path == place)));
    violations
}

/// No function has more than [`MAX_FUNCTION_LINES`] lines of code, unless `exceptions` says why.
pub(crate) fn function_length(files: &[SourceFile], exceptions: &[Exception]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut long = Vec::new();
    for file in files {
        for function in file.functions().into_iter().filter(|f| f.body_lines > MAX_FUNCTION_LINES) {
            let place = format!("{} {}", file.path, function.name);
            if !exceptions.iter().any(|exception| exception.place == place) {
                violations.push(format!(
                    "{}:{}: `{}` has {} lines, at most {MAX_FUNCTION_LINES}; name its steps as functions, or give a \
                     reason in LONG_FUNCTIONS",
                    file.path, function.line, function.name, function.body_lines
                ));
            }
            long.push(place);
        }
    }
    violations.extend(unneeded(exceptions, |place| long.iter().any(|known| known == place)));
    violations
}

/// An exception that nothing needs hides the next violation; one without a reason is none.
fn unneeded(exceptions: &[Exception], is_needed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut violations = Vec::new();
    for exception in exceptions {
        if !is_needed(exception.place) {
            violations.push(format!("exception for `{}`: no longer needed; remove it", exception.place));
        }
        if exception.reason.trim().is_empty() {
            violations.push(format!("exception for `{}`: has no reason; give one", exception.place));
        }
    }
    violations
}

/// Tests of more than [`MAX_INLINE_TEST_LINES`] lines stand in a file of their own.
pub(crate) fn inline_tests(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| !file.is_test && file.test_lines > MAX_INLINE_TEST_LINES)
        .map(|file| {
            format!(
                "{}:{}: {} lines of tests, at most {MAX_INLINE_TEST_LINES}; move them to a child file tests.rs",
                file.path,
                file.code_lines(),
                file.test_lines
            )
        })
        .collect()
}

/// Every file tells first what lives in it.
pub(crate) fn headers(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| {
            let header = file.raw.lines().next().and_then(|line| line.strip_prefix("//!"));
            header.is_none_or(|text| text.trim().is_empty())
        })
        .map(|file| {
            format!("{}:1: begin with `//!` and a sentence on what lives here, and what does not", file.path)
        })
        .collect()
}

/// No file or folder bears a name that says nothing.
pub(crate) fn file_names(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter_map(|file| {
            let words = file.path.trim_end_matches(".rs").split(['/', '_', '-']);
            let empty = words.into_iter().find(|word| EMPTY_NAMES.contains(word))?;
            Some(format!("{}:1: `{empty}` says nothing; name the file after the idea it holds", file.path))
        })
        .collect()
}

/// Every path of the repository that `text` names in backticks or as the target of a link exists.
pub(crate) fn named_paths(document: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let (Ok(quoted), Ok(linked)) =
        (Regex::new(r"`([A-Za-z.][\w./-]*)`"), Regex::new(r"\]\(([\w.][\w./-]*)(?:#[\w-]*)?\)"))
    else {
        return vec![format!("{document}: the patterns of this rule do not compile")];
    };
    let folder = Path::new(document).parent().unwrap_or(Path::new(""));
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at_root =
            quoted.captures_iter(line).map(|found| found[1].to_owned()).filter(|name| is_ours(name));
        let beside =
            linked.captures_iter(line).map(|found| folder.join(&found[1]).to_string_lossy().into_owned());
        for name in at_root.chain(beside).filter(|name| !exists(Path::new(name))) {
            violations.push(format!(
                "{document}:{}: `{name}` does not exist; name what stands, or write the module's name without a path",
                index + 1
            ));
        }
    }
    violations
}

/// A path below one of our top folders, or a file at the top.
fn is_ours(name: &str) -> bool {
    let top = ["src/", "tests/", "benches/", "examples/", "docs/", "config/", ".ci/"];
    let at_top = !name.contains('/') && [".md", ".toml"].iter().any(|end| name.ends_with(end));
    at_top || top.iter().any(|folder| name.starts_with(folder))
}

/// A place that may break a cap, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exception {
    /// `src/file.rs`, or for functions `src/file.rs function`.
    pub(crate) place: &'static str,
    /// What makes the long form the better one.
    pub(crate) reason: &'static str,
}

/// What each module may import. Modules of one rank never import each other; `types` is open to all.
pub(crate) const MODULES: &[(&str, &[&str])] = &[
    // rank 0
    ("types", &[]),
    // rank 1
    ("rt", &["types"]),
    ("policy", &["types"]),
    ("telemetry", &["types"]),
    // rank 2
    ("identity", &["types", "rt", "telemetry"]),
    // Metric handles are resolved when a snapshot is built, so that requests look nothing up: ADR 0004. Whom a service
    // must prove to be belongs to the service: ADR 0020.
    ("snapshot", &["types", "policy", "telemetry", "identity"]),
    // rank 3
    ("net", &["types", "rt", "telemetry", "identity"]),
    // rank 4
    ("peer", &["types", "rt", "telemetry", "identity", "net"]),
    // rank 5
    ("membership", &["types", "rt", "telemetry", "identity", "net"]),
    ("proxy", &["types", "rt", "policy", "telemetry", "identity", "snapshot", "net"]),
    ("store", &["types", "rt", "telemetry", "identity", "net", "peer"]),
    // rank 6
    ("directory", &["types", "rt", "policy", "telemetry", "identity", "snapshot", "membership"]),
    // rank 7
    (
        "admin",
        &[
            "types",
            "rt",
            "policy",
            "telemetry",
            "identity",
            "snapshot",
            "net",
            "membership",
            "proxy",
            "store",
            "directory",
        ],
    ),
    // rank 8
    (
        "config",
        &[
            "types",
            "rt",
            "policy",
            "telemetry",
            "identity",
            "snapshot",
            "net",
            "membership",
            "proxy",
            "store",
            "directory",
            "admin",
        ],
    ),
    // rank 9
    (
        "app",
        &[
            "types",
            "rt",
            "policy",
            "telemetry",
            "identity",
            "snapshot",
            "net",
            "peer",
            "membership",
            "proxy",
            "store",
            "directory",
            "admin",
            "config",
        ],
    ),
    // rank 10
    ("cli", &["types", "rt", "telemetry", "identity", "membership", "store", "admin", "config", "app"]),
    ("main", &["telemetry", "config", "app", "cli"]),
];

/// Where time and chance are arguments.
const PURE: &[&str] = &[
    "src/types/",
    "src/policy/",
    "src/membership/core/",
    "src/store/core/",
    "src/store/quorum/core/",
    "src/store/etcd/plan",
    "src/directory/build.rs",
    "src/directory/build/",
    "src/config/diff.rs",
];

const IMPURE_PATHS: &[&[&str]] = &[
    &["tokio"],
    &["socket2"],
    &["std", "fs"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "env"],
    &["std", "os"],
    &["std", "time", "*"],
    &["std", "net", "*"],
];

/// Sockets, clocks and locks, whatever path leads to them. Addresses are data and may be named.
const IMPURE_NAMES: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "ToSocketAddrs",
    "Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "Condvar",
];

const SPAWNS: &[(&str, &str)] = &[
    ("tokio", "spawn"),
    ("task", "spawn"),
    ("task", "spawn_local"),
    ("task", "spawn_blocking"),
    ("thread", "spawn"),
    ("thread", "Builder"),
];

/// Crates that must stay replaceable, and the paths that may name them.
const FOREIGN: &[(&str, &[&str])] = &[
    ("arc_swap", &["src/types/live.rs"]),
    // The demo brings an application and a client of its own: they stand outside the sidecar, as strangers would.
    ("hyper", &["src/proxy/", "src/admin/", "src/peer/", "src/app/demo/application.rs"]),
    ("hyper_util", &["src/proxy/", "src/admin/", "src/peer/", "src/app/demo/application.rs"]),
    ("h2", &["src/proxy/", "src/peer/rpc/"]),
    ("httparse", &["src/proxy/", "src/app/demo/client.rs"]),
    ("serde_yaml", &["src/config/"]),
    ("saphyr_parser", &["src/config/"]),
    ("governor", &["src/policy/limit"]),
    ("hashring", &["src/policy/balance"]),
    ("hickory_resolver", &["src/directory/dns"]),
    ("socket2", &["src/net/"]),
    ("rustls", &["src/identity/", "src/net/"]),
    ("tokio_rustls", &["src/identity/", "src/net/"]),
    ("webpki", &["src/identity/"]),
    // Outside of the CA only where a test needs certificates.
    (
        "rcgen",
        &[
            "src/identity/ca/",
            "src/identity/external/tests.rs",
            "src/identity/tests.rs",
            "src/identity/test_authority.rs",
        ],
    ),
    ("x509_parser", &["src/identity/"]),
    ("jsonwebtoken", &["src/identity/jwt/"]),
    (
        "aws_lc_rs",
        &[
            "src/identity/",
            "src/types/secret.rs",
            "src/membership/core/envelope.rs",
            "src/store/backend/seal.rs",
        ],
    ),
    ("foca", &["src/membership/core/machine"]),
    ("postcard", &["src/membership/core/", "src/store/"]),
    ("openraft", &["src/store/raft/"]),
    ("etcd_client", &["src/store/etcd/"]),
    ("redb", &["src/store/backend/"]),
    ("metrics_exporter_prometheus", &["src/telemetry/"]),
    ("tracing_subscriber", &["src/telemetry/"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("anyhow", &["src/cli/", "src/main.rs"]),
];

const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"];

/// A file that does not fit holds more than one idea.
const MAX_FILE_LINES: usize = 500;

/// The same number as clippy's `too-many-lines-threshold`.
const MAX_FUNCTION_LINES: usize = 80;

/// Longer tests hide the code above them.
const MAX_INLINE_TEST_LINES: usize = 150;

/// Files that may be longer, with the reason.
pub(crate) const LONG_FILES: &[Exception] = &[];

/// Functions that may be longer, with the reason.
pub(crate) const LONG_FUNCTIONS: &[Exception] = &[];

/// Files that start tasks or threads by themselves, with who ends them.
pub(crate) const SPAWNING_FILES: &[Exception] = &[
    Exception {
        place: "src/admin/author.rs",
        reason: "reads the names of users on the blocking pool and waits for it",
    },
    Exception {
        place: "src/admin/dispatch.rs",
        reason: "rendering and reloads that must not die with the client who asked; the control runtime ends them",
    },
    Exception {
        place: "src/app/certificates/builtin.rs",
        reason: "reads and writes what is kept on the blocking pool and waits for it",
    },
    Exception {
        place: "src/app/certificates/copy.rs",
        reason: "makes a copy of the authority on the blocking pool and waits for it",
    },
    Exception {
        place: "src/app/certificates/files.rs",
        reason: "reads certificates on the blocking pool and waits for it",
    },
    Exception { place: "src/app/edge.rs", reason: "reads files on the blocking pool and waits for them" },
    Exception { place: "src/app/reload.rs", reason: "reads a file on the blocking pool and waits for it" },
    Exception {
        place: "src/app/shared/kept.rs",
        reason: "writes a file on the blocking pool and waits for it",
    },
    Exception { place: "src/app/run.rs", reason: "waits for the workers on the blocking pool" },
    Exception {
        place: "src/directory/driver.rs",
        reason: "one look-up task per name, aborted when the name leaves or the directory is dropped",
    },
    Exception {
        place: "src/membership/driver.rs",
        reason: "the data directory is opened beside the runtime; whoever starts the membership waits for it",
    },
    Exception {
        place: "src/peer/server.rs",
        reason: "reads the authority on the blocking pool and waits for it",
    },
    Exception {
        place: "src/peer/server/answer.rs",
        reason: "signs on the blocking pool: one at a time, in a bounded queue",
    },
    Exception {
        place: "src/peer/source.rs",
        reason: "asks the authority of this machine on the blocking pool and waits for it",
    },
    Exception {
        place: "src/store/founding.rs",
        reason: "writes what was promised on the blocking pool and waits for it",
    },
    Exception {
        place: "src/store/quorum/driver.rs",
        reason: "writes batches on the blocking pool, one at a time, and waits for each",
    },
    Exception {
        place: "src/store/raft/node.rs",
        reason: "opens the log on the blocking pool and waits for it",
    },
    Exception {
        place: "src/store/service.rs",
        reason: "opens the files on the blocking pool and waits for it",
    },
    Exception {
        place: "src/store/raft/log/writer.rs",
        reason: "the thread that writes the log; LogStore joins it",
    },
    Exception {
        place: "src/store/raft/machine.rs",
        reason: "writes and reads snapshots on the blocking pool and waits for it",
    },
    Exception {
        place: "src/store/resealing.rs",
        reason: "encrypts records anew on the blocking pool and waits for it",
    },
    Exception {
        place: "src/telemetry/access_log/sink.rs",
        reason: "the writer thread; AccessLogOwner stops it",
    },
    Exception {
        place: "src/proxy/codec.rs",
        reason: "tasks of hyper on the worker's runtime, which drops them with itself",
    },
    Exception {
        place: "src/proxy/mirror.rs",
        reason: "copies of requests on the worker's runtime, bounded in number and time",
    },
    Exception {
        place: "src/proxy/overload.rs",
        reason: "refusals on the worker's runtime, bounded in number and time",
    },
    Exception {
        place: "src/proxy/tunnel.rs",
        reason: "tunnels on streams of HTTP/2; they end with their connection, or at the drain deadline",
    },
    Exception {
        place: "src/proxy/worker.rs",
        reason: "the worker threads, joined by DataPlane, and their connections",
    },
    Exception {
        place: "src/proxy/health/runner.rs",
        reason: "one task per checked endpoint, aborted when it leaves or the runner is dropped",
    },
    Exception {
        place: "src/proxy/jwks.rs",
        reason: "one looking task per issuer, aborted when it leaves or the runner is dropped; files are read on the \
                 blocking pool",
    },
    Exception {
        place: "src/proxy/jwks/fetch.rs",
        reason: "reads certificates on the blocking pool and waits for it",
    },
    Exception {
        place: "src/proxy/pool/h1.rs",
        reason: "drivers of connections on the worker's runtime, which drops them with itself",
    },
    Exception {
        place: "src/proxy/pool/h2.rs",
        reason: "drivers of connections on the worker's runtime, which drops them with itself",
    },
];

/// The tests that the last column of a table names: a file of the repository with the name of a function in it, or
/// without, where the file as a whole is the test.
pub(crate) fn named_tests(text: &str) -> Vec<(String, Option<String>)> {
    let last_columns = text.lines().filter(|line| line.starts_with('|')).filter_map(|line| {
        let line = line.trim_end().strip_suffix('|')?;
        line.rsplit_once(" | ").map(|(_, last)| last)
    });
    let names = last_columns.flat_map(|column| column.split('`').skip(1).step_by(2));
    names
        .map(|name| match name.split_once("::") {
            Some((module, test)) if module.contains('/') => (module.to_owned(), Some(test.to_owned())),
            Some((module, test)) => (format!("tests/process/{module}.rs"), Some(test.to_owned())),
            None => (name.to_owned(), None),
        })
        .collect()
}

/// Those of them that are not there.
pub(crate) fn missing_tests(
    named: &[(String, Option<String>)],
    read: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let is_there = |(file, test): &&(String, Option<String>)| {
        read(file).is_some_and(|text| test.as_ref().is_none_or(|test| text.contains(&format!("fn {test}()"))))
    };
    let missing = named.iter().filter(|one| !is_there(one));
    missing.map(|(file, test)| format!("{file}: no test `{}`", test.as_deref().unwrap_or_default())).collect()
}
