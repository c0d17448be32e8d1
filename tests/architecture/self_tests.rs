//! Shows for each rule that it can fail, and that the scanner is not fooled by comments, strings and tests.

use std::path::Path;

use crate::{
    rules::{self, Exception},
    source::SourceFile,
};

fn file(path: &str, text: &str) -> Vec<SourceFile> {
    vec![SourceFile::parse(path, text)]
}

/// One violation, which begins with `start`.
#[track_caller]
fn assert_one(violations: &[String], start: &str) {
    assert!(
        violations.len() == 1 && violations[0].starts_with(start),
        "expected one `{start}…`: {violations:#?}"
    );
}

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn an_import_against_the_table_is_found_in_every_spelling() {
    for text in [
        "//! x\nuse crate::proxy::framing::Guard;",
        "//! x\nuse crate::{types::Mono, proxy::framing};",
        "//! x\nuse {crate::proxy};",
        "//! x\nuse super::super::proxy::framing;",
        "//! x\nfn f() { crate::proxy::start() }",
        "//! x\nfn f(_: &crate::proxy::ListenersParams) {}",
        "//! x\npub use crate::proxy as data_plane;",
    ] {
        assert_one(
            &rules::imports(&file("src/policy/retry.rs", text)),
            "src/policy/retry.rs:2: `policy` must not",
        );
    }
}

#[test]
fn an_import_of_the_next_line_is_reported_at_its_own_line() {
    let text = "//! x\nuse crate::{\n    types::Mono,\n    proxy::framing,\n};";
    assert_one(&rules::imports(&file("src/policy/mod.rs", text)), "src/policy/mod.rs:4:");
}

#[test]
fn imports_of_the_table_and_of_the_own_module_are_fine() {
    let text = "use crate::{types::Mono, policy::route};\nuse super::breaker;\nuse std::{fmt, sync::Arc};";
    assert_none(&rules::imports(&file("src/policy/retry.rs", text)));
    assert_none(&rules::imports(&file("src/main.rs", "use outrigger::cli;")));
}

#[test]
fn one_super_in_a_child_file_stays_in_the_module() {
    assert_none(&rules::imports(&file("src/policy/retry.rs", "use super::proxy;")));
    assert_one(&rules::imports(&file("src/policy/mod.rs", "use super::proxy;")), "src/policy/mod.rs:1:");
}

#[test]
fn the_crate_root_as_a_whole_is_no_import() {
    assert_one(&rules::imports(&file("src/net/mod.rs", "use crate::*;")), "src/net/mod.rs:1: `crate::*`");
    assert_one(&rules::imports(&file("src/net/mod.rs", "use super::*;")), "src/net/mod.rs:1: `super::*`");
}

#[test]
fn a_module_without_a_row_is_reported() {
    assert_one(&rules::imports(&file("src/gossip/mod.rs", "")), "src/gossip/mod.rs:1: module `gossip`");
}

#[test]
fn every_row_of_the_table_imports_only_rows_above_it() {
    for (index, (module, allowed)) in rules::MODULES.iter().enumerate() {
        for target in *allowed {
            let above = rules::MODULES[..index].iter().any(|(name, _)| name == target);
            assert!(above, "`{module}` imports `{target}`, which does not stand above it");
        }
    }
}

#[test]
fn each_kind_of_impurity_is_found() {
    for text in [
        "async fn f() {}",
        "use tokio::sync::mpsc;",
        "use std::{fmt, fs::File};",
        "use std::net::TcpStream;",
        "use std::time::{Duration, Instant};",
        "fn f() { std::time::SystemTime::now(); }",
        "fn f() { fastrand::u32(..); }",
        "fn f() { let rng = Rng::new(); }",
        "use std::sync::Mutex;",
        "use std::thread;",
    ] {
        for path in ["src/policy/x.rs", "src/types/x.rs", "src/directory/build.rs", "src/config/diff.rs"] {
            assert_one(&rules::purity(&file(path, text)), &format!("{path}:1:"));
        }
        assert_none(&rules::purity(&file("src/proxy/x.rs", text)));
    }
}

#[test]
fn data_and_arguments_are_pure() {
    let text = "use std::{net::{IpAddr, SocketAddr}, path::PathBuf, sync::{Arc, atomic::AtomicU32}, time::Duration};\n\
                use fastrand::Rng;\n\
                fn pick(rng: &mut fastrand::Rng) -> u32 { rng.u32(0..4) }\n\
                fn start(seed: u64) -> Rng { fastrand::Rng::with_seed(seed) }";
    assert_none(&rules::purity(&file("src/policy/x.rs", text)));
}

