//! `outrigger demo`, and the hidden `outrigger demo-app` that it starts.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use http::HeaderValue;

use super::exit;
use crate::app::demo::{self, ApplicationParams, DemoParams, Verdict};

/// Show the job with real processes on this machine
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Starts three instances of a small application, each behind its own sidecar, and a client's sidecar\n\
                  in front, which find each other by gossip; sends a steady load through it, kills one instance and\n\
                  brings it back, lets one answer with errors and one be slow, and counts what failed. Prints how to\n\
                  see the members, and how to add an instance by hand. Everything is on loopback, on free ports, and\n\
                  gone at the end.\n\n\
                  Signals: SIGINT and SIGTERM end the show; the closing table is printed.\n\n\
                  Exit codes: 0 no request failed, 1 some did or the show could not go on, 2 wrong usage."
)]
pub(super) struct DemoArgs {
    /// End after so many seconds, at least 5. Default: go on until Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(5..=86_400))]
    seconds: Option<u32>,
    /// Keep the configurations and logs of the processes; they are kept anyway when something went wrong
    #[arg(long)]
    keep_logs: bool,
}

/// The application of the demo
#[derive(clap::Args, Debug)]
pub(super) struct DemoAppArgs {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Name of this instance
    #[arg(long, default_value = "app")]
    name: HeaderValue,
}

/// Runs the show.
#[expect(clippy::print_stderr, reason = "standard output is the show's")]
pub(super) fn demo(args: &DemoArgs) -> ExitCode {
    let params = DemoParams {
        length: args.seconds.map(|seconds| Duration::from_secs(seconds.into())),
        keep_logs: args.keep_logs,
    };
    match demo::demo(&params, &mut std::io::stdout()) {
        Ok(Verdict::Clean) => ExitCode::SUCCESS,
        Ok(Verdict::Failed(_)) => ExitCode::from(exit::FAILED),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(exit::FAILED)
        }
    }
}

/// Runs the application until its standard input is closed.
#[expect(clippy::print_stderr, reason = "the demo shows the end of it when the application dies")]
pub(super) fn application(args: DemoAppArgs) -> ExitCode {
    let params = ApplicationParams { listen: args.listen, name: args.name };
    match demo::application(params, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(exit::FAILED)
        }
    }
}
