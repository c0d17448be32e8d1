//! One write. By quorum it has two steps: what the replicas have, and then a record that is later than that, so that no
//! clock that is behind loses a write; a repeated write keeps the stamp that it was given first. What a replica misses is
//! kept for it as a hint, which counts for nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    clock::Stamp,
    hints::Hint,
    machine::{Doing, Due, Machine},
    message::{Message, Refusal},
    record::Record,
    ring::{reached, union},
    rules::{Answer, Change, Failure, Level, Now, Spec},
};
use crate::{
    store::core::key::{Key, OpId},
    types::Mono,
};

/// A write in progress.
#[derive(Debug)]
pub(super) struct Write {
    /// Who waits for it; nobody once it is answered.
    pub(super) request: Option<u64>,
    key: Key,
    op: OpId,
    value: Option<Bytes>,
    spec: Spec,
    is_eventual: bool,
    sets: Vec<Vec<u64>>,
    told: BTreeMap<u64, Told>,
    record: Option<Record>,
    existed: bool,
    acks: BTreeSet<u64>,
    refused: BTreeMap<u64, Refusal>,
    hinted: BTreeSet<u64>,
    deadline: Mono,
}

/// What a replica had before.
#[derive(Clone, Copy, Debug)]
struct Told {
    stamp: Option<Stamp>,
    is_live: bool,
    known: Option<Stamp>,
}

impl Machine {
    pub(super) fn begin_write(
        &mut self,
        request: u64,
        key: Key,
        op: OpId,
        value: Option<Bytes>,
        level: Level,
        now: Now,
    ) {
        let spec = self.spec(&key);
        let sets = self.sets(&key);
        let is_eventual = level == Level::Eventual;
        let deadline = now.mono.after(spec.write_timeout);
        let id = self.new_id();
        let mut write = Write {
            request: Some(request),
            key,
            op,
            value,
            spec,
            is_eventual,
            sets,
            told: BTreeMap::new(),
            record: None,
            existed: false,
            acks: BTreeSet::new(),
            refused: BTreeMap::new(),
            hinted: BTreeSet::new(),
            deadline,
        };
        if is_eventual {
            let stamp = self.table.known(op).map_or_else(|| self.clock.next(now.wall_ms), Ok);
            match stamp {
                Ok(stamp) => self.store(id, &mut write, stamp, now),
                Err(_) => return self.answer(request, Answer::Failed(Failure::Clock)),
            }
            // Whoever has not answered by half of the time is taken for gone.
            self.doing.insert(id, (Doing::Write(write), now.mono.after(spec.write_timeout / 2)));
            return;
        }
        if !self.can_reach(&write, spec.writes.max(spec.reads)) {
            return self.answer(request, Answer::Failed(Failure::NoQuorum));
        }
        for node in union(&write.sets) {
            self.send(node, Message::Ask { id, key: write.key.clone(), op });
        }
        self.doing.insert(id, (Doing::Write(write), deadline));
    }

    fn can_reach(&self, write: &Write, count: usize) -> bool {
        #[cfg(any(test, feature = "planted-bugs"))]
        if self.rules.planted == Some(super::rules::Planted::HintsCount) {
            return true;
        }
        reached(&write.sets, count, |node| self.is_there(node) && !write.refused.contains_key(&node))
    }

    /// Another ring has come up: its replicas are asked as well.
    pub(super) fn replan_write(&mut self, id: u64, write: &mut Write, now: Now) {
        let sets = self.sets(&write.key);
        let known = union(&write.sets);
        write.sets = sets;
        for node in union(&write.sets).into_iter().filter(|node| !known.contains(node)) {
            match write.record.clone() {
                Some(record) => self.store_at(id, write, node, &record, now),
                None => self.send(node, Message::Ask { id, key: write.key.clone(), op: write.op }),
            }
        }
    }

    /// A replica tells what it has for a write.
    pub(super) fn tell(&mut self, to: u64, id: u64, key: &Key, op: OpId) {
        let kept = self.table.find(key);
        let batch = kept.map_or(0, |kept| kept.batch);
        let stamp = kept.map(|kept| kept.record.stamp);
        let is_live = kept.is_some_and(|kept| kept.record.value.is_some());
        let of_kept = kept.filter(|kept| kept.record.op == op).map(|kept| kept.record.stamp);
        let known = of_kept.or_else(|| self.table.known(op));
        self.send_after(batch, to, Message::Told { id, stamp, is_live, known });
    }

    /// An answer to a write has come. Says whether there is more to come.
    pub(super) fn continue_write(
        &mut self,
        id: u64,
        write: &mut Write,
        from: u64,
        message: &Message,
        now: Now,
    ) -> bool {
        match *message {
            Message::Told { stamp, is_live, known, .. } if write.record.is_none() => {
                write.told.insert(from, Told { stamp, is_live, known });
                if reached(&write.sets, write.spec.reads, |node| write.told.contains_key(&node)) {
                    self.decide(id, write, now);
                }
            }
            Message::Stored { .. } => {
                write.acks.insert(from);
            }
            Message::Refused { why, .. } => {
                write.refused.insert(from, why);
            }
            _ => {}
        }
        self.judge_write(write)
    }

