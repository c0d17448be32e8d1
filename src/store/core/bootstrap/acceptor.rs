//! The one who promises and votes. Its state is a [`Promise`], which is on the disk before anybody hears of it.

use std::time::Duration;

use super::message::{Accepted, Ballot, Message, Promise, Proposal, Refusal};
use crate::types::Mono;

/// A promise keeps others out for this long after the last word of whom it was given to, so that two proposers do not
/// push each other aside for ever. Longer than a proposer is silent between its repetitions by far; nothing unsafe
/// happens when it ends.
const HOLD: Duration = Duration::from_secs(6);

#[derive(Debug)]
pub(super) struct Acceptor {
    promise: Promise,
    held_until: Mono,
}

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Answer; nothing has changed.
    Answer(Message),
    /// Answer when the promise, which has changed, is on the disk.
    AnswerOnceWritten(Message),
}

impl Acceptor {
    pub(super) fn new(promise: Promise) -> Self {
        Self { promise, held_until: Mono::ZERO }
    }

    pub(super) fn promise(&self) -> &Promise {
        &self.promise
    }

    /// Somebody asks for a promise. `is_bound_to_living` tells whether the one it is bound to is known to live.
    pub(super) fn propose(&mut self, ballot: Ballot, is_bound_to_living: bool, now: Mono) -> Verdict {
        let bound = self.promise.ballot;
        let is_held = is_bound_to_living && now < self.held_until && bound.proposer != ballot.proposer;
        if ballot < bound || (ballot > bound && is_held) {
            return Verdict::Answer(Message::Refused { ballot, why: Refusal::Bound(bound) });
        }
        self.held_until = now.after(HOLD);
        let answer = Message::Promised { ballot, accepted: self.promise.accepted.clone() };
        if ballot == bound {
            return Verdict::Answer(answer);
        }
        self.promise.ballot = ballot;
        Verdict::AnswerOnceWritten(answer)
    }

    /// Somebody who has the promises it needs asks for a vote. That somebody else is still held back does not matter
    /// here: whoever got a majority is not to be stopped.
    pub(super) fn confirm(&mut self, ballot: Ballot, proposal: Proposal, now: Mono) -> Verdict {
        if ballot < self.promise.ballot {
            return Verdict::Answer(Message::Refused { ballot, why: Refusal::Bound(self.promise.ballot) });
        }
        self.held_until = now.after(HOLD);
        let answer = Message::Confirmed { ballot };
        if self.promise.accepted.as_ref().is_some_and(|accepted| accepted.ballot == ballot) {
            return Verdict::Answer(answer);
        }
        self.promise = Promise { ballot, accepted: Some(Accepted { ballot, proposal }) };
        Verdict::AnswerOnceWritten(answer)
    }

    /// Whoever it is bound to has given up.
    pub(super) fn abandon(&mut self, ballot: Ballot) {
        if self.promise.ballot == ballot {
            self.held_until = Mono::ZERO;
        }
    }
}
