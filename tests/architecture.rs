//! Holds the code to ARCHITECTURE.md and CONTRIBUTING.md. Each rule is one test; what it checks, and the tables
//! it checks against, are in `architecture/rules.rs`. That each rule can fail is shown in
//! `architecture/self_tests.rs`.

#[path = "architecture/rules.rs"]
mod rules;
#[cfg(test)]
#[path = "architecture/self_tests.rs"]
mod self_tests;
#[path = "architecture/source.rs"]
mod source;

use std::{fs, path::Path};

use source::SourceFile;

#[test]
fn the_scanner_sees_the_whole_tree() {
    let files = sources();
    for path in ["src/lib.rs", "src/main.rs", "src/types/mod.rs", "src/proxy/mod.rs"] {
        assert!(files.iter().any(|file| file.path == path), "{path} was not read");
    }
    for (module, _) in rules::MODULES {
        assert!(
            files.iter().any(|file| file.module() == *module),
            "the import table names `{module}`: no such module"
        );
    }
}

#[test]
fn modules_import_only_what_the_table_allows() {
    assert_clean(&rules::imports(&sources()));
}

#[test]
fn pure_code_names_no_task_file_socket_lock_clock_or_chance() {
    assert_clean(&rules::purity(&sources()));
}

#[test]
fn only_rt_reads_clocks_and_seeds_generators() {
    assert_clean(&rules::clocks_and_chance(&sources()));
}

#[test]
fn every_task_and_thread_has_an_owner() {
    assert_clean(&rules::spawns(&sources(), rules::SPAWNING_FILES));
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    assert_clean(&rules::foreign_crates(&sources()));
}

#[test]
fn no_file_is_longer_than_its_cap() {
    assert_clean(&rules::file_length(&sources(), rules::LONG_FILES));
}

#[test]
fn no_function_is_longer_than_its_cap() {
    assert_clean(&rules::function_length(&sources(), rules::LONG_FUNCTIONS));
}

#[test]
fn long_tests_stand_in_files_of_their_own() {
    assert_clean(&rules::inline_tests(&sources()));
}

#[test]
fn every_file_begins_with_a_header() {
    assert_clean(&rules::headers(&all_rust()));
}

#[test]
fn every_file_name_says_something() {
    assert_clean(&rules::file_names(&all_rust()));
}

#[test]
fn every_path_named_in_the_documents_exists() {
    let mut violations = Vec::new();
    for document in
        ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "tests/README.md", "docs/adr/README.md"]
    {
        let path = root().join(document);
        // ARCHITECTURE.md is a must; the others are held to the rule as soon as they are there.
        if document == "ARCHITECTURE.md" || path.exists() {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
            violations.extend(rules::named_paths(document, &text, |name| root().join(name).exists()));
        }
    }
    assert_clean(&violations);
}

#[test]
fn planted_bugs_are_in_no_build_that_does_not_ask_for_them() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let default = text.lines().find(|line| line.starts_with("default = ")).expect("default features");
    assert!(!default.contains("planted-bugs"), "{default}");
    let naming: Vec<_> = text.lines().filter(|line| line.contains("planted-bugs")).collect();
    assert_eq!(naming, ["planted-bugs = []"], "no other feature may bring it, nor it any other");
}

#[test]
fn every_test_that_the_hardening_table_names_exists() {
    let text = fs::read_to_string(root().join("docs/hardening.md")).expect("docs/hardening.md");
    let named = rules::named_tests(&text);
    assert!(named.len() > 50, "the table was not read: {named:?}");
    let missing = rules::missing_tests(&named, |path| fs::read_to_string(root().join(path)).ok());
    assert_clean(&missing);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the binary is made of.
fn sources() -> Vec<SourceFile> {
    read(&["src"])
}

/// All Rust of the repository.
fn all_rust() -> Vec<SourceFile> {
    read(&["build", "src", "tests", "benches", "examples"])
}

fn read(folders: &[&str]) -> Vec<SourceFile> {
    let files = source::load(root(), folders);
    assert!(files.is_ok(), "cannot read the tree: {files:?}");
    files.unwrap_or_default()
}

fn assert_clean(violations: &[String]) {
    assert!(violations.is_empty(), "{} violation(s):\n{}\n", violations.len(), violations.join("\n"));
}
