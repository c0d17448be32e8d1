//! What was answered lately, so that a write that is repeated is not done twice.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::super::{
    key::{OpId, Revision},
    outcome::{CommandResult, OperationResult, Outcome},
};

/// How long an answer is remembered, in milliseconds of log time.
pub const REMEMBERED_MS: u64 = 15 * 60 * 1000;
/// Most answers that are remembered; the oldest are forgotten first.
pub(super) const MAX_ANSWERS: usize = 100_000;
/// Most bytes of an answer that is remembered whole. Of a larger one the reads are forgotten: each `Got` is told as
/// `None`. Whoever reads more than this in the transaction that writes, and repeats it, reads again afterwards.
pub const MAX_ANSWER: usize = 4 * 1024;
/// Most bytes of all answers together, so that reads that come with writes cannot fill the memory.
pub(super) const MAX_ANSWERS_BYTES: usize = 64 * 1024 * 1024;

/// What was answered lately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    by_op: BTreeMap<OpId, Answer>,
    /// The oldest first, with when they were given.
    in_order: VecDeque<(u64, OpId)>,
    bytes: usize,
}

/// An answer. Its result is kept as bytes: they are a fraction of the value, and hold on to no value of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    revision: Revision,
    result: Box<[u8]>,
}

impl Answers {
    /// What was answered, if it is remembered.
    pub(super) fn get(&self, op: OpId) -> Option<Outcome> {
        let answer = self.by_op.get(&op)?;
        let result = postcard::from_bytes(&answer.result).ok()?;
        Some(Outcome { revision: answer.revision, result })
    }

    /// Forgets what is too old at `at_ms`.
    pub(super) fn forget(&mut self, at_ms: u64) {
        while self.in_order.front().is_some_and(|(then, _)| then.saturating_add(REMEMBERED_MS) < at_ms) {
            self.forget_oldest();
        }
    }

    /// Remembers an answer that is given for the first time.
    pub(super) fn remember(&mut self, op: OpId, at_ms: u64, outcome: &Outcome) {
        let result = encode(&outcome.result);
        self.restore(op, at_ms, Answer { revision: outcome.revision, result: result.into() });
        while self.in_order.len() > MAX_ANSWERS || self.bytes > MAX_ANSWERS_BYTES {
            self.forget_oldest();
        }
    }

    /// Puts back what [`Answers::iter`] told; whether it was not there yet.
    pub(super) fn restore(&mut self, op: OpId, at_ms: u64, answer: Answer) -> bool {
        self.bytes += answer.result.len();
        self.in_order.push_back((at_ms, op));
        self.by_op.insert(op, answer).is_none()
    }

    /// All answers, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, OpId, &Answer)> {
        self.in_order.iter().filter_map(|(at_ms, op)| Some((*at_ms, *op, self.by_op.get(op)?)))
    }

    fn forget_oldest(&mut self) {
        let Some((_, op)) = self.in_order.pop_front() else { return };
        self.bytes -= self.by_op.remove(&op).map_or(0, |answer| answer.result.len());
    }
}

impl Answer {
    /// Whether it can be told.
    pub(super) fn is_readable(&self) -> bool {
        postcard::from_bytes::<CommandResult>(&self.result).is_ok()
    }
}

fn encode(result: &CommandResult) -> Vec<u8> {
    // The values alone tell that it is too much, without writing them down first.
    if read_bytes(result) <= MAX_ANSWER {
        // Writing to memory does not fail; empty bytes would be no answer, and the write be done again.
        let bytes = postcard::to_allocvec(result).unwrap_or_default();
        if bytes.len() <= MAX_ANSWER {
            return bytes;
        }
    }
    postcard::to_allocvec(&without_reads(result)).unwrap_or_default()
}

fn read_bytes(result: &CommandResult) -> usize {
    let CommandResult::Transacted { results, .. } = result else { return 0 };
    let value = |result: &OperationResult| match result {
        OperationResult::Got(has) => has.as_ref().map_or(0, |has| has.value.len()),
        OperationResult::Put | OperationResult::Deleted(_) => 0,
    };
    results.iter().map(value).sum()
}

fn without_reads(result: &CommandResult) -> CommandResult {
    let CommandResult::Transacted { held, results } = result else { return result.clone() };
    let strip = |result: &OperationResult| match result {
        OperationResult::Got(_) => OperationResult::Got(None),
        OperationResult::Put => OperationResult::Put,
        OperationResult::Deleted(keys) => OperationResult::Deleted(*keys),
    };
    CommandResult::Transacted { held: *held, results: results.iter().map(strip).collect() }
}
