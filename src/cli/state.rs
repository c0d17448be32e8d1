//! `outrigger state`: what all sidecars share, looked back at and put back. How it is shown is in `shown`.

mod shown;

use std::{process::ExitCode, str::FromStr, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Output,
    admin::{AdminArgs, AskError},
    kv::encoded,
};
use crate::{
    config::{Record, shared_yaml},
    rt::clock,
};

/// Look back at what all sidecars share, and put it back
#[derive(clap::Args, Debug)]
#[command(
    after_help = "A moment is a revision, a time (`2026-01-31T14:02:00Z`), or how long ago (`10m`).\n\n\
                  Exit codes: 0 done, 1 failed, also: forgotten, 2 wrong usage, 3 what was there does not fit now, 4 the sidecar\n\
                  cannot be reached, 5 no such revision or entry, or no store, 6 it denies access, 7 somebody changed it\n\
                  meanwhile, 8 not in time: a revert may have happened.\n\n\
                  Examples:\n  outrigger state at 17\n  outrigger state at 10m -o json\n  outrigger state diff 1h\n  \
                  outrigger state diff 17 23\n  outrigger state log\n  outrigger state revert 17 --dry-run\n  \
                  outrigger state revert 17 --only routes/canary"
)]
pub(super) struct StateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Print everything that is shared as it was, or is
    At(AtArgs),
    /// Print what has changed between two moments, by whom and when
    Diff(DiffArgs),
    /// Print who has changed what, the latest first
    Log(LogArgs),
    /// Put back what was shared at a revision, all at one moment
    Revert(RevertArgs),
}

/// How a state is written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For people, and for files
    Yaml,
    /// For tools: one document
    Json,
}

#[derive(clap::Args, Debug)]
struct AtArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `yaml` or `json`
    #[arg(short, long, value_enum, default_value_t = Form::Yaml)]
    output: Form,
    /// When. Default: now
    #[arg(value_name = "MOMENT")]
    at: Option<Moment>,
}

#[derive(clap::Args, Debug)]
struct DiffArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Since when
    #[arg(value_name = "MOMENT")]
    from: Moment,
    /// Until when. Default: now
    #[arg(value_name = "MOMENT")]
    to: Option<Moment>,
}

#[derive(clap::Args, Debug)]
struct LogArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// At most so many changes
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

#[derive(clap::Args, Debug)]
#[command(
    after_help = "What differs is written back in one transaction, which holds only if nobody has changed any of it since it was\n\
                  read. To be sure of what a `--dry-run` has shown, give the revision that it names: `--cas REVISION`."
)]
struct RevertArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Only this entry (`routes/canary`), or all of a kind (`routes/`); may be given several times
    #[arg(long, value_name = "KEY")]
    only: Vec<String>,
    /// Only if none of it was changed after this revision
    #[arg(long, value_name = "REVISION")]
    cas: Option<u64>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// As it was then
    revision: u64,
}

/// When: as the admin API is asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Moment {
    /// A revision or a time.
    Named(String),
    Ago(Duration),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_revision = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_revision || humantime::parse_rfc3339_weak(text).is_ok() {
            return Ok(Self::Named(text.to_owned()));
        }
        let ago = humantime::parse_duration(text);
        ago.map(Self::Ago).map_err(|_| {
            "expected a revision, a time as in 2026-01-31T14:02:00Z, or how long ago, as in 10m".into()
        })
    }
}

impl Moment {
    fn parameter(&self) -> String {
        match self {
            Self::Named(text) => encoded(text),
            Self::Ago(ago) => {
                let then = clock::wall().checked_sub(*ago).filter(|then| *then >= std::time::UNIX_EPOCH);
                let then = then.unwrap_or(std::time::UNIX_EPOCH);
                encoded(&humantime::format_rfc3339_millis(then).to_string())
            }
        }
    }
}

/// Runs the command.
#[expect(clippy::print_stdout, reason = "printing is what the verb is for")]
pub(super) fn state(args: &StateArgs) -> ExitCode {
    let told = match &args.action {
        Action::At(args) => at(args),
        Action::Diff(args) => diff(args),
        Action::Log(args) => log(args),
        Action::Revert(args) => revert(args),
    };
    match told {
        Ok(told) => {
            print!("{told}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error.tell();
            error.code()
        }
    }
}

fn at(args: &AtArgs) -> Result<String, AskError> {
    let query = args.at.as_ref().map_or_else(String::new, |at| format!("?at={}", at.parameter()));
    let told = args.admin.get(&format!("/v1/state{query}"))?;
    Ok(match args.output {
        Form::Json => format!("{told:#}\n"),
        Form::Yaml => {
            let records: Vec<Record> = items(&told).filter_map(record).collect();
            format!("# revision {}\n{}", told["revision"], shared_yaml(&records))
        }
    })
}

fn record(item: &Value) -> Option<Record> {
    let text = item["value"].as_str().unwrap_or_default();
    Record::of_key(item["key"].as_str()?, Bytes::copy_from_slice(text.as_bytes()))
}

fn diff(args: &DiffArgs) -> Result<String, AskError> {
    let to = args.to.as_ref().map_or_else(String::new, |to| format!("&to={}", to.parameter()));
    let told = args.admin.get(&format!("/v1/state/diff?from={}{to}", args.from.parameter()))?;
    Ok(output(args.output, &told, shown::diff))
}

fn log(args: &LogArgs) -> Result<String, AskError> {
    let told = args.admin.get(&format!("/v1/state/log?limit={}", args.limit))?;
    Ok(output(args.output, &told, shown::log))
}

fn revert(args: &RevertArgs) -> Result<String, AskError> {
    let order = json!({
        "revision": args.revision,
        "only": args.only,
        "if_revision": args.cas,
        "dry_run": args.dry_run,
    });
    let told = args.admin.order("/v1/state/revert", &order)?;
    Ok(output(args.output, &told, shown::revert))
}

fn output(output: Output, told: &Value, text: fn(&Value) -> String) -> String {
    match output {
        Output::Json => format!("{told:#}\n"),
        Output::Text => text(told),
    }
}

fn items(told: &Value) -> impl Iterator<Item = &Value> {
    told["items"].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_revisions_times_and_how_long_ago() {
        for (text, asked) in [("17", "17"), ("2026-01-31T14:02:00Z", "2026-01-31T14%3A02%3A00Z")] {
            assert_eq!(text.parse::<Moment>().unwrap().parameter(), asked);
        }
        assert_eq!("10m".parse(), Ok(Moment::Ago(Duration::from_secs(600))));
        let ago = Moment::Ago(Duration::from_secs(u64::MAX)).parameter();
        assert_eq!(ago, "1970-01-01T00%3A00%3A00.000Z");
        for bad in ["", "-1", "yesterday", "14:02"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}
