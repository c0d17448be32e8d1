//! `outrigger run`.

use std::{path::PathBuf, process::ExitCode};

use super::exit;
use crate::app::{self, RunError, RunParams};

/// Run the sidecar
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Signals: SIGHUP reloads, SIGUSR1 reopens the access log, SIGTERM and SIGINT drain and end,\n\
                        a second one ends at once.\n\n\
                        Exit codes: 0 ended as told, 1 could not start, 2 wrong usage, 3 invalid configuration."
)]
pub(super) struct RunArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/outrigger/outrigger.yaml")]
    config: PathBuf,
    /// Data-plane threads; wins over the file. Default: one per core
    #[arg(long, value_name = "N", env = "OUTRIGGER_WORKERS", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Level of the log, as `debug` or `info,outrigger::proxy=debug`; wins over the file
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Runs until a signal ends it.
#[expect(clippy::print_stderr, reason = "the log may not exist yet when the sidecar cannot start")]
pub(super) fn run(args: &RunArgs) -> ExitCode {
    let params = RunParams {
        config: args.config.clone(),
        workers: args.workers.map(usize::from),
        log_level: args.log_level.clone(),
    };
    match app::run(&params) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Invalid(findings)) => {
            eprintln!("{findings}");
            eprintln!("error: {} is invalid; the sidecar does not start", args.config.display());
            ExitCode::from(exit::INVALID)
        }
        Err(error) => {
            let mut text = format!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                let more = source.to_string();
                if !text.ends_with(&more) {
                    text.push_str(": ");
                    text.push_str(&more);
                }
                cause = source.source();
            }
            eprintln!("{text}");
            if matches!(error, RunError::Unreadable { .. }) {
                eprintln!("hint: name the file with --config FILE; config/minimal.yaml is one to start from");
            }
            ExitCode::from(exit::FAILED)
        }
    }
}
