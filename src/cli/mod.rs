//! One file per verb of the command line.

mod admin;
mod ca;
mod cert;
mod check;
mod columns;
mod demo;
mod intentions;
mod iptables;
mod keyring;
mod kv;
mod members;
mod policies;
mod raft;
mod ratelimits;
mod routes;
mod run;
mod shared;
mod state;
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
    /// Tell who is in the mesh
    Members(members::MembersArgs),
    /// Tell how the replicated store is
    Raft(raft::RaftArgs),
    /// List and change the keys that the gossip is sealed with
    Keyring(keyring::KeyringArgs),
    /// Read and write the replicated store
    Kv(kv::KvArgs),
    /// List the routes in force, write and remove those of all sidecars
    Routes(routes::RoutesArgs),
    /// List the rules about callers, write and remove those of all sidecars
    Intentions(intentions::IntentionsArgs),
    /// List how services are called, write and remove what all sidecars share of that
    Policies(policies::PoliciesArgs),
    /// List the rate limits in force, write and remove those of all sidecars
    Ratelimits(ratelimits::RateLimitsArgs),
    /// Look back at what all sidecars share, and put it back
    State(state::StateArgs),
    /// Redirect the connections of an unmodified application through the sidecar
    Iptables(iptables::IptablesArgs),
    /// Issue certificates for the mesh, renew its roots, revoke
    Ca(ca::CaArgs),
    /// Look at certificates, have a sidecar get new ones
    Cert(cert::CertArgs),
    /// Show the job with real processes on this machine
    Demo(demo::DemoArgs),
    /// The application of the demo
    #[command(hide = true)]
    DemoApp(demo::DemoAppArgs),
}

/// How what a verb tells is written.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// For people
    Text,
    /// For tools: one document
    Json,
}

/// Exit codes, the same for every verb.
mod exit {
    /// The operation failed.
    pub(super) const FAILED: u8 = 1;
    /// The arguments make no sense: what clap exits with.
    pub(super) const USAGE: u8 = 2;
    /// The configuration is invalid.
    pub(super) const INVALID: u8 = 3;
    /// The sidecar cannot be reached.
    pub(super) const UNREACHABLE: u8 = 4;
    /// What was named is not there.
    pub(super) const NOT_FOUND: u8 = 5;
    /// Whoever asks may not.
    pub(super) const DENIED: u8 = 6;
    /// It cannot be done as things are.
    pub(super) const CONFLICT: u8 = 7;
    /// Nobody knows in time what came of it.
    pub(super) const TIMED_OUT: u8 = 8;
    /// The sidecar is not well.
    pub(super) const UNHEALTHY: u8 = 9;
}

/// Reads the command line and does what it says. Wrong usage exits with 2.
#[must_use]
#[cfg_attr(
    feature = "planted-bugs",
    expect(clippy::print_stderr, reason = "there is no log yet, and it must be seen")
)]
pub fn main() -> ExitCode {
    #[cfg(feature = "planted-bugs")]
    match crate::store::planted::plant() {
        Ok(warning) => eprintln!("{warning}"),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(exit::FAILED);
        }
    }
    match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Check(args) => check::check(&args),
        Verb::Status(args) => status::status(&args),
        Verb::Members(args) => members::members(&args),
        Verb::Raft(args) => raft::raft(&args),
        Verb::Keyring(args) => keyring::keyring(&args),
        Verb::Kv(args) => kv::kv(&args),
        Verb::Routes(args) => routes::routes(&args),
        Verb::Intentions(args) => intentions::intentions(&args),
        Verb::Policies(args) => policies::policies(&args),
        Verb::Ratelimits(args) => ratelimits::rate_limits(&args),
        Verb::State(args) => state::state(&args),
        Verb::Iptables(args) => iptables::iptables(&args),
        Verb::Ca(args) => ca::ca(&args),
        Verb::Cert(args) => cert::cert(&args),
        Verb::Demo(args) => demo::demo(&args),
        Verb::DemoApp(args) => demo::application(args),
    }
}
