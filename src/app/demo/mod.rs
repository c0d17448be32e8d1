//! `outrigger demo`: the whole job on one machine, with real processes. A load runs through the sidecars of two clients to
//! instances behind theirs, with mutual TLS between them. They find each other by gossip, and three of them keep a store. One
//! instance dies and returns, one answers with errors for a while, one is slow for a while, and no request may fail. Or, as
//! the other scenario, a tenth of the traffic is shifted to another version, and the store loses most of those who keep it.
//!
//! The processes are this binary: fleet.rs owns them, load.rs sends, tally.rs counts, rotation.rs asks a client's sidecar who
//! is in the mesh and what it thinks of the instances, store.rs asks who leads, walk.rs decides what is next in the scenario
//! of the store, and show.rs puts it together.

mod application;
mod authority;
mod client;
mod fleet;
mod gossip;
mod introduction;
mod load;
mod process;
mod report;
mod rotation;
mod schedule;
mod shift;
mod show;
mod sidecar;
mod store;
mod tally;
mod walk;
mod workspace;

use std::{io, io::Write, path::PathBuf, process::ExitStatus, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{fleet::Fleet, schedule::Schedule, show::Show, workspace::Workspace};

pub use self::application::{ApplicationParams, application};

/// What the command line says.
#[derive(Clone, Debug)]
pub struct DemoParams {
    /// What is shown.
    pub scenario: Scenario,
    /// How long the show goes on, at least five seconds; `None` until a signal. [`Scenario::Store`] ends by itself, and
    /// has failed if it has not by then.
    pub length: Option<Duration>,
    /// Leaves configurations and logs in place.
    pub keep_logs: bool,
}

/// What goes wrong in the demo, besides what is done by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// An instance dies and returns, one answers with errors, one is slow.
    Failures,
    /// A tenth of the traffic is shifted by the store, which then loses who leads it, and most of those who keep it.
    Store,
}

/// Whether the demo showed what it is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No request failed, or the show was ended before there was one.
    Clean,
    /// So many failed.
    Failed(u64),
    /// Something else did not hold; what, is in the output.
    NotShown,
}

/// Why the show could not go on. All processes are gone; the logs of those concerned are not.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The directory for configurations and logs.
    #[error("cannot use the temporary directory: {0}")]
    Workspace(#[source] io::Error),
    /// The system refused something that the show needs.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A process ended that nobody told to.
    #[error("{what} died ({status}); its log is {}, and ends so:\n{tail}", .log.display())]
    Died {
        /// Which.
        what: String,
        /// How.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },
    /// A process lives and does not serve.
    #[error("{what} does not serve after {after:?}; its log is {}", .log.display())]
    NotReady {
        /// Which.
        what: String,
        /// How long it had.
        after: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// A process cannot be ended.
    #[error("cannot kill a child: {0}")]
    Kill(#[source] io::Error),
    /// There is nobody to show it to.
    #[error("cannot write what happens: {0}")]
    Output(#[from] io::Error),
}

impl DemoError {
    /// A sidecar found one of its ports taken.
    fn is_port_clash(&self) -> bool {
        // The kernel's own words for EADDRINUSE, which the sidecar repeats.
        matches!(self, Self::Died { tail, .. } if tail.contains("ddress already in use"))
    }
}

/// Runs the show and writes it to `out`. Returns when it is over, when SIGINT, SIGTERM, SIGHUP or SIGQUIT ends it,
/// or when it cannot go on; in any case all its processes are gone by then.
///
/// # Errors
/// See [`DemoError`].
pub fn demo(params: &DemoParams, out: &mut dyn Write) -> Result<Verdict, DemoError> {
    let refused = |source| DemoError::Start { what: "the demo".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
    runtime.block_on(async {
        let mut ending = Ending::listen().map_err(refused)?;
        let mut workspace = Workspace::create().map_err(DemoError::Workspace)?;
        let outcome = perform(params, &mut ending, &workspace, out).await;
        if params.keep_logs || !matches!(outcome, Ok(Verdict::Clean) | Err(DemoError::Output(_))) {
            workspace.keep();
        }
        if workspace.is_kept() {
            writeln!(out, "\nconfigurations and logs are kept in {}", workspace.path().display())?;
        }
        outcome
    })
}

async fn perform(
    params: &DemoParams,
    ending: &mut Ending,
    workspace: &Workspace,
    out: &mut dyn Write,
) -> Result<Verdict, DemoError> {
    let schedule = Schedule::new(params.scenario, params.length);
    writeln!(
        out,
        "starting four instances of an application, one of another version, each behind its own sidecar, and the sidecars\n\
         of two clients, with mutual TLS between them; each is told where the first one is, and nothing of the others"
    )?;
    let fleet = tokio::select! {
        fleet = Fleet::start(workspace, schedule.check_interval) => fleet?,
        () = ending.come() => {
            writeln!(out, "ended before everything had started")?;
            return Ok(Verdict::Clean);
        }
    };
    Show::new(fleet, params.scenario, &schedule, workspace, out).run(ending).await
}

/// The signals that end the show.
struct Ending(Vec<Signal>);

impl Ending {
    fn listen() -> io::Result<Self> {
        // The children have groups of their own: what a terminal sends when it closes does not reach them either.
        let kinds =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
        kinds.into_iter().map(signal).collect::<io::Result<_>>().map(Self)
    }

    /// Waits for the first of them. Cancel-safe.
    async fn come(&mut self) {
        std::future::poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}
