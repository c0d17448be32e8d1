//! `outrigger keyring`: the keys that the gossip of a mesh is sealed with, listed and changed on all members. A key is read
//! from a file or from standard input, never from an argument, which everybody on the machine could see.

use std::{
    io::{IsTerminal as _, Read},
    path::PathBuf,
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{
    Output,
    admin::{AdminArgs, AskError},
    columns::{columns, word, words},
    exit,
};
use crate::{
    identity,
    membership::{GossipKey, KeyMark},
};

/// List and change the keys that the gossip is sealed with
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A mesh goes to another key in three steps: `install` it everywhere, `use` it, `rm` the old one. Traffic and\n\
                  members do not notice. Keys are called by their marks, as `keyring ls` shows them.\n\n\
                  Exit codes: 0 done by all members, 1 failed, also at a single member, 2 wrong usage, 4 the sidecar cannot\n\
                  be reached, 5 no such key, or no mesh, 6 it denies access, 7 not possible now.\n\n\
                  Examples:\n  outrigger keyring generate > new.key\n  outrigger keyring install --file new.key\n  \
                  outrigger keyring use 1a2b3c4d\n  outrigger keyring rm 5e6f7a8b"
)]
pub(super) struct KeyringArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the keys by their marks, with how many members have them and seal with them
    Ls(ListArgs),
    /// Print a new key
    Generate,
    /// Give a key to all members: what is sealed with it can be opened from then on
    Install(InstallArgs),
    /// Have all members seal with a key; each must have it
    Use(MarkArgs),
    /// Have all members forget a key; nobody may seal with it
    Rm(MarkArgs),
}

#[derive(clap::Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args, Debug)]
struct InstallArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// File with the key, 64 hexadecimal digits. Default: standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args, Debug)]
struct MarkArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Mark of the key, as `keyring ls` shows it
    mark: KeyMark,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Runs the command.
pub(super) fn keyring(args: &KeyringArgs) -> ExitCode {
    match &args.action {
        Action::Ls(args) => list(args),
        Action::Generate => generate(),
        Action::Install(args) => install(args),
        Action::Use(args) => {
            order(&args.admin, &json!({ "use": args.mark.to_string() }), Verb::Use, args.output)
        }
        Action::Rm(args) => {
            order(&args.admin, &json!({ "remove": args.mark.to_string() }), Verb::Remove, args.output)
        }
    }
}

