//! Two checkers of linearizability that others wrote, behind one question. Both search for an order of the operations in
//! which each of them could have been answered as it was (Wing and Gong, as improved by Lowe).

use std::{sync::mpsc, thread, time::Duration};

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};
use todc_utils::{Action, History, Specification, WGLChecker};

use crate::history::{Step, Timed, Value};

/// What a checker says about one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Violation,
    /// It did not find out in time.
    Undecided,
}

/// A key of the store, as `porcupine-rs` wants it.
#[derive(Clone)]
struct Key;

impl Model for Key {
    type State = Value;
    type Op = Step;
    type Metadata = ();

    fn init() -> Value {
        0
    }

    fn step(state: &Value, step: &Step) -> (bool, Value) {
        let after = step.apply(*state);
        (after.is_some(), after.unwrap_or(*state))
    }
}

/// The same as `todc-utils` wants it.
struct SameKey;

impl Specification for SameKey {
    type State = Value;
    type Operation = Step;

    fn init() -> Value {
        0
    }

    fn apply(step: &Step, state: &Value) -> (bool, Value) {
        Key::step(state, step)
    }
}

/// What `porcupine-rs` says.
pub fn porcupine(timed: &[Timed], limit: Duration) -> Verdict {
    let operation = |one: &Timed| Operation::<Key> {
        client_id: None,
        call_time: one.call,
        return_time: one.end,
        op: one.step,
        metadata: None,
    };
    let operations: Vec<_> = timed.iter().map(operation).collect();
    match check_operations_timeout(&operations, limit) {
        CheckResult::Ok => Verdict::Linearizable,
        CheckResult::Illegal => Verdict::Violation,
        CheckResult::Unknown => Verdict::Undecided,
    }
}

/// What `todc-utils` says. It cannot be stopped: a search that is given up goes on until the process ends.
pub fn todc(timed: &[Timed], limit: Duration) -> Verdict {
    if timed.is_empty() {
        // It panics at that.
        return Verdict::Linearizable;
    }
    // Each operation is a process of its own there, so that those without an end hold nobody up.
    let mut events: Vec<(i64, bool, usize)> = Vec::new();
    for (number, one) in timed.iter().enumerate() {
        // What begins at the instant at which something else ends may come before it.
        events.extend([(one.call, false, number), (one.end, true, number)]);
    }
    events.sort_unstable();
    let action = |(_, is_end, number): (i64, bool, usize)| {
        let step = timed[number].step;
        (number, if is_end { Action::Response(step) } else { Action::Call(step) })
    };
    let history = History::from_actions(events.into_iter().map(action).collect());
    let (found, verdict) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // Nobody waits any more if it took too long.
        let _ = found.send(WGLChecker::<SameKey>::is_linearizable(history));
    });
    match verdict.recv_timeout(limit) {
        Ok(true) => Verdict::Linearizable,
        Ok(false) => Verdict::Violation,
        Err(_) => Verdict::Undecided,
    }
}

