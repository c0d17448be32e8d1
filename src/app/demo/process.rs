//! One child process of the demo: this very binary with another verb. Its output goes into a log file; it dies
//! when its owner drops it.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::process::{Child, Command};

use super::DemoError;

/// Lines of a log that are shown when its process died.
const TAIL: usize = 12;

/// What `kill -9` sends.
const SIGKILL: i32 = 9;

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    what: String,
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts this binary with `arguments`. `what` names the child in messages.
    pub(super) fn start(
        what: String,
        arguments: &[&OsStr],
        (log, output): (PathBuf, fs::File),
    ) -> Result<Self, DemoError> {
        let failed = |source| DemoError::Start { what: what.clone(), source };
        let binary = std::env::current_exe().map_err(failed)?;
        let child = Command::new(binary)
            .args(arguments)
            // Held open, never written to: when this process is gone, however that came, the other end notices.
            .stdin(Stdio::piped())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .env_remove("OUTRIGGER_WORKERS")
            .env_remove("NOTIFY_SOCKET")
            // A group of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        // A child that was not waited for has an id.
        let pid = child.id().unwrap_or_default();
        Ok(Self { what, child, pid, log })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Where its output goes.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did; it should not have.
    pub(super) fn died(&mut self) -> Option<DemoError> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.obituary(status)),
            Err(source) => Some(DemoError::Start { what: self.what.clone(), source }),
        }
    }

    /// Kills it as a machine that fails would, and waits until all its sockets are closed.
    pub(super) async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Whether it has ended because somebody wanted it to, from outside.
    pub(super) fn was_ended(&mut self) -> bool {
        let status = self.child.try_wait().ok().flatten();
        // One that is asked to end does so in good order.
        status.is_some_and(|status| status.success() || status.signal() == Some(SIGKILL))
    }

    fn obituary(&self, status: ExitStatus) -> DemoError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        DemoError::Died { what: self.what.clone(), status, log: self.log.clone(), tail: tail(&log) }
    }
}

/// The last lines of `log`.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_of_the_log() {
        let log: String = (1..=20).map(|line| format!("{line}\n")).collect();
        assert!(tail(&log).starts_with("9\n10\n") && tail(&log).ends_with("\n20"));
        assert_eq!(tail("one\n"), "one");
        assert_eq!(tail(""), "");
    }
}