#[expect(clippy::print_stdout, reason = "what the command says is its output")]
fn list(args: &ListArgs) -> ExitCode {
    match args.admin.get("/v1/keyring") {
        Ok(keys) if args.output == Output::Json => println!("{keys:#}"),
        Ok(keys) => print!("{}", listed(&keys)),
        Err(error) => return refused(&error),
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the command says is its output")]
fn generate() -> ExitCode {
    match new_key() {
        Ok((key, mark)) => {
            println!("{key}");
            eprintln!("key {mark}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: cannot make a key: {error}");
            ExitCode::from(exit::FAILED)
        }
    }
}

/// A key that nobody can foresee, as text, and what it is called.
fn new_key() -> anyhow::Result<(String, KeyMark)> {
    let bytes: [u8; 32] = identity::unforeseeable()?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mark = KeyMark::of(&GossipKey::parse(&text)?);
    Ok((text, mark))
}

#[expect(clippy::print_stderr, reason = "what went wrong is told there")]
fn install(args: &InstallArgs) -> ExitCode {
    match read_key(args.file.as_ref()) {
        Ok(key) => order(&args.admin, &json!({ "install": key.expose() }), Verb::Install, args.output),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

#[expect(clippy::print_stderr, reason = "whoever is waited for is told so")]
fn read_key(file: Option<&PathBuf>) -> anyhow::Result<GossipKey> {
    let mut text = String::new();
    let (place, read) = match file {
        Some(file) => {
            let opened = std::fs::File::open(file);
            (file.display().to_string(), opened.and_then(|open| open.take(MAX_KEY).read_to_string(&mut text)))
        }
        None => {
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                eprintln!("reading the key from standard input");
            }
            ("standard input".to_owned(), stdin.take(MAX_KEY).read_to_string(&mut text))
        }
    };
    read.map_err(|error| anyhow::anyhow!("cannot read the key from {place}: {error}"))?;
    GossipKey::parse(&text).map_err(|error| anyhow::anyhow!("there is no key in {place}: {error}"))
}

/// What members are told to do with a key.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Install,
    Use,
    Remove,
}

/// Gives an order and tells who has carried it out.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the command says is its output")]
fn order(admin: &AdminArgs, body: &Value, verb: Verb, output: Output) -> ExitCode {
    let report = match admin.order("/v1/keyring", body) {
        Ok(report) => report,
        Err(error) => return refused(&error),
    };
    match output {
        Output::Json => println!("{report:#}"),
        Output::Text => print!("{}", reported(&report, verb)),
    }
    if failures(&report).is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("hint: give the order again; those who have carried it out stay as they are");
    ExitCode::from(exit::FAILED)
}

fn refused(error: &AskError) -> ExitCode {
    error.tell();
    error.code()
}

fn listed(keys: &Value) -> String {
    let row = |key: &Value| {
        let of_all = |count: &Value| format!("{count} of {}", key["members"]);
        let primary = if key["primary"] == true { "primary" } else { "-" };
        [word(&key["mark"]), primary.to_owned(), of_all(&key["holders"]), of_all(&key["sealers"])]
    };
    let rows: Vec<_> = keys["items"].as_array().into_iter().flatten().map(row).collect();
    columns(["MARK", "HERE", "HAVE IT", "SEAL WITH IT"], &rows)
}

fn reported(report: &Value, verb: Verb) -> String {
    let done: Vec<String> = report["done"].as_array().into_iter().flatten().map(word).collect();
    let failures = failures(report);
    let (mark, all) = (word(&report["mark"]), done.len() + failures.len());
    let count = format!("{} of {all} members", done.len());
    let mut text = match verb {
        Verb::Install => format!("installed {mark} at {count}\n"),
        Verb::Use => format!("{count} seal with {mark}\n"),
        Verb::Remove => format!("removed {mark} from {count}\n"),
    };
    text.push_str(&format!("done    {}\n", words(done.into_iter())));
    for (node, reason) in failures {
        text.push_str(&format!("FAILED  {node}: {reason}\n"));
    }
    text
}

/// Who has not carried out the order, and why.
fn failures(report: &Value) -> Vec<(String, String)> {
    let failed = report["failed"].as_array().into_iter().flatten();
    failed.map(|one| (word(&one["node"]), word(&one["reason"]))).collect()
}

/// More than a key and white space around it need.
const MAX_KEY: u64 = 1024;

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn keys_are_listed_with_those_who_have_them() {
        let keys = json!({ "items": [
            { "mark": "1a2b3c4d", "primary": true, "holders": 5, "sealers": 4, "members": 5 },
            { "mark": "5e6f7a8b", "primary": false, "holders": 12, "sealers": 1, "members": 12 },
        ] });
        let expected = "\
MARK      HERE     HAVE IT   SEAL WITH IT
1a2b3c4d  primary  5 of 5    4 of 5
5e6f7a8b  -        12 of 12  1 of 12
";
        assert_eq!(listed(&keys), expected);
    }

    #[test]
    fn a_report_tells_who_has_done_it_and_who_has_not() {
        let mut report = json!({
            "mark": "1a2b3c4d",
            "done": ["api-1", "web-1"],
            "failed": [{ "node": "web-2", "reason": "no answer" }],
        });
        let expected =
            "installed 1a2b3c4d at 2 of 3 members\ndone    api-1,web-1\nFAILED  web-2: no answer\n";
        assert_eq!(reported(&report, Verb::Install), expected);
        assert_eq!(failures(&report).len(), 1);
        report["failed"] = json!([]);
        assert_eq!(reported(&report, Verb::Use), "2 of 2 members seal with 1a2b3c4d\ndone    api-1,web-1\n");
        assert!(reported(&report, Verb::Remove).starts_with("removed 1a2b3c4d from 2 of 2 members\n"));
    }

    #[test]
    fn each_key_is_another_and_is_one() {
        let (first, second) = (new_key().unwrap().0, new_key().unwrap().0);
        assert!(first != second && GossipKey::parse(&first).is_ok(), "{first}");
    }

    #[test]
    fn a_key_is_never_an_argument() {
        let parsed =
            |arguments: &[&str]| Cli::try_parse_from([&["outrigger", "keyring"], arguments].concat());
        let key = "0f".repeat(32);
        assert!(parsed(&["install", &key]).is_err());
        assert!(parsed(&["use", &key]).is_err(), "a key is no mark");
        assert!(parsed(&["install", "--file", "new.key"]).is_ok());
        assert!(parsed(&["rm", "1a2b3c4d"]).is_ok());
    }
}