/// The shortest beginning of a history with a violation that has one, as the operations that were called in it. What had
/// no answer by then may still happen.
pub fn shortest(timed: &[Timed], limit: Duration) -> Vec<Timed> {
    let mut ends: Vec<i64> = timed.iter().map(|one| one.end).collect();
    ends.sort_unstable();
    let until = |end: i64| -> Vec<Timed> {
        let called = timed.iter().filter(|one| one.call <= end);
        let known = called.filter(|one| one.end <= end || !matches!(one.step, Step::Get(_)));
        known.map(|one| one.as_of(end)).collect()
    };
    let at = ends.partition_point(|end| porcupine(&until(*end), limit) != Verdict::Violation);
    ends.get(at).map_or_else(|| timed.to_vec(), |end| until(*end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::NEVER;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Step, call, end.
    fn verdict(steps: &[(Step, i64, i64)]) -> Verdict {
        let timed: Vec<Timed> =
            steps.iter().map(|&(step, call, end)| Timed { step, call, end, line: 0 }).collect();
        let both = [porcupine(&timed, LIMIT), todc(&timed, LIMIT)];
        assert_eq!(both[0], both[1], "{steps:?}");
        both[0]
    }

    fn cas(expected: Value, value: Value, held: Option<bool>) -> Step {
        Step::Cas { expected, value, held }
    }

    use Step::{Delete, Get, Put};
    use Verdict::{Linearizable, Violation};

    #[test]
    fn what_is_read_is_what_was_written() {
        assert_eq!(verdict(&[]), Linearizable);
        assert_eq!(verdict(&[(Get(0), 0, 1), (Put(1), 2, 3), (Get(1), 4, 5)]), Linearizable);
        assert_eq!(verdict(&[(Put(1), 0, 1), (Get(2), 2, 3)]), Violation);
        assert_eq!(verdict(&[(Get(1), 0, 1), (Put(1), 2, 3)]), Violation);
    }

    #[test]
    fn a_stale_read_is_found() {
        assert_eq!(verdict(&[(Put(1), 0, 1), (Put(2), 2, 3), (Get(1), 4, 5)]), Violation);
        // At the same time as the write it may be before it.
        assert_eq!(verdict(&[(Put(1), 0, 1), (Put(2), 2, 5), (Get(1), 3, 4)]), Linearizable);
        // But nobody may read the old value after somebody has read the new one.
        let back = [(Put(1), 0, 1), (Put(2), 2, 9), (Get(2), 3, 4), (Get(1), 5, 6)];
        assert_eq!(verdict(&back), Violation);
    }

    #[test]
    fn a_lost_write_is_found() {
        assert_eq!(verdict(&[(Put(1), 0, 1), (Get(0), 2, 3)]), Violation);
        let lost = [(Put(1), 0, 1), (cas(1, 2, Some(true)), 2, 3), (Get(1), 4, 5)];
        assert_eq!(verdict(&lost), Violation);
    }

    #[test]
    fn what_nobody_knows_may_happen_at_any_later_time_or_never() {
        assert_eq!(verdict(&[(Put(1), 0, 1), (Put(2), 2, NEVER), (Get(1), 4, 5)]), Linearizable);
        let late = [(Put(1), 0, 1), (Put(2), 2, NEVER), (Get(1), 4, 5), (Get(2), 6, 7)];
        assert_eq!(verdict(&late), Linearizable);
        // But once only, and not before it was asked.
        let twice = [(Put(2), 0, NEVER), (Get(2), 1, 2), (Put(1), 3, 4), (Get(2), 5, 6)];
        assert_eq!(verdict(&twice), Violation);
        assert_eq!(verdict(&[(Get(2), 0, 1), (Put(2), 2, NEVER)]), Violation);
        let held = [(Put(1), 0, 1), (cas(1, 2, None), 2, NEVER), (Get(2), 4, 5)];
        assert_eq!(verdict(&held), Linearizable);
        let not_held = [(Put(1), 0, 1), (cas(3, 2, None), 2, NEVER), (Get(2), 4, 5)];
        assert_eq!(verdict(&not_held), Violation);
        assert_eq!(
            verdict(&[(Put(1), 0, 1), (Delete { was: None }, 2, NEVER), (Get(0), 4, 5)]),
            Linearizable
        );
    }

    #[test]
    fn of_two_that_compare_with_the_same_value_one_holds() {
        let both = |first, second| {
            verdict(&[(Put(1), 0, 1), (cas(1, 2, Some(first)), 2, 5), (cas(1, 3, Some(second)), 3, 4)])
        };
        assert_eq!(both(true, true), Violation);
        assert_eq!(both(true, false), Linearizable);
        assert_eq!(both(false, true), Linearizable);
        assert_eq!(both(false, false), Violation);
        assert_eq!(verdict(&[(cas(0, 1, Some(true)), 0, 1), (Get(1), 2, 3)]), Linearizable);
    }

    #[test]
    fn what_is_removed_is_gone() {
        let was = |was| Delete { was: Some(was) };
        assert_eq!(verdict(&[(Put(1), 0, 1), (was(true), 2, 3), (Get(0), 4, 5)]), Linearizable);
        assert_eq!(verdict(&[(Put(1), 0, 1), (was(true), 2, 3), (Get(1), 4, 5)]), Violation);
        assert_eq!(verdict(&[(Put(1), 0, 1), (was(false), 2, 3)]), Violation);
        assert_eq!(verdict(&[(Put(1), 0, 1), (was(true), 2, 3), (was(true), 4, 5)]), Violation);
    }

    #[test]
    fn what_is_called_at_the_end_of_something_else_may_come_before_it() {
        assert_eq!(verdict(&[(Put(1), 0, 2), (Get(0), 2, 3)]), Linearizable);
    }

    /// A store that is correct, and clients whose operations overlap: whatever comes out is linearizable, and is not any
    /// more when an old value is read at the end.
    #[test]
    fn long_histories_are_decided() {
        let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = |below: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % below
        };
        let (mut state, mut timed) = (0, Vec::new());
        for number in 1..=400 {
            let at = i64::from(number) * 10;
            let step = match draw(4) {
                0 => Put(number),
                1 => cas(state, number, Some(true)),
                2 => Delete { was: Some(state != 0) },
                _ => Get(state),
            };
            state = step.apply(state).unwrap();
            let (call, end) = (at - i64::try_from(draw(40)).unwrap(), at + i64::try_from(draw(40)).unwrap());
            // Some answers are lost.
            let is_lost = draw(60) == 0 && !matches!(step, Get(_));
            let step = match step {
                Delete { .. } if is_lost => Delete { was: None },
                Step::Cas { expected, value, .. } if is_lost => cas(expected, value, None),
                step => step,
            };
            timed.push((step, call, if is_lost { NEVER } else { end }));
        }
        assert_eq!(verdict(&timed), Linearizable);
        timed.extend([(Put(2000), 20_000, 20_001), (Put(2001), 20_002, 20_003), (Get(2000), 20_004, 20_005)]);
        assert_eq!(verdict(&timed), Violation);
    }

    #[test]
    fn the_shortest_beginning_ends_with_what_cannot_be() {
        let steps = [(Put(1), 0, 1), (Put(2), 2, 3), (Get(1), 4, 5), (Get(2), 6, 7), (Put(3), 8, 9)];
        let timed: Vec<Timed> =
            steps.iter().map(|&(step, call, end)| Timed { step, call, end, line: 0 }).collect();
        let short = shortest(&timed, LIMIT);
        assert_eq!(short.len(), 3);
        assert_eq!(short.last().map(|one| one.step), Some(Get(1)));
    }
}
