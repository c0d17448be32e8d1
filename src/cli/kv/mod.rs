//! `outrigger kv`: the replicated store from the command line, through the admin API of a sidecar. Here are the verbs and
//! what they share; reading, writing, watching and moving many keys have files of their own.

mod lease;
mod read;
#[cfg(test)]
mod tests;
mod transfer;
mod watch;
mod write;

use std::process::ExitCode;

use serde_json::Value;

use super::{
    admin::{AdminArgs, AskError},
    exit,
};
use crate::admin::base64;

/// Read and write the replicated store
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 4 the sidecar cannot be reached, 5 no such key or lease, or no store, 6 it\n\
                  denies access, 7 a comparison does not hold, 8 the store did not answer in time: a write may have happened.\n\n\
                  Examples:\n  outrigger kv put limits/web '{\"per_second\": 100}'\n  outrigger kv put motd @motd.txt --ttl 1h\n  \
                  outrigger kv get limits/web --consistency eventual\n  outrigger kv put limits/web 200 --cas 17\n  \
                  outrigger kv ls limits/\n  \
                  outrigger kv get sessions/4711 --consistency session --session \"$TOKEN\"\n  outrigger kv watch limits/\n  outrigger kv export > store.jsonl"
)]
pub(super) struct KvArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Print the value of a key
    Get(read::GetArgs),
    /// Set a key
    Put(write::PutArgs),
    /// Remove a key
    Rm(write::RmArgs),
    /// List keys
    Ls(read::ListArgs),
    /// Print changes as they come, until interrupted
    Watch(watch::WatchArgs),
    /// Compare, then do one of two things, all at one moment
    Txn(write::TxnArgs),
    /// Grant a lease that keys can go with, keep it alive, end it
    Lease(lease::LeaseArgs),
    /// Print keys and values as JSON lines
    Export(transfer::ExportArgs),
    /// Set keys from JSON lines, one by one
    Import(transfer::ImportArgs),
}

/// Runs the command.
pub(super) fn kv(args: &KvArgs) -> ExitCode {
    let done = match &args.action {
        Action::Get(args) => read::get(args),
        Action::Put(args) => write::put(args),
        Action::Rm(args) => write::remove(args),
        Action::Ls(args) => read::list(args),
        Action::Watch(args) => watch::watch(args),
        Action::Txn(args) => write::transact(args),
        Action::Lease(args) => lease::lease(args),
        Action::Export(args) => transfer::export(args),
        Action::Import(args) => transfer::import(args),
    };
    done.unwrap_or_else(|failure| failure.tell())
}

/// Why a verb failed.
#[derive(Debug)]
enum Failure {
    /// The sidecar did not do it.
    Ask(AskError),
    /// The sidecar did not do it for this line of a file.
    Line(usize, AskError),
    /// Something here went wrong: what, why.
    Here(String),
    /// Nobody reads any more what is printed.
    Unheard,
}

impl Failure {
    /// Writes it to standard error; what the process exits with.
    #[expect(clippy::print_stderr, reason = "what went wrong is told there")]
    fn tell(&self) -> ExitCode {
        match self {
            Self::Ask(error) => {
                error.tell();
                error.code()
            }
            Self::Line(number, error) => {
                eprintln!("error: line {number}: {error}");
                error.code()
            }
            Self::Here(what) => {
                eprintln!("error: {what}");
                ExitCode::from(exit::FAILED)
            }
            Self::Unheard => ExitCode::SUCCESS,
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::Ask(error)
    }
}

/// What a call takes for good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consistency {
    /// What was last written, by whomever.
    Strong,
    /// The same, as long as no clock runs far too fast or slow; cheaper.
    Lease,
    /// Of a keyspace in `store.keyspaces`: what the last confirmed quorum write wrote, or something later.
    Quorum,
    /// Of a keyspace in `store.keyspaces`: nothing older than what the same session has seen.
    Session,
    /// What the sidecar, or one replica, has, however old; also without a quorum.
    Eventual,
    /// What the sidecar has, if it is no older than so.
    Within(std::time::Duration),
}

impl std::str::FromStr for Consistency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "strong" => Ok(Self::Strong),
            "lease" => Ok(Self::Lease),
            "quorum" => Ok(Self::Quorum),
            "session" => Ok(Self::Session),
            "eventual" => Ok(Self::Eventual),
            other => {
                let age = other.strip_prefix("within:").and_then(|age| humantime::parse_duration(age).ok());
                age.map(Self::Within).ok_or_else(|| {
                    "expected strong, lease, quorum, session, eventual or within:DURATION, as within:5s"
                        .to_owned()
                })
            }
        }
    }
}

