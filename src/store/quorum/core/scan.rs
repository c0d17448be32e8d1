//! Keys in order, of all servers at once. Enough of them must answer that no key can be missing which a read by quorum
//! would find. Nothing is repaired.

use std::collections::BTreeMap;

use super::{
    machine::{Doing, Machine},
    message::Message,
    record::Record,
    ring::union,
    rules::{Answer, Failure, Level, Now, Spec},
};
use crate::store::core::key::Key;

/// Keys of one answer at most, and bytes.
const MOST_LISTED: usize = 1000;
const MOST_BYTES: usize = 1 << 20;

/// A page that is being read.
#[derive(Debug)]
pub(super) struct Scanning {
    pub(super) request: Option<u64>,
    prefix: String,
    after: Option<Key>,
    limit: usize,
    spec: Spec,
    is_eventual: bool,
    /// The members of each ring.
    rings: Vec<Vec<u64>>,
    answers: BTreeMap<u64, (Vec<(Key, Record)>, bool)>,
}

impl Machine {
    pub(super) fn begin_scan(
        &mut self,
        request: u64,
        prefix: String,
        after: Option<Key>,
        limit: usize,
        level: Level,
        now: Now,
    ) {
        let spec = self.spec_of(&prefix);
        let scan = Scanning {
            request: Some(request),
            prefix,
            after,
            limit: limit.clamp(1, MOST_LISTED),
            spec,
            is_eventual: level == Level::Eventual,
            rings: self.rings.widest(),
            answers: BTreeMap::new(),
        };
        if !scan.is_eventual && !scan.is_enough(|node| self.is_there(node)) {
            return self.answer(request, Answer::Failed(Failure::NoQuorum));
        }
        let id = self.new_id();
        for node in union(&scan.rings) {
            self.ask_list(node, id, &scan);
        }
        self.doing.insert(id, (Doing::Scan(scan), now.mono.after(spec.read_timeout)));
    }

    fn ask_list(&mut self, node: u64, id: u64, scan: &Scanning) {
        let (prefix, after) = (scan.prefix.clone(), scan.after.clone());
        let limit = u32::try_from(scan.limit).unwrap_or(u32::MAX);
        self.send(node, Message::List { id, prefix, after, limit });
    }

    /// Another ring has come up: its members are asked as well.
    pub(super) fn replan_scan(&mut self, id: u64, scan: &mut Scanning) {
        let known = union(&scan.rings);
        scan.rings = self.rings.widest();
        for node in union(&scan.rings).into_iter().filter(|node| !known.contains(node)) {
            self.ask_list(node, id, scan);
        }
    }

    /// A server tells its keys.
    pub(super) fn list(&mut self, to: u64, id: u64, prefix: &str, after: Option<&Key>, limit: u32) {
        let most = (limit as usize).min(MOST_LISTED);
        let (mut entries, mut bytes, mut batch, mut more) = (Vec::new(), 0, 0, false);
        for (key, kept) in self.table.with_prefix(prefix, after) {
            bytes += key.as_str().len() + kept.record.size();
            if entries.len() >= most || (bytes > MOST_BYTES && !entries.is_empty()) {
                more = true;
                break;
            }
            batch = batch.max(kept.batch);
            entries.push((key.clone(), kept.record.clone()));
        }
        self.send_after(batch, to, Message::Listed { id, entries, more });
    }

    /// A server has told its keys. Says whether there is more to come.
    pub(super) fn continue_scan(&mut self, scan: &mut Scanning, from: u64, message: Message) -> bool {
        if let Message::Listed { entries, more, .. } = message {
            scan.answers.insert(from, (entries, more));
        }
        let has = |node: u64| scan.answers.contains_key(&node);
        let is_done = if scan.is_eventual {
            union(&scan.rings).iter().all(|node| has(*node) || !self.is_there(*node))
        } else {
            scan.is_enough(has)
        };
        if is_done {
            self.answer_scan(scan);
        }
        scan.request.is_some()
    }

    fn answer_scan(&mut self, scan: &mut Scanning) {
        if let Some(request) = scan.request.take() {
            let (entries, next) = scan.merged();
            self.answer(request, Answer::Listed(entries, next));
        }
    }

    /// Its time is over.
    pub(super) fn end_scan(&mut self, scan: &mut Scanning) {
        if scan.is_eventual && !scan.answers.is_empty() {
            return self.answer_scan(scan);
        }
        if let Some(request) = scan.request.take() {
            self.answer(request, Answer::Failed(Failure::NoQuorum));
        }
    }
}

impl Scanning {
    /// Whether of each key, whoever keeps it, as many replicas are among these as a read asks.
    fn is_enough(&self, has: impl Fn(u64) -> bool) -> bool {
        self.rings.iter().all(|ring| {
            let replicas = self.spec.replicas.min(ring.len());
            let missing = ring.iter().filter(|node| !has(**node)).count();
            replicas >= self.spec.reads && missing <= replicas - self.spec.reads
        })
    }

    /// The page, and after which key the next one begins.
    fn merged(&mut self) -> (Vec<(Key, Record)>, Option<Key>) {
        let answers = std::mem::take(&mut self.answers);
        // What is after the last key of one that has more may be missing there.
        let ends = answers.values().filter(|(_, more)| *more).filter_map(|(entries, _)| entries.last());
        let end = ends.map(|(key, _)| key.clone()).min();
        let mut merged: BTreeMap<Key, Record> = BTreeMap::new();
        for (key, record) in answers.into_values().flat_map(|(entries, _)| entries) {
            if end.as_ref().is_none_or(|end| key <= *end) {
                let known = merged.remove(&key);
                let latest = known.map_or_else(|| record.clone(), |known| known.merge(record.clone()));
                merged.insert(key, latest);
            }
        }
        merged.retain(|_, record| record.value.is_some());
        let mut entries: Vec<_> = merged.into_iter().collect();
        let mut bytes = 0;
        let fitting = entries.iter().take(self.limit).take_while(|(key, record)| {
            bytes += key.as_str().len() + record.size();
            bytes <= MOST_BYTES
        });
        let fitting = fitting.count().max(1);
        if entries.len() > fitting {
            entries.truncate(fitting);
            let next = entries.last().map(|(key, _)| key.clone());
            return (entries, next);
        }
        (entries, end)
    }
}
