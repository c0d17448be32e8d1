//! `kv export` and `kv import`: many keys as JSON lines, `{"key": ..., "value": ...}` or with `value_base64`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{Failure, Going, Held, Reading, pages, set_value};
use crate::cli::admin::{AdminArgs, AskError};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Keys are read in pages: one that changes meanwhile is told as it was when its page was read. Keys that go with a\n\
                  lease are told with its number; `kv import` leaves them out.\n\n\
                  Examples:\n  outrigger kv export > store.jsonl\n  outrigger kv export limits/ | outrigger kv import -a other:15000"
)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    reading: Reading,
    /// Only keys that begin so
    #[arg(default_value = "")]
    prefix: String,
}

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Keys are put one by one, whatever they have; the first that fails ends it. It can be given again. Keys with a\n\
                  lease are left out: whoever held it does not hold it here.\n\n\
                  Examples:\n  outrigger kv import store.jsonl\n  outrigger kv import < store.jsonl"
)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// File with one document a line, `-` for standard input
    #[arg(default_value = "-")]
    file: String,
}

/// Prints all keys.
pub(super) fn export(args: &ExportArgs) -> Result<ExitCode, Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    pages(&args.admin, &args.prefix, args.reading, &Going { session: None }, |item| {
        writeln!(stdout, "{}", exported(item)).map_err(|_| Failure::Unheard)
    })?;
    stdout.flush().map_err(|_| Failure::Unheard)?;
    Ok(ExitCode::SUCCESS)
}

/// A key as it stands in a line.
pub(super) fn exported(item: &Value) -> Value {
    let mut line = json!({ "key": item["key"] });
    for name in ["value", "value_base64", "lease"] {
        if !item[name].is_null() {
            line[name] = item[name].clone();
        }
    }
    line
}

/// Sets all keys of a file.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what the command says is its output")]
pub(super) fn import(args: &ImportArgs) -> Result<ExitCode, Failure> {
    let mut source: Box<dyn BufRead> = match args.file.as_str() {
        "-" => {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                eprintln!("reading from standard input");
            }
            Box::new(stdin.lock())
        }
        file => {
            let opened = File::open(file);
            Box::new(BufReader::new(
                opened.map_err(|error| Failure::Here(format!("cannot read {file}: {error}")))?,
            ))
        }
    };
    let (came, failure) = put_all(&mut *source, |body| args.admin.put("/v1/kv", body).map(|_| ()));
    println!("{}", came.told());
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// How many lines came to what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Imported {
    pub(super) put: usize,
    /// Left out for their lease.
    pub(super) leased: usize,
}

impl Imported {
    pub(super) fn told(&self) -> String {
        let keys = if self.put == 1 { "key" } else { "keys" };
        match self.leased {
            0 => format!("{} {keys} imported", self.put),
            leased => format!("{} {keys} imported, {leased} with a lease left out", self.put),
        }
    }
}

/// Gives each line to `put`, up to the first that fails.
pub(super) fn put_all(
    source: &mut dyn BufRead,
    mut put: impl FnMut(&Value) -> Result<(), AskError>,
) -> (Imported, Option<Failure>) {
    let mut came = Imported::default();
    for number in 1_usize.. {
        let read = line(source).and_then(|line| line.map(|text| body(&text)).transpose());
        let body = match read {
            Ok(None) => break,
            Ok(Some(Line::Empty)) => continue,
            Ok(Some(Line::Leased)) => {
                came.leased += 1;
                continue;
            }
            Ok(Some(Line::Put(body))) => body,
            Err(what) => return (came, Some(Failure::Here(format!("line {number}: {what}")))),
        };
        if let Err(error) = put(&body) {
            return (came, Some(Failure::Line(number, error)));
        }
        came.put += 1;
    }
    (came, None)
}

/// What a line says.
enum Line {
    Put(Value),
    Leased,
    Empty,
}

/// The next line; `None` at the end.
fn line(source: &mut dyn BufRead) -> Result<Option<Vec<u8>>, String> {
    let mut text = Vec::new();
    let read = source.take(MAX_LINE + 1).read_until(b'\n', &mut text);
    match read.map_err(|error| format!("cannot be read: {error}"))? {
        0 => Ok(None),
        length if length as u64 > MAX_LINE => Err("longer than any key and value".to_owned()),
        _ => Ok(Some(text)),
    }
}

fn body(line: &[u8]) -> Result<Line, String> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(Line::Empty);
    }
    let expected = "expected {\"key\": ..., \"value\" or \"value_base64\": ...}";
    let written: Value = serde_json::from_slice(line).map_err(|error| format!("{expected}: {error}"))?;
    let Value::Object(members) = &written else { return Err(expected.to_owned()) };
    if members.get("lease").is_some_and(|lease| !lease.is_null()) {
        return Ok(Line::Leased);
    }
    // Only what an export writes: a line may not bring a condition along, or a misspelt value.
    let is_known = |name: &String| ["key", "value", "value_base64", "lease"].contains(&name.as_str());
    match members.keys().find(|name| !is_known(name)) {
        Some(name) => Err(format!("{expected}, and no `{}`", crate::cli::admin::printable(name))),
        None => {
            let mut body = json!({ "key": written["key"] });
            match Held::of(&written).ok_or_else(|| expected.to_owned())? {
                Held::Text(text) => set_value(&mut body, text.as_bytes()),
                Held::Bytes(bytes) => set_value(&mut body, &bytes),
            }
            Ok(Line::Put(body))
        }
    }
}

/// Longest line: a value that is escaped to six times its size, and its key.
const MAX_LINE: u64 = 4 << 20;
