//! Keeps the log of refusals short: for each caller and rule one line in a while, with the number of those that were
//! left out. Shared by all workers; its lock is taken for refused requests only.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustc_hash::FxHashMap;

use crate::types::Mono;

/// Between two lines about the same caller and rule.
const QUIET: Duration = Duration::from_secs(10);
/// Callers and rules that are remembered. Beyond it new ones share one place.
const MAX_KNOWN: usize = 1024;

/// When refusals were last logged.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Refusals(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By caller, then by rule: a look-up needs no text of its own.
    by_source: FxHashMap<Box<str>, FxHashMap<Box<str>, Last>>,
    count: usize,
    others: Option<Last>,
    /// When room was last looked for in vain.
    full_at: Option<Mono>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: Mono,
    left_out: u64,
}

/// Whether a refusal is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Yes, and so many before it were not.
    Now { left_out: u64 },
    /// No: there was a line about it just now.
    Nothing,
}

impl Refusals {
    /// Notes a refusal at `now`.
    pub(super) fn note(&self, source: &str, rule: &str, now: Mono) -> Say {
        // Counts may be a little off after a panic elsewhere; nothing else depends on them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note(source, rule, now)
    }
}

impl Known {
    fn note(&mut self, source: &str, rule: &str, now: Mono) -> Say {
        if let Some(last) = self.by_source.get_mut(source).and_then(|rules| rules.get_mut(rule)) {
            return last.again(now);
        }
        if self.count >= MAX_KNOWN {
            self.make_room(now);
        }
        if self.count >= MAX_KNOWN {
            return match &mut self.others {
                Some(last) => last.again(now),
                None => {
                    self.others = Some(Last { at: now, left_out: 0 });
                    Say::Now { left_out: 0 }
                }
            };
        }
        let rules = self.by_source.entry(source.into()).or_default();
        rules.insert(rule.into(), Last { at: now, left_out: 0 });
        self.count += 1;
        Say::Now { left_out: 0 }
    }

    /// Forgets what may be logged again anyway; at most once in [`QUIET`], since a flood of new callers comes here for
    /// each of its requests.
    fn make_room(&mut self, now: Mono) {
        if self.full_at.is_some_and(|at| now.since(at) < QUIET) {
            return;
        }
        self.full_at = Some(now);
        for rules in self.by_source.values_mut() {
            rules.retain(|_, last| now.since(last.at) < QUIET);
        }
        self.by_source.retain(|_, rules| !rules.is_empty());
        self.count = self.by_source.values().map(FxHashMap::len).sum();
    }
}

impl Last {
    fn again(&mut self, now: Mono) -> Say {
        if now.since(self.at) < QUIET {
            self.left_out += 1;
            return Say::Nothing;
        }
        let left_out = std::mem::take(&mut self.left_out);
        self.at = now;
        Say::Now { left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono::ZERO.after(Duration::from_millis(millis))
    }

    #[test]
    fn one_line_in_ten_seconds_says_how_many_were_left_out() {
        let refusals = Refusals::default();
        let note = |rule, millis| refusals.note("web", rule, at(millis));
        assert_eq!(note("a", 0), Say::Now { left_out: 0 });
        assert_eq!(note("b", 1), Say::Now { left_out: 0 });
        for millis in [1, 5000, 9999] {
            assert_eq!(note("a", millis), Say::Nothing);
        }
        assert_eq!(note("a", 10_000), Say::Now { left_out: 3 });
        assert_eq!(note("a", 19_999), Say::Nothing);
        assert_eq!(note("a", 30_000), Say::Now { left_out: 1 });
    }

    #[test]
    fn ever_new_callers_are_bounded_in_memory_and_in_lines() {
        let refusals = Refusals::default();
        let lines = |from: u64, millis: u64| {
            let said = |number| refusals.note(&format!("caller-{number}"), "a", at(millis)) != Say::Nothing;
            (from..from + 10_000).filter(|number| said(*number)).count()
        };
        assert_eq!(lines(0, 1), MAX_KNOWN + 1);
        assert_eq!(lines(10_000, 5000), 0);
        assert_eq!(refusals.0.lock().unwrap().count, MAX_KNOWN);
        // Those of the first seconds made room.
        assert_eq!(lines(20_000, 10_001), MAX_KNOWN + 1);
    }
}
