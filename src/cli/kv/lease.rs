//! `kv lease`: keys that are bound to a lease go when nobody keeps it alive.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Failure, watch::may_pass};
use crate::{
    cli::{Output, admin::AdminArgs},
    rt::clock,
};

#[derive(clap::Args, Debug)]
#[command(after_help = "A lease that nobody keeps alive ends, and the keys that were put with it go.\n\n\
                  Examples:\n  lease=$(outrigger kv lease grant 30s)\n  outrigger kv put leader me --lease \"$lease\" --cas 0\n  \
                  outrigger kv lease keep-alive \"$lease\"\n  outrigger kv lease revoke \"$lease\"")]
pub(super) struct LeaseArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Grant a lease, and print its number
    Grant(GrantArgs),
    /// Keep a lease alive until interrupted; exit code 5 when it has ended
    KeepAlive(KeepAliveArgs),
    /// End a lease now, and remove its keys
    Revoke(RevokeArgs),
}

#[derive(clap::Args, Debug)]
struct GrantArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// How long it lasts after it was kept alive last, from 1s to 24h
    #[arg(value_parser = humantime::parse_duration)]
    ttl: Duration,
}

#[derive(clap::Args, Debug)]
#[command(
    after_help = "It is kept alive three times in its life. When the sidecar or the quorum is away, it is tried on until the\n\
                  lease must have ended."
)]
struct KeepAliveArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Once, and not until interrupted
    #[arg(long)]
    once: bool,
    /// `text`, or `json`: one document a line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Its number
    lease: u64,
}

#[derive(clap::Args, Debug)]
struct RevokeArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Its number
    lease: u64,
}

/// Runs the command.
pub(super) fn lease(args: &LeaseArgs) -> Result<ExitCode, Failure> {
    match &args.action {
        Action::Grant(args) => {
            let ttl = humantime::format_duration(args.ttl).to_string();
            let granted = args.admin.order(PLACE, &json!({ "ttl": ttl }))?;
            tell(args.output, &granted, &granted["lease"].to_string())
        }
        Action::KeepAlive(args) => keep_alive(args),
        Action::Revoke(args) => {
            let revoked = args.admin.delete(&of(args.lease))?;
            tell(args.output, &revoked, &format!("{} keys removed", revoked["keys"]))
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn keep_alive(args: &KeepAliveArgs) -> Result<(), Failure> {
    let mut end = None;
    loop {
        let asked = clock::now();
        let pause = match args.admin.put_text(&of(args.lease), String::new()) {
            Ok(kept) => {
                let seconds = kept["ttl_seconds"].as_f64();
                let ttl = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                let ttl = ttl.ok_or_else(|| Failure::Here("the sidecar told no `ttl_seconds`".to_owned()))?;
                tell(
                    args.output,
                    &kept,
                    &format!("lease {} lasts {}", args.lease, humantime::format_duration(ttl)),
                )?;
                end = Some(asked.after(ttl));
                ttl / 3
            }
            // It has not ended for that.
            Err(error) if end.is_some_and(|end| clock::now() < end) && may_pass(&error) => {
                error.tell();
                PAUSE
            }
            Err(error) => return Err(error.into()),
        };
        if args.once {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
}

fn tell(output: Output, document: &Value, text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let told = match output {
        Output::Json => writeln!(stdout, "{document}"),
        Output::Text => writeln!(stdout, "{text}"),
    };
    told.and_then(|()| stdout.flush()).map_err(|_| Failure::Unheard)
}

fn of(lease: u64) -> String {
    format!("{PLACE}/{lease}")
}

const PLACE: &str = "/v1/kv/leases";
/// How long after a failure it asks again.
const PAUSE: Duration = Duration::from_millis(500);
