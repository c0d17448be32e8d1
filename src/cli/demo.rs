//! `outrigger demo`, and the hidden `outrigger demo-app` that it starts.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use http::HeaderValue;

use super::exit;
use crate::app::demo::{self, ApplicationParams, DemoParams, Scenario, Verdict};

/// Show the job with real processes on this machine
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Starts instances of a small application, each behind its own sidecar, and the sidecars of two clients in\n\
                  front, which find each other by gossip; three of them found a store by themselves. Sends a steady load\n\
                  through it and counts what failed. Everything is on loopback, on free ports, and gone at the end.\n\n\
                  Scenarios:\n  \
                  failures  one instance is killed and brought back, one answers with errors, one is slow\n  \
                  store     a tenth of the traffic is shifted to a second version by `outrigger routes put`; then who leads\n            \
                            the store is killed, and who leads next; ends with a verdict, after half a minute or so\n\n\
                  Prints how to do all of that by hand: see the members, add an instance, shift traffic, kill who leads.\n\n\
                  Signals: SIGINT and SIGTERM end the show; the closing table is printed.\n\n\
                  Exit codes: 0 no request failed, and what is shown held; 1 it did not, or the show could not go on; 2 wrong\n\
                  usage."
)]
pub(super) struct DemoArgs {
    /// What is shown
    #[arg(long, value_enum, default_value_t = ScenarioArg::Failures)]
    scenario: ScenarioArg,
    /// End after so many seconds, at least 5. Default: go on until Ctrl-C. With `--scenario store`: give up after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(5..=86_400))]
    seconds: Option<u32>,
    /// Keep the configurations and logs of the processes; they are kept anyway when something went wrong
    #[arg(long)]
    keep_logs: bool,
}

/// As the command line has it.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum ScenarioArg {
    Failures,
    Store,
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
        scenario: match args.scenario {
            ScenarioArg::Failures => Scenario::Failures,
            ScenarioArg::Store => Scenario::Store,
        },
        length: args.seconds.map(|seconds| Duration::from_secs(seconds.into())),
        keep_logs: args.keep_logs,
    };
    match demo::demo(&params, &mut std::io::stdout()) {
        Ok(Verdict::Clean) => ExitCode::SUCCESS,
        Ok(Verdict::Failed(_) | Verdict::NotShown) => ExitCode::from(exit::FAILED),
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