    /// Enough replicas have told what they have.
    fn decide(&mut self, id: u64, write: &mut Write, now: Now) {
        let latest = write.told.values().max_by_key(|told| told.stamp);
        write.existed = latest.is_some_and(|told| told.is_live);
        if let Some(known) = write.told.values().filter_map(|told| told.known).max() {
            return self.store(id, write, known, now);
        }
        let seen =
            latest.and_then(|told| told.stamp).map_or(Ok(()), |at| self.clock.observe(at, now.wall_ms));
        match seen.and_then(|()| self.clock.next(now.wall_ms)) {
            Ok(stamp) => self.store(id, write, stamp, now),
            Err(_) => self.fail(write, Failure::Clock),
        }
    }

    fn store(&mut self, id: u64, write: &mut Write, stamp: Stamp, now: Now) {
        let record = Record { stamp, op: write.op, value: write.value.take() };
        write.record = Some(record.clone());
        for node in union(&write.sets) {
            self.store_at(id, write, node, &record, now);
        }
    }

    fn store_at(&mut self, id: u64, write: &mut Write, node: u64, record: &Record, now: Now) {
        if self.is_there(node) {
            self.send(node, Message::Store { id, key: write.key.clone(), record: record.clone() });
        } else {
            self.hint(id, write, node, record.clone(), now);
        }
    }

    fn hint(&mut self, id: u64, write: &mut Write, to: u64, record: Record, now: Now) {
        if write.hinted.insert(to) {
            let hint = Hint { to, key: write.key.clone(), record, at_ms: now.wall_ms };
            let number = self.hints.add(hint.clone());
            let batch = self.write(Change::Hint(number, Some(hint)));
            self.counts.hints_queued += 1;
            self.after_batch(batch, Due::Hinted(id));
        }
    }

    /// A hint of this write is on the disk.
    pub(super) fn hinted(&mut self, id: u64, _now: Now) {
        let Some((Doing::Write(mut write), due)) = self.doing.remove(&id) else { return };
        if write.is_eventual {
            self.succeed(&mut write);
        }
        #[cfg(any(test, feature = "planted-bugs"))]
        if self.rules.planted == Some(super::rules::Planted::HintsCount) {
            write.acks.append(&mut write.hinted.clone());
        }
        if self.judge_write(&mut write) {
            self.doing.insert(id, (Doing::Write(write), due));
        }
    }

    /// Answers it if that can be done. Says whether there is more to come.
    fn judge_write(&mut self, write: &mut Write) -> bool {
        if write.record.is_none() {
            return write.request.is_some();
        }
        let needed = if write.is_eventual { usize::from(write.acks.is_empty()) } else { write.spec.writes };
        if reached(&write.sets, needed, |node| write.acks.contains(&node)) {
            self.succeed(write);
        } else if !write.is_eventual && write.request.is_some() {
            let may = |node: u64| write.acks.contains(&node) || !write.refused.contains_key(&node);
            if !reached(&write.sets, needed, may) {
                let is_full = write.refused.values().any(|why| *why == Refusal::Full);
                self.fail(write, if is_full { Failure::Full } else { Failure::Clock });
            }
        }
        let is_settled = |node: &u64| {
            write.acks.contains(node) || write.hinted.contains(node) || write.refused.contains_key(node)
        };
        // An eventual one that waits for its hint to be kept is not over.
        write.request.is_some() || !union(&write.sets).iter().all(is_settled)
    }

    fn succeed(&mut self, write: &mut Write) {
        if let (Some(request), Some(record)) = (write.request.take(), &write.record) {
            self.answer(request, Answer::Written(record.stamp, write.existed));
        }
    }

    fn fail(&mut self, write: &mut Write, failure: Failure) {
        if let Some(request) = write.request.take() {
            self.answer(request, Answer::Failed(failure));
        }
    }

    /// Its time, or the first half of it, is over. Says until when it goes on.
    pub(super) fn end_write(&mut self, id: u64, write: &mut Write, now: Now) -> Option<Mono> {
        if let Some(record) = write.record.clone() {
            for node in union(&write.sets) {
                if !write.acks.contains(&node) && !write.refused.contains_key(&node) {
                    self.hint(id, write, node, record.clone(), now);
                }
            }
        }
        if now.mono < write.deadline {
            return Some(write.deadline);
        }
        if write.is_eventual && !write.refused.is_empty() {
            self.fail(write, Failure::Clock);
        }
        let failure = if write.record.is_some() { Failure::TimedOut } else { Failure::NoQuorum };
        self.fail(write, failure);
        None
    }
}