/// How keys are read.
#[derive(clap::Args, Clone, Copy, Debug)]
struct Reading {
    /// `strong`: what was last written; `lease`: the same if clocks are sound; `within:5s`: as it was at most so long
    /// ago; `eventual`: what the sidecar has. Of a keyspace in `store.keyspaces` `quorum`, `session` or `eventual`.
    /// Default: `strong`, or the level of the keyspace
    #[arg(long, value_name = "LEVEL")]
    consistency: Option<Consistency>,
}

impl Reading {
    fn level(self) -> Option<String> {
        Some(match self.consistency? {
            Consistency::Strong => "strong".to_owned(),
            Consistency::Lease => "lease".to_owned(),
            Consistency::Quorum => "quorum".to_owned(),
            Consistency::Session => "session".to_owned(),
            Consistency::Eventual => "eventual".to_owned(),
            Consistency::Within(age) => {
                format!("within:{}", humantime::format_duration(age).to_string().replace(' ', ""))
            }
        })
    }
}

/// The parameter of a level, if one is asked for.
fn at_level(level: Option<&str>) -> Option<(&'static str, &str)> {
    level.map(|level| ("level", level))
}

/// Which session a call goes on with.
#[derive(clap::Args, Clone, Debug)]
struct Going {
    /// The session that the last call told; without one, `--consistency session` begins one
    #[arg(long, value_name = "TOKEN")]
    session: Option<String>,
}

impl Going {
    fn parameter(&self) -> Option<(&'static str, &str)> {
        self.session.as_deref().map(|session| ("session", session))
    }
}

/// Says which session goes on, apart from what is printed of the call itself.
#[expect(clippy::print_stderr, reason = "standard output has the value alone")]
fn tell_session(told: &Value) {
    if let Some(session) = told["session"].as_str() {
        eprintln!("session: {session}");
    }
}

/// Where the store is at, with a query of these parameters.
fn path(parameters: &[(&str, &str)]) -> String {
    let query: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    format!("/v1/kv?{}", query.join("&"))
}

/// Percent-encodes all that is not unreserved (RFC 3986 §2.3), but for the slash, which means nothing in a query and which
/// keys have.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// All keys that begin so, page by page: each is given to `each` as it comes. Keys that change meanwhile are told as they
/// were when their page was read.
fn pages(
    admin: &AdminArgs,
    prefix: &str,
    reading: Reading,
    going: &Going,
    mut each: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after: Option<String> = None;
    loop {
        let level = reading.level();
        let mut parameters = vec![("prefix", prefix)];
        parameters.extend(at_level(level.as_deref()).into_iter().chain(going.parameter()));
        parameters.extend(after.as_deref().map(|after| ("after", after)));
        let page = admin.get(&path(&parameters))?;
        for item in page["items"].as_array().into_iter().flatten() {
            each(item)?;
        }
        match page["next"].as_str() {
            Some(next) if after.as_deref() != Some(next) => after = Some(next.to_owned()),
            _ => return Ok(()),
        }
    }
}

/// A key without what a terminal would take for commands.
fn shown_key(item: &Value) -> String {
    let text = item["key"].as_str().unwrap_or("-");
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// A value as it stands in a document.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    Text(String),
    Bytes(Vec<u8>),
}

impl Held {
    /// That of a key, or of a change; `None` if there is none.
    fn of(item: &Value) -> Option<Self> {
        if let Some(text) = item["value"].as_str() {
            return Some(Self::Text(text.to_owned()));
        }
        item["value_base64"].as_str().and_then(base64::decode).map(Self::Bytes)
    }

    /// How it stands in a line or a column: at most `most` characters.
    fn shown(&self, most: usize) -> String {
        match self {
            Self::Text(text) => {
                let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
                let mut shown: String = text.chars().take(most).map(plain).collect();
                if text.chars().nth(most).is_some() {
                    shown.push('…');
                }
                shown
            }
            Self::Bytes(bytes) => format!("({} bytes)", bytes.len()),
        }
    }
}

/// Adds a value to a body: as text if it is one. Text that is mostly escapes would be longer than the admin API takes.
fn set_value(body: &mut Value, bytes: &[u8]) {
    let base64 = base64::encode(bytes);
    match std::str::from_utf8(bytes).map(Value::from) {
        Ok(text) if text.to_string().len() <= base64.len() + 2 + SHORT => body["value"] = text,
        Ok(_) | Err(_) => body["value_base64"] = base64.into(),
    }
}

/// So many bytes longer text may be than base64: short values are more useful to people.
const SHORT: usize = 4 << 10;
