//! Bugs on purpose, each of which a trial of the store has to find: a checker that accepts everything proves nothing. Only
//! with the feature `planted-bugs`, which is not compiled with optimizations, and only the bug that is asked for.

use std::{sync::OnceLock, time::Duration};

#[cfg(not(debug_assertions))]
compile_error!("planted bugs are for trials: the feature `planted-bugs` has no place in a release");

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A replica takes what it has for certain, and asks nobody.
    StaleRead,
    /// A write is acknowledged [`HELD`] before it is on disk.
    EarlyAck,
    /// A leader that is started again goes on in its term, and does not know what it had acknowledged in it.
    LeaderRestore,
    /// In a keyspace that is kept by quorum, a hint counts as the replica that it is kept for.
    HintsAsWrites,
}

/// Which one this process has.
static PLANTED: OnceLock<Bug> = OnceLock::new();

const VARIABLE: &str = "OUTRIGGER_PLANTED_BUG";

/// How long what was acknowledged is in memory alone.
pub(super) const HELD: Duration = Duration::from_millis(100);

/// Plants the bug that the environment names, and says so. Without a name there is no process.
///
/// # Errors
/// No bug is named, or one that there is not.
pub fn plant() -> Result<String, String> {
    let named = std::env::var(VARIABLE).unwrap_or_default();
    let bug = match named.as_str() {
        "stale-read" => Bug::StaleRead,
        "early-ack" => Bug::EarlyAck,
        "leader-restore" => Bug::LeaderRestore,
        "hints-as-writes" => Bug::HintsAsWrites,
        _ => {
            return Err(format!(
                "this binary is built with planted bugs (feature `planted-bugs`) and is for trials only: {VARIABLE} has \
                 to name one: `stale-read`, `early-ack`, `leader-restore`, `hints-as-writes`"
            ));
        }
    };
    let planted = PLANTED.get_or_init(|| bug);
    Ok(format!(
        "!!! THIS BINARY HAS A PLANTED BUG: {planted:?}. It loses or invents data, and is for trials only. !!!"
    ))
}

/// Whether this process has `bug`.
pub(super) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(&bug)
}