#[test]
fn clocks_and_chance_outside_rt_are_found() {
    for text in [
        "fn f() { std::time::Instant::now(); }",
        "fn f() { tokio::time::Instant::now(); }",
        "fn f() { SystemTime::now(); }",
        "fn f() { fastrand::bool(); }",
    ] {
        assert_one(&rules::clocks_and_chance(&file("src/proxy/x.rs", text)), "src/proxy/x.rs:1:");
        assert_none(&rules::clocks_and_chance(&file("src/rt/x.rs", text)));
    }
}

#[test]
fn tasks_and_threads_outside_rt_need_an_owner() {
    let known = [Exception { place: "src/proxy/x.rs", reason: "joined by the worker's LocalSet" }];
    for text in [
        "fn f() { tokio::spawn(g()); }",
        "fn f() { tokio::task::spawn_local(g()); }",
        "use tokio::task::spawn_blocking;",
        "fn f() { thread::Builder::new(); }",
    ] {
        assert_one(&rules::spawns(&file("src/proxy/x.rs", text), &[]), "src/proxy/x.rs:1:");
        assert_none(&rules::spawns(&file("src/proxy/x.rs", text), &known));
        assert_none(&rules::spawns(&file("src/rt/x.rs", text), &[]));
    }
    assert_one(
        &rules::spawns(&file("src/proxy/x.rs", "fn f() {}"), &known),
        "exception for `src/proxy/x.rs`",
    );
}

#[test]
fn a_foreign_crate_outside_its_home_is_found() {
    for (krate, home) in [
        ("arc_swap", "src/types/live.rs"),
        ("hyper", "src/proxy/codec.rs"),
        ("serde_yaml", "src/config/raw.rs"),
        ("saphyr_parser", "src/config/spans.rs"),
        ("hashring", "src/policy/balance/ring.rs"),
        ("hickory_resolver", "src/directory/dns.rs"),
        ("socket2", "src/net/bind.rs"),
        ("clap", "src/cli/mod.rs"),
    ] {
        let text = format!("use {krate}::Something;");
        assert_none(&rules::foreign_crates(&file(home, &text)));
        assert_one(&rules::foreign_crates(&file("src/snapshot/mod.rs", &text)), "src/snapshot/mod.rs:1:");
    }
}

#[test]
fn a_long_file_needs_a_reason_and_its_tests_do_not_count() {
    let path = "src/proxy/x.rs";
    let fits = "//! x\n".repeat(500);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    fn f() {}\n".repeat(100));
    assert_none(&rules::file_length(&file(path, &(fits.clone() + &tests)), &[]));
    assert_none(&rules::file_length(&file("src/proxy/tests.rs", &"fn f() {}\n".repeat(900)), &[]));

    let too_long = file(path, &(fits + "const X: u8 = 0;\n"));
    assert_one(&rules::file_length(&too_long, &[]), "src/proxy/x.rs:500: 501 lines");
    assert_none(&rules::file_length(&too_long, &[Exception { place: path, reason: "one table" }]));
    assert_one(&rules::file_length(&too_long, &[Exception { place: path, reason: " " }]), "exception for");
}

#[test]
fn a_long_function_needs_a_reason() {
    let path = "src/proxy/x.rs";
    let body = |lines: usize| {
        format!(
            "impl X {{\n    fn table(a: [u8; 3]) -> fn(u8) -> u8 {{\n{}    }}\n}}\n",
            "        f();\n".repeat(lines)
        )
    };
    assert_none(&rules::function_length(&file(path, &body(80)), &[]));
    let too_long = file(path, &body(81));
    assert_one(&rules::function_length(&too_long, &[]), "src/proxy/x.rs:2: `table` has 81 lines");
    assert_none(&rules::function_length(
        &too_long,
        &[Exception { place: "src/proxy/x.rs table", reason: "one table" }],
    ));
}

#[test]
fn comments_and_empty_lines_do_not_make_a_function_long() {
    let text = format!("fn f() {{\n{}}}\n", "    // why\n\n".repeat(100));
    assert_none(&rules::function_length(&file("src/proxy/x.rs", &text), &[]));
}

