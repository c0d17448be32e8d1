//! `kv watch`: changes as they come. A connection that is lost loses none: the next one begins after the last revision that
//! was told.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;

use super::{Failure, Held, Reading, at_level, path, shown_key};
use crate::cli::{
    Output,
    admin::{AdminArgs, AskError, printable},
};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "One line for each change: its revision, `put` or `delete`, the key, the value, and by whom. When the sidecar starts again or\n\
                  the store has no quorum, it goes on by itself where it was. It ends with exit code 1 if changes were\n\
                  forgotten before it could tell them.\n\n\
                  Examples:\n  outrigger kv watch limits/\n  outrigger kv watch '' --after 17 -o json"
)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    reading: Reading,
    /// Tell what has changed since this revision. Default: from now on
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,
    /// `text`, or `json`: one document a line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Keys that begin so
    prefix: String,
}

/// Prints changes until interrupted, or until nobody reads any more.
pub(super) fn watch(args: &WatchArgs) -> Result<ExitCode, Failure> {
    let mut stdout = io::stdout();
    let mut after = match args.after {
        Some(after) => after,
        None => {
            let level = args.reading.level();
            let mut parameters = vec![("prefix", &*args.prefix), ("limit", "1")];
            parameters.extend(at_level(level.as_deref()));
            revision(&args.admin.get(&path(&parameters))?)?
        }
    };
    // Until it was answered once, whatever goes wrong is a mistake of whoever asks.
    let mut was_answered = args.after.is_none();
    let mut is_lost = false;
    loop {
        let text = after.to_string();
        let asked = path(&[("watch", &args.prefix), ("after", &text), ("wait", WAIT_TEXT)]);
        match args.admin.wait_for(&asked, WAIT) {
            Ok(told) => {
                (was_answered, is_lost) = (true, false);
                for item in told["items"].as_array().into_iter().flatten() {
                    writeln!(stdout, "{}", line(item, args.output)).map_err(|_| Failure::Unheard)?;
                }
                stdout.flush().map_err(|_| Failure::Unheard)?;
                after = after.max(revision(&told)?);
            }
            Err(error) if was_answered && may_pass(&error) => {
                if !is_lost {
                    error.tell();
                }
                is_lost = true;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the same request may be answered soon.
pub(super) fn may_pass(error: &AskError) -> bool {
    match error {
        AskError::Unreachable(..) | AskError::NoSidecar(..) => true,
        AskError::Refused(status, _) => matches!(status, 503 | 504),
        AskError::Token(..) | AskError::Closed(_) | AskError::Invalid(_) => false,
    }
}

fn revision(document: &Value) -> Result<u64, Failure> {
    let revision = document["revision"].as_u64();
    revision.ok_or_else(|| {
        Failure::Here(
            "the sidecar told no revision; keyspaces that are kept by quorum cannot be watched".to_owned(),
        )
    })
}

/// A change as it is printed.
pub(super) fn line(item: &Value, output: Output) -> String {
    if output == Output::Json {
        return item.to_string();
    }
    let (change, key) = (printable(item["change"].as_str().unwrap_or("-")), shown_key(item));
    let value = Held::of(item).map(|held| format!(" {}", held.shown(LONGEST_VALUE))).unwrap_or_default();
    let author = item["author"].as_str().map_or_else(String::new, |who| format!("  by {}", printable(who)));
    format!("{} {change} {key}{value}{author}", item["revision"])
}

/// How long one request waits for a change.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_TEXT: &str = "30s";
/// How long after a failure it asks again.
const PAUSE: Duration = Duration::from_secs(1);
/// Characters of a value in a line.
const LONGEST_VALUE: usize = 1000;
