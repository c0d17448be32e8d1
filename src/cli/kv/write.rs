//! `kv put`, `kv rm` and `kv txn`.

use std::{
    io::{self, IsTerminal as _, Read, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Failure, Going, Held, Reading, at_level, path, set_value, tell_session};
use crate::cli::{
    Output,
    admin::{AdminArgs, printable},
    exit,
};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  outrigger kv put limits/web '{\"per_second\": 100}'\n  outrigger kv put motd @motd.txt --ttl 1h\n  \
                  date | outrigger kv put last-run -\n  outrigger kv put limits/web 200 --cas 17"
)]
pub(super) struct PutArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Only if the last change of the key was at this revision; 0: only if it is not there
    #[arg(long, value_name = "REVISION")]
    cas: Option<u64>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    going: Going,
    /// How long the key stays, from 1s to 24h. Default: until it is removed
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// It goes when this lease ends (`kv lease`)
    #[arg(long, value_name = "LEASE", conflicts_with = "ttl")]
    lease: Option<u64>,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Which
    key: String,
    /// To what: a text, `@FILE` or `-` for standard input, both byte by byte
    #[arg(allow_negative_numbers = true)]
    value: String,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "A key that is not there is exit code 5.\n\n\
                  Examples:\n  outrigger kv rm limits/web\n  outrigger kv rm limits/web --cas 17")]
pub(super) struct RmArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Only if the last change of the key was at this revision
    #[arg(long, value_name = "REVISION")]
    cas: Option<u64>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    going: Going,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Which
    key: String,
}

#[derive(clap::Args, Debug)]
#[command(after_help = "The file says what must hold, what is done then, and what is done otherwise:\n\n  \
                  {\"if\":   [{\"key\": \"lock\", \"revision\": 0}],\n   \
                  \"then\": [{\"put\": {\"key\": \"lock\", \"value\": \"me\", \"ttl\": \"30s\"}}],\n   \
                  \"else\": [{\"get\": \"lock\"}]}\n\n\
                  Compared are `revision`, `created`, `version` or `value` (all 0 or empty if the key is not there), `relation`\n\
                  is `equal`, `not_equal`, `less` or `greater`. Done are `get`, `put`, `delete` and `delete_prefix`.\n\n\
                  Exit codes besides the others: 0 `then` was done, 7 `else` was done.\n\n\
                  Examples:\n  outrigger kv txn -f lock.json\n  echo '{\"then\": [{\"delete_prefix\": \"old/\"}]}' | outrigger kv txn -f -")]
pub(super) struct TxnArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// File with the transaction in JSON, `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Sets a key.
pub(super) fn put(args: &PutArgs) -> Result<ExitCode, Failure> {
    let mut body = json!({ "key": args.key });
    set_value(&mut body, &value(&args.value)?);
    if let Some(ttl) = args.ttl {
        body["ttl"] = humantime::format_duration(ttl).to_string().into();
    }
    if let Some(lease) = args.lease {
        body["lease"] = lease.into();
    }
    if let Some(revision) = args.cas {
        body["if_revision"] = revision.into();
    }
    let level = args.reading.level();
    let parameters: Vec<_> = at_level(level.as_deref()).into_iter().chain(args.going.parameter()).collect();
    let written = args.admin.put(&path(&parameters), &body)?;
    tell(&written, args.output, &at(&written))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes a key.
#[expect(clippy::print_stderr, reason = "what went wrong is told there")]
pub(super) fn remove(args: &RmArgs) -> Result<ExitCode, Failure> {
    let revision = args.cas.map(|revision| revision.to_string());
    let level = args.reading.level();
    let mut parameters = vec![("key", args.key.as_str())];
    parameters.extend(revision.as_deref().map(|revision| ("if_revision", revision)));
    parameters.extend(at_level(level.as_deref()).into_iter().chain(args.going.parameter()));
    let removed = args.admin.delete(&path(&parameters))?;
    if removed["deleted"] == false {
        eprintln!("error: there is no key `{}`", printable(&args.key));
        return Ok(ExitCode::from(exit::NOT_FOUND));
    }
    tell(&removed, args.output, &at(&removed))?;
    Ok(ExitCode::SUCCESS)
}

/// Carries out a transaction.
pub(super) fn transact(args: &TxnArgs) -> Result<ExitCode, Failure> {
    let bytes = match args.file.as_str() {
        "-" => from_stdin()?,
        file => from_file(Path::new(file))?,
    };
    let body: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::Here(format!("the transaction is no JSON: {error}")))?;
    let done = args.admin.order("/v1/kv", &body)?;
    tell(&done, args.output, &transacted(&done))?;
    Ok(if done["held"] == true { ExitCode::SUCCESS } else { ExitCode::from(exit::CONFLICT) })
}

/// What a transaction brought, one line for each thing that was done.
pub(super) fn transacted(done: &Value) -> String {
    let which = if done["held"] == true { "held: `then` was done" } else { "did not hold: `else` was done" };
    let mut text = format!("{which}, revision {}\n", done["revision"]);
    for result in done["results"].as_array().into_iter().flatten() {
        let kinds = ["get", "put", "delete", "delete_prefix"];
        let kind = kinds.into_iter().find(|kind| result[kind].is_string()).unwrap_or("-");
        let key = printable(result[kind].as_str().unwrap_or_default());
        let what = match (&result["found"], result["deleted"].as_u64()) {
            (_, Some(keys)) => format!(": {keys} removed"),
            (Value::Object(_), None) => {
                Held::of(&result["found"]).map_or(String::new(), |held| format!(": {}", held.shown(1000)))
            }
            _ if kind == "get" => ": not there".to_owned(),
            _ => String::new(),
        };
        text.push_str(&format!("{kind} {key}{what}\n"));
    }
    text
}

/// At what it was written.
fn at(written: &Value) -> String {
    match written["stamp"].as_str() {
        Some(stamp) => format!("stamp {stamp}\n"),
        None => format!("revision {}\n", written["revision"]),
    }
}

fn tell(document: &Value, output: Output, text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let told = match output {
        Output::Json => writeln!(stdout, "{document:#}"),
        Output::Text => {
            tell_session(document);
            stdout.write_all(text.as_bytes())
        }
    };
    told.and_then(|()| stdout.flush()).map_err(|_| Failure::Unheard)
}

/// The bytes that an argument stands for.
pub(super) fn value(argument: &str) -> Result<Vec<u8>, Failure> {
    match argument.strip_prefix('@') {
        _ if argument == "-" => from_stdin(),
        Some(file) => from_file(Path::new(file)),
        None => Ok(argument.as_bytes().to_vec()),
    }
}

#[expect(clippy::print_stderr, reason = "whoever is waited for is told so")]
fn from_stdin() -> Result<Vec<u8>, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        eprintln!("reading from standard input");
    }
    bounded(stdin, "standard input")
}

fn from_file(file: &Path) -> Result<Vec<u8>, Failure> {
    let opened = std::fs::File::open(file)
        .map_err(|error| Failure::Here(format!("cannot read {}: {error}", file.display())))?;
    bounded(opened, &file.display().to_string())
}

fn bounded(source: impl Read, place: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = source.take(MAX_INPUT + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::Here(format!("cannot read {place}: {error}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Failure::Here(format!("{place} has more than 1 MiB, which no request may have")));
    }
    Ok(bytes)
}

/// Largest input: what the admin API takes as a body.
const MAX_INPUT: u64 = 1 << 20;
