//! One read. The nearest replica gives the record, the others only its stamp. Replicas that are found behind are repaired:
//! before the answer if it is by quorum, after it otherwise.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    clock::Stamp,
    machine::{Doing, MOST_BACKGROUND, Machine},
    message::Message,
    record::Record,
    ring::{reached, union},
    rules::{Answer, Failure, Level, Now, Spec},
};
use crate::store::core::key::Key;

/// A read in progress.
#[derive(Debug)]
pub(super) struct Read {
    /// Who waits for it; nobody once it is answered.
    pub(super) request: Option<u64>,
    key: Key,
    level: Level,
    spec: Spec,
    sets: Vec<Vec<u64>>,
    /// The stamps that replicas have.
    answers: BTreeMap<u64, Option<Stamp>>,
    /// The latest record that was sent.
    best: Option<Record>,
    /// Who was asked for the record itself.
    asked: BTreeSet<u64>,
    /// Who was sent which stamp.
    repaired: BTreeMap<u64, Stamp>,
    /// Who has confirmed that.
    stored: BTreeSet<u64>,
}

impl Machine {
    pub(super) fn begin_read(&mut self, request: u64, key: Key, level: Level, now: Now) {
        #[cfg(test)]
        let level = match level {
            Level::Session(_) if self.rules.planted == Some(super::rules::Planted::IgnoresSession) => {
                Level::Session(super::session::Floor::default())
            }
            other => other,
        };
        let spec = self.spec(&key);
        let sets = self.sets(&key);
        if level == Level::Quorum && !reached(&sets, spec.reads, |node| self.is_there(node)) {
            return self.answer(request, Answer::Failed(Failure::NoQuorum));
        }
        let id = self.new_id();
        let replicas = union(&sets);
        let nearest = Some(self.own).filter(|own| replicas.contains(own));
        let nearest = nearest.or_else(|| replicas.iter().copied().find(|node| self.is_there(*node)));
        let mut asked = BTreeSet::new();
        for node in replicas {
            // Who has nothing of its own takes whichever answer comes first.
            let whole = Some(node) == nearest || (nearest != Some(self.own) && level != Level::Quorum);
            if whole {
                asked.insert(node);
            }
            self.send(node, Message::Fetch { id, key: key.clone(), whole });
        }
        let read = Read {
            request: Some(request),
            key,
            level,
            spec,
            sets,
            answers: BTreeMap::new(),
            best: None,
            asked,
            repaired: BTreeMap::new(),
            stored: BTreeSet::new(),
        };
        self.doing.insert(id, (Doing::Read(read), now.mono.after(spec.read_timeout)));
    }

    /// Another ring has come up: its replicas are asked as well.
    pub(super) fn replan_read(&mut self, id: u64, read: &mut Read) {
        let known = union(&read.sets);
        read.sets = self.sets(&read.key);
        for node in union(&read.sets).into_iter().filter(|node| !known.contains(node)) {
            self.send(node, Message::Fetch { id, key: read.key.clone(), whole: false });
        }
    }

    /// An answer to a read has come. Says whether there is more to come.
    pub(super) fn continue_read(
        &mut self,
        id: u64,
        read: &mut Read,
        from: u64,
        message: Message,
        now: Now,
    ) -> bool {
        match message {
            Message::Found { stamp, record, .. } => {
                let known = read.answers.entry(from).or_insert(stamp);
                *known = (*known).max(stamp);
                if let Some(record) = record
                    && read.best.as_ref().is_none_or(|best| record.is_after(best))
                {
                    read.best = Some(record);
                }
            }
            Message::Stored { .. } => {
                read.stored.insert(from);
            }
            _ => {}
        }
        self.judge_read(id, read, now)
    }

    fn judge_read(&mut self, id: u64, read: &mut Read, now: Now) -> bool {
        let latest = read.answers.values().copied().max().flatten();
        let best = read.best.clone().filter(|best| Some(best.stamp) >= latest);
        let is_certain = reached(&read.sets, read.spec.reads, |node| read.answers.contains_key(&node));
        if let (Some(latest), None) = (latest, &best) {
            // The nearest one is behind, or does not answer.
            let holder =
                read.answers.iter().find(|(node, has)| **has >= Some(latest) && !read.asked.contains(node));
            if let Some((node, _)) = holder.map(|(node, has)| (*node, *has)) {
                read.asked.insert(node);
                self.send(node, Message::Fetch { id, key: read.key.clone(), whole: true });
            }
            return true;
        }
        if is_certain && let Some(best) = &best {
            self.repair(id, read, best);
        }
        if read.request.is_some() && self.may_answer(read, latest, is_certain, now) {
            let request = read.request.take();
            request.into_iter().for_each(|request| self.answer(request, Answer::Got(best.clone())));
        }
        let is_heard = union(&read.sets).iter().all(|node| read.answers.contains_key(node));
        let is_background = read.request.is_none();
        !(is_background && (is_heard || self.doing.len() > MOST_BACKGROUND))
    }

    /// Sends the latest record to those that have an older one.
    fn repair(&mut self, id: u64, read: &mut Read, best: &Record) {
        let behind = read.answers.iter().filter(|(_, has)| **has < Some(best.stamp)).map(|(node, _)| *node);
        let behind: Vec<u64> =
            behind.filter(|node| read.repaired.get(node).is_none_or(|sent| *sent < best.stamp)).collect();
        for node in behind {
            read.repaired.insert(node, best.stamp);
            read.stored.remove(&node);
            self.counts.read_repairs += 1;
            self.send(node, Message::Store { id, key: read.key.clone(), record: best.clone() });
        }
    }

    fn may_answer(&self, read: &Read, latest: Option<Stamp>, is_certain: bool, now: Now) -> bool {
        let has = |node: u64| {
            read.answers.get(&node).is_some_and(|has| *has >= latest) || read.stored.contains(&node)
        };
        // Read later by as many replicas, it must be met again.
        let is_held = |least: usize| {
            latest.is_none()
                || read.sets.iter().all(|set| {
                    let count = set.iter().filter(|node| has(**node)).count();
                    count >= least.max(read.spec.reads)
                })
        };
        match read.level {
            Level::Eventual => !read.answers.is_empty(),
            Level::Quorum => is_certain && is_held(0),
            Level::Session(floor) => {
                // A removal that was seen so long ago may be forgotten by now.
                let age = u64::try_from(self.rules.tombstone_age.as_millis()).unwrap_or(u64::MAX);
                let is_old = floor.least.is_some_and(|least| least.ms.saturating_add(age) < now.wall_ms);
                let is_met = latest >= floor.least || (latest.is_none() && is_certain && is_old);
                let of_one = !floor.by_quorum && !read.answers.is_empty();
                let widest = read.sets.iter().map(Vec::len).max().unwrap_or(0);
                let crossing = (widest + 1).saturating_sub(read.spec.reads);
                is_met && (of_one || (is_certain && is_held(crossing)))
            }
        }
    }

    /// Its time is over.
    pub(super) fn end_read(&mut self, read: &mut Read) {
        let Some(request) = read.request.take() else { return };
        let is_certain = reached(&read.sets, read.spec.reads, |node| read.answers.contains_key(&node));
        let is_session = matches!(read.level, Level::Session(_));
        let failure = if is_certain && is_session { Failure::Behind } else { Failure::NoQuorum };
        self.answer(request, Answer::Failed(failure));
    }
}
