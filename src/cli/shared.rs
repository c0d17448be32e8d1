//! What `outrigger routes`, `intentions`, `policies` and `ratelimits` have in common: entries that all sidecars share, written
//! through the admin API of one.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    process::ExitCode,
};

use serde_json::Value;

use super::{
    Output,
    admin::{AdminArgs, AskError, printable},
    columns::{columns, word},
    exit,
    kv::encoded,
};
use crate::config::Record;

/// Lists what is in force.
#[derive(clap::Args, Debug)]
pub(super) struct LsArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl LsArgs {
    /// Prints the list at `place`, as `text` makes of it what people read.
    #[expect(clippy::print_stdout, reason = "printing is what the verb is for")]
    pub(super) fn list(&self, place: &str, text: fn(&Value) -> String) -> ExitCode {
        match self.admin.get(place) {
            Ok(told) => {
                match self.output {
                    Output::Json => println!("{told:#}"),
                    Output::Text => print!("{}", text(&told)),
                }
                ExitCode::SUCCESS
            }
            Err(error) => {
                error.tell();
                error.code()
            }
        }
    }
}

/// Removes an entry that was written for all sidecars.
#[derive(clap::Args, Debug)]
pub(super) struct RmArgs {
    #[command(flatten)]
    pub(super) admin: AdminArgs,
    #[command(flatten)]
    pub(super) writing: Writing,
    /// Which
    pub(super) name: String,
}

/// Writes an entry for all sidecars.
#[derive(clap::Args, Debug)]
pub(super) struct PutArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    writing: Writing,
    /// File with the entry, `-` for standard input
    #[arg(short, long)]
    file: String,
    /// What it is called, if it does not say so itself
    name: Option<String>,
}

/// How an entry is written.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Writing {
    /// Only if its last change was at this revision; 0: only if it is not there
    #[arg(long, value_name = "REVISION")]
    cas: Option<u64>,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Writing {
    /// Where an entry is written: `place` is the list that it is of.
    pub(super) fn path(self, place: &str, name: &str) -> String {
        let query = self.cas.map_or(String::new(), |revision| format!("?if_revision={revision}"));
        format!("{place}/{}{query}", encoded(name))
    }

    /// Tells what came of it; what the process exits with.
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]
    pub(super) fn tell(self, outcome: Result<Value, AskError>) -> ExitCode {
        match outcome {
            Ok(written) => {
                if let Some(warnings) = written["warnings"].as_str() {
                    eprint!("{}", lines(warnings));
                }
                match self.output {
                    Output::Json => println!("{written:#}"),
                    Output::Text => println!("{} revision {}", word(&written["key"]), written["revision"]),
                }
                ExitCode::SUCCESS
            }
            Err(error) => {
                error.tell();
                error.code()
            }
        }
    }
}

/// Writes an entry.
pub(super) fn put(args: &PutArgs, place: &str) -> ExitCode {
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(error) => return failed(&format!("cannot read {}: {error}", args.file)),
    };
    let Some(name) = args.name.clone().or_else(|| Record::name_in(&text)) else {
        return failed("the entry has no `name`, and none is given");
    };
    let path = args.writing.path(place, &name);
    args.writing.tell(args.admin.put_text(&path, text))
}

fn read(place: &str) -> io::Result<String> {
    let mut text = String::new();
    let read = match place {
        "-" => io::stdin().take(MAX_TEXT + 1).read_to_string(&mut text),
        file => File::open(Path::new(file))?.take(MAX_TEXT + 1).read_to_string(&mut text),
    };
    if read? as u64 > MAX_TEXT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 512 KiB, which no entry may be",
        ));
    }
    Ok(text)
}

/// As much as a key of the store may have.
const MAX_TEXT: u64 = 512 << 10;

/// Removes it.
pub(super) fn remove(args: &RmArgs, place: &str) -> ExitCode {
    args.writing.tell(args.admin.delete(&args.writing.path(place, &args.name)))
}

/// What is left out, and why; nothing if nothing is.
pub(super) fn left_out(told: &Value) -> String {
    let rows: Vec<[String; 3]> = told["quarantined"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| [word(&item["name"]), item["revision"].to_string(), word(&item["reason"])])
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        format!("\nleft out:\n{}", columns(["NAME", "REVISION", "REASON"], &rows))
    }
}

/// Says that something here went wrong.
#[expect(clippy::print_stderr, reason = "what went wrong is told there")]
pub(super) fn failed(what: &str) -> ExitCode {
    eprintln!("error: {what}");
    ExitCode::from(exit::FAILED)
}

/// Several lines without what a terminal would take for commands.
pub(super) fn lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

/// Where an item is from: `file`, or `store@17`.
pub(super) fn from(item: &Value) -> String {
    match item["revision"].as_u64() {
        Some(revision) => format!("{}@{revision}", word(&item["from"])),
        None => word(&item["from"]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_written_where_its_name_says() {
        let writing = Writing { cas: Some(7), output: Output::Text };
        assert_eq!(writing.path("/v1/routes", "a/b ü"), "/v1/routes/a/b%20%C3%BC?if_revision=7");
        assert_eq!(Writing { cas: None, ..writing }.path("/v1/routes", "a?b"), "/v1/routes/a%3Fb");
    }

    #[test]
    fn what_is_left_out_is_named_with_the_reason() {
        assert_eq!(left_out(&json!({ "quarantined": [] })), "");
        let told = json!({ "quarantined": [{ "name": "a", "revision": 3, "reason": "OR201: no\u{1b}" }] });
        assert_eq!(
            left_out(&told),
            "\nleft out:\nNAME  REVISION  REASON\na     3         OR201: no \n".replace(" \n", "\n")
        );
    }
}
