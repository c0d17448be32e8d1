//! One file per verb of the command line.

mod check;
mod demo;
mod iptables;
mod run;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A service mesh sidecar without a control plane
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the sidecar
    Run(run::RunArgs),
    /// Check a configuration file
    #[command(alias = "validate")]
    Check(check::CheckArgs),
    /// Tell how a running sidecar is
    Status(status::StatusArgs),
    /// Redirect the connections of an unmodified application through the sidecar
    Iptables(iptables::IptablesArgs),
    /// Show the job with real processes on this machine
    Demo(demo::DemoArgs),
    /// The application of the demo
    #[command(hide = true)]
    DemoApp(demo::DemoAppArgs),
}

/// Exit codes, the same for every verb.
mod exit {
    /// The operation failed.
    pub(super) const FAILED: u8 = 1;
    /// The configuration is invalid.
    pub(super) const INVALID: u8 = 3;
    /// The sidecar cannot be reached.
    pub(super) const UNREACHABLE: u8 = 4;
    /// The sidecar is not well.
    pub(super) const UNHEALTHY: u8 = 9;
}

/// Reads the command line and does what it says. Wrong usage exits with 2.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Check(args) => check::check(&args),
        Verb::Status(args) => status::status(&args),
        Verb::Iptables(args) => iptables::iptables(&args),
        Verb::Demo(args) => demo::demo(&args),
        Verb::DemoApp(args) => demo::application(args),
    }
}
