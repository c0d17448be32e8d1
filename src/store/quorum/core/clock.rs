//! Hybrid logical clocks (Kulkarni et al. 2014): stamps that grow with the wall clock, and past all that was seen. A stamp
//! far ahead of the own clock is refused, so that one wrong clock does not carry all others away.

use serde::{Deserialize, Serialize};

/// So many milliseconds a stamp may be ahead of the clock of who takes it.
pub const MOST_AHEAD: u64 = 500;

/// When something was written: totally ordered, and no two writes have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970, by the clock of who wrote or the greatest that it has seen.
    pub ms: u64,
    /// Which one of that millisecond.
    pub count: u32,
    /// Who wrote: drawn by chance once per process, so that a clock set back makes no stamp twice.
    pub writer: u64,
}

/// A stamp is too far ahead of the clock of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is {0} ms ahead of the clock of this machine; at most {MOST_AHEAD} are taken")]
pub struct Ahead(pub u64);

/// Makes stamps.
#[derive(Clone, Debug)]
pub struct Clock {
    writer: u64,
    ms: u64,
    count: u32,
}

impl Clock {
    /// A clock that has seen nothing.
    #[must_use]
    pub fn new(writer: u64) -> Self {
        Self { writer, ms: 0, count: 0 }
    }

    /// A stamp after all that were made and seen.
    ///
    /// # Errors
    /// If that were too far ahead: the wall clock was set back. Nothing has changed.
    pub fn next(&mut self, wall_ms: u64) -> Result<Stamp, Ahead> {
        let (ms, count) = match self.count.checked_add(1) {
            _ if wall_ms > self.ms => (wall_ms, 0),
            Some(count) => (self.ms, count),
            None => (self.ms + 1, 0),
        };
        check(ms, wall_ms)?;
        (self.ms, self.count) = (ms, count);
        Ok(Stamp { ms, count, writer: self.writer })
    }

    /// Makes later stamps greater than `stamp`.
    ///
    /// # Errors
    /// If it is too far ahead. Nothing has changed.
    pub fn observe(&mut self, stamp: Stamp, wall_ms: u64) -> Result<(), Ahead> {
        check(stamp.ms, wall_ms)?;
        (self.ms, self.count) = (self.ms, self.count).max((stamp.ms, stamp.count));
        Ok(())
    }
}

fn check(ms: u64, wall_ms: u64) -> Result<(), Ahead> {
    let ahead = ms.saturating_sub(wall_ms);
    if ahead > MOST_AHEAD { Err(Ahead(ahead)) } else { Ok(()) }
}