#[test]
fn an_exception_that_nothing_needs_is_reported() {
    let exception = [Exception { place: "src/gone.rs", reason: "was long" }];
    assert_one(&rules::file_length(&[], &exception), "exception for `src/gone.rs`: no longer needed");
    assert_one(&rules::function_length(&[], &exception), "exception for `src/gone.rs`: no longer needed");
}

#[test]
fn long_inline_tests_are_reported() {
    let tests = |lines: usize| format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(lines));
    assert_none(&rules::inline_tests(&file("src/net/x.rs", &tests(147))));
    assert_one(
        &rules::inline_tests(&file("src/net/x.rs", &tests(148))),
        "src/net/x.rs:1: 151 lines of tests",
    );
}

#[test]
fn a_missing_or_empty_header_is_reported() {
    assert_none(&rules::headers(&file("src/net/x.rs", "//! Dials.\n")));
    for text in ["", "use std::fmt;\n", "\n//! Late.\n", "//!\n", "// Dials.\n"] {
        assert_one(&rules::headers(&file("src/net/x.rs", text)), "src/net/x.rs:1:");
    }
}

#[test]
fn names_that_say_nothing_are_reported() {
    for path in
        ["src/util.rs", "src/net/helpers/mod.rs", "tests/common/mod.rs", "src/pool_manager.rs", "src/misc.rs"]
    {
        assert_one(&rules::file_names(&file(path, "//! x")), &format!("{path}:1:"));
    }
    assert_none(&rules::file_names(&file("src/proxy/utilisation.rs", "//! x")));
}

#[test]
fn a_document_that_names_a_missing_path_is_reported() {
    let exists = |path: &Path| path == Path::new("src/net/") || path == Path::new("docs/adr/0001.md");
    assert_none(&rules::named_paths(
        "ARCHITECTURE.md",
        "`src/net/` and `policy::route` and `GET /livez`",
        exists,
    ));
    assert_one(
        &rules::named_paths("ARCHITECTURE.md", "a\nsee `src/gossip.rs`", exists),
        "ARCHITECTURE.md:2: `src/gossip.rs`",
    );
    assert_one(&rules::named_paths("ARCHITECTURE.md", "`GONE.md`", exists), "ARCHITECTURE.md:1: `GONE.md`");
    assert_none(&rules::named_paths(
        "docs/adr/README.md",
        "[one](0001.md#why) [web](https://example.org/x)",
        exists,
    ));
    assert_one(&rules::named_paths("docs/adr/README.md", "[two](0002.md)", exists), "docs/adr/README.md:1:");
}

#[test]
fn comments_strings_and_tests_are_not_code() {
    let text = r####"//! Not crate::proxy.
/* nor /* nested */ crate::proxy */
const A: &str = "crate::proxy \" crate::proxy";
const B: &str = r#"crate::proxy " crate::proxy"#;
const C: &[u8] = b"crate::proxy";
const D: (char, char, char) = ('"', '\'', 'é');
fn lifetime<'a>(x: &'a str) -> &'a str { x } // crate::proxy
#[cfg(test)]
use crate::{proxy, types};
#[cfg(test)]
mod tests {
    use crate::proxy::*;
    const BRACE: &str = "}";
    fn f() { crate::proxy::start() }
}
#[cfg(all(test, unix))]
fn g(list: [u8; 3]) { crate::proxy::start() }
fn after() { crate::net::dial() }
"####;
    assert_one(
        &rules::imports(&file("src/policy/x.rs", text)),
        "src/policy/x.rs:18: `policy` must not import `net`",
    );
}

#[test]
fn code_after_every_kind_of_literal_is_still_seen() {
    for literal in [r##"r#"x"#"##, r#""\\""#, r"'\\'", r"'\u{7f}'", "b'x'", "'\"'", "br\"x\\\"", "r#type"] {
        let text = format!("fn f() {{ let x = {literal}; crate::proxy::start() }}");
        assert_one(&rules::imports(&file("src/policy/x.rs", &text)), "src/policy/x.rs:1:");
    }
}

#[test]
fn a_named_test_that_does_not_exist_is_found() {
    let table = "| input | what | test |\n|---|---|---|\n\
                 | a | `b` | `slow::there`, `src/x.rs::gone` |\n| c | d | `tests/scripts/e.py` |\n";
    let named = rules::named_tests(table);
    let files = |path: &str| (path == "tests/process/slow.rs").then(|| "async fn there() {".to_owned());
    assert_eq!(
        rules::missing_tests(&named, files),
        ["src/x.rs: no test `gone`", "tests/scripts/e.py: no test ``"]
    );
}
