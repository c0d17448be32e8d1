//! What a server does by itself: it heeds who comes and goes, compares its records with the others', hands on what is for
//! others, and notices that it was away too long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    clock::Stamp,
    machine::{Doing, Machine, Peer},
    message::{Message, Standing},
    record::Record,
    ring::{Ring, union},
    rules::{Answer, Change, Failure, Now, Reach, Spec},
};
use crate::{store::core::key::Key, types::Mono};

/// Parts of a tree that are looked into at once.
const MOST_PARTS: usize = 8;
/// Keys of one message about a part, and of one comparison.
const MOST_ENTRIES: usize = 512;
const MOST_COMPARED: usize = 4096;
/// Bytes of records in one message.
const MOST_BYTES: usize = 512 << 10;
/// Servers that are compared with in one tick.
const MOST_PEERS: usize = 4;
/// Hints on their way to one server.
const MOST_HINTS: usize = 64;
/// Records that are handed on in one tick.
const MOST_MOVES: usize = 64;

impl Peer {
    pub(super) fn new(reach: Reach, now: Mono) -> Self {
        let gone_since = (reach == Reach::Gone).then_some(now);
        Self { reach, gone_since, heard: None, says: None, compare: now, same: None }
    }
}

impl Machine {
    /// Gossip knows these servers.
    pub(super) fn learn_peers(&mut self, peers: &[(u64, Reach)], now: Now) {
        let members = self.rings.current().members().to_vec();
        for node in members.into_iter().chain(peers.iter().map(|(node, _)| *node)) {
            let reach =
                peers.iter().find(|(known, _)| *known == node).map_or(Reach::Gone, |(_, reach)| *reach);
            let peer = self.peers.entry(node).or_insert_with(|| Peer::new(reach, now.mono));
            peer.reach = reach;
            peer.gone_since = match reach {
                Reach::There => None,
                Reach::Gone => peer.gone_since.or(Some(now.mono)),
            };
        }
        self.update_ring(now);
    }

    /// Those who are there come in at once. Who is gone goes out late, and only if most of the others are here: half of a
    /// mesh that is cut in two does not throw out the other.
    fn update_ring(&mut self, now: Now) {
        if self.standing == Standing::Returning {
            return;
        }
        let may_remove = self.is_with_most(now);
        let is_long_gone = |node: &u64| {
            let since = self.peers.get(node).and_then(|peer| peer.gone_since);
            may_remove && since.is_some_and(|since| now.mono.since(since) > self.rules.tombstone_age)
        };
        let there = self.peers.iter().filter(|(_, peer)| peer.reach == Reach::There).map(|(node, _)| *node);
        let known = self.rings.current().members().iter().copied().filter(|node| !is_long_gone(node));
        let ring = Ring::new(known.chain(there).chain([self.own]));
        if self.rings.change(ring, now.mono, self.rules.handover) {
            self.write(Change::Ring(self.rings.current().members().to_vec()));
            self.rings_changed();
            self.replan(now);
        }
    }

    /// Other servers keep other keys.
    pub(super) fn rings_changed(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.same = None);
        let Self { table, rings, specs, own, .. } = self;
        let spec = |key: &Key| specs.get(super::record::keyspace(key.as_str())).copied().unwrap_or_default();
        self.strays = table.rebuild(
            |key| rings.current().replicas(key.as_str(), spec(key).replicas),
            |key| {
                let Spec { replicas, reads, writes, .. } = spec(key);
                union(&rings.sets(key.as_str(), replicas, reads, writes)).contains(own)
            },
        );
    }

    fn is_fresh(&self, node: u64, now: Now) -> bool {
        let heard = self.peers.get(&node).and_then(|peer| peer.heard);
        heard.is_some_and(|heard| now.mono.since(heard) <= self.rules.contact)
    }

    fn is_with_most(&self, now: Now) -> bool {
        let members = self.rings.current().members();
        let heard = members.iter().filter(|node| **node == self.own || self.is_fresh(**node, now)).count();
        2 * heard > members.len()
    }

    /// Whether this server was away for so long that it may have missed removals that are forgotten by now.
    pub(super) fn judge_absence(&mut self, now: Now) {
        let away = Duration::from_millis(now.wall_ms.saturating_sub(self.together_ms));
        if self.standing == Standing::Serving && away > self.rules.tombstone_age {
            self.standing = Standing::Returning;
            self.peers.values_mut().for_each(|peer| (peer.says, peer.heard) = (None, None));
        }
    }

    /// Whoever went on meanwhile has all that counts: then this server begins anew. If most have been away as well,
    /// nobody has forgotten anything.
    fn settle_absence(&mut self, now: Now) {
        let others: Vec<u64> =
            self.rings.current().members().iter().copied().filter(|node| *node != self.own).collect();
        let says = |node: &u64| {
            self.peers.get(node).filter(|_| self.is_fresh(*node, now)).and_then(|peer| peer.says)
        };
        let went_on = others.iter().any(|node| says(node) == Some(Standing::Serving));
        let returning = others.iter().filter(|node| says(node) == Some(Standing::Returning)).count();
        if !went_on && 2 * (returning + 1) <= self.rings.current().members().len() {
            return others.into_iter().for_each(|node| self.send(node, Message::Ping));
        }
        #[cfg(test)]
        let went_on = went_on && self.rules.planted != Some(super::rules::Planted::KeepsOld);
        if went_on {
            self.purge();
        }
        self.standing = Standing::Serving;
        self.was_together(now);
    }

    fn purge(&mut self) {
        for key in self.table.clear() {
            self.write(Change::Record(key, None));
        }
        for number in self.hints.numbers() {
            self.drop_hint(number);
        }
        self.strays.clear();
        self.replaying.clear();
        // A write of before the absence must not come to anything any more.
        for (doing, _) in std::mem::take(&mut self.doing).into_values() {
            let request = match doing {
                Doing::Write(write) => write.request,
                Doing::Read(read) => read.request,
                Doing::Scan(scan) => scan.request,
                Doing::Replay(_) | Doing::Move(..) | Doing::Collect(_) => None,
            };
            request.into_iter().for_each(|request| self.answer(request, Answer::Failed(Failure::Returning)));
        }
        self.counts.purges += 1;
    }

    fn was_together(&mut self, now: Now) {
        self.together_ms = self.together_ms.max(now.wall_ms);
        let contact = u64::try_from(self.rules.contact.as_millis()).unwrap_or(u64::MAX);
        if self.together_ms.saturating_sub(self.together_written) > contact {
            self.together_written = self.together_ms;
            self.write(Change::Together(self.together_ms));
        }
    }

    /// What is to be done from time to time.
    pub(super) fn tick(&mut self, now: Now) {
        if self.rings.advance(now.mono) {
            self.rings_changed();
        }
        if self.standing == Standing::Returning {
            return self.settle_absence(now);
        }
        let is_with_most = self.is_with_most(now);
        if is_with_most {
            self.was_together(now);
        }
        self.update_ring(now);
        let ago =
            |age: Duration| now.wall_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        for op in self.table.forget(ago(self.rules.op_age)) {
            self.write(Change::Op(op, None));
        }
        let ttl_ms = u64::try_from(self.rules.hint_ttl.as_millis()).unwrap_or(u64::MAX);
        while let Some(number) = self.hints.surplus(now.wall_ms, ttl_ms, self.rules.hint_room) {
            self.drop_hint(number);
        }
        self.compare(now);
        self.replay(now);
        self.move_strays(now);
        #[cfg(test)]
        if self.rules.planted == Some(super::rules::Planted::ForgetsAtOnce) {
            let removed: Vec<Key> = self.table.tombstones(u64::MAX).map(|(_, key)| key.clone()).collect();
            removed.iter().for_each(|key| self.erase(key));
        }
        if is_with_most {
            self.collect_tombstones(now);
        }
    }

    fn drop_hint(&mut self, number: u64) {
        if self.hints.remove(number).is_some() {
            self.counts.hints_dropped += 1;
            self.write(Change::Hint(number, None));
        }
    }

    fn compare(&mut self, now: Now) {
        let due: Vec<u64> =
            self.rings.current().members().iter().copied().filter(|node| *node != self.own).collect();
        let mut asked = 0;
        for node in due {
            let next = now.mono.after(self.rules.compare);
            let peer = self.peers.entry(node).or_insert_with(|| Peer::new(Reach::Gone, now.mono));
            if peer.compare > now.mono || asked >= MOST_PEERS {
                continue;
            }
            peer.compare = next;
            asked += 1;
            let (root, at) = (self.table.tree(node).root(), self.closed_batch());
            self.send(node, Message::Compare { root, at });
        }
    }

    pub(super) fn compared(&mut self, from: u64, root: u64, at: u64) {
        let tree = self.table.tree(from);
        if tree.root() == root {
            // What is not on the disk yet is not promised.
            let batch = self.last_change();
            self.send_after(batch, from, Message::Same { at });
        } else {
            self.send(from, Message::Leaves(tree.leaves().to_vec()));
        }
    }

    pub(super) fn found_same(&mut self, from: u64, at: u64) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.same = peer.same.max(Some(at));
        }
    }

    /// Tells what is here of the parts that differ.
    pub(super) fn show_ranges(&mut self, from: u64, leaves: &[u64], now: Now) {
        let tree = self.table.tree(from);
        let mut compared = 0;
        for part in tree.differing(leaves).take(MOST_PARTS) {
            let of_part = self.table.part(part, None, None);
            let shared = of_part.filter(|(key, _)| self.is_shared(key, from));
            let entries: Vec<(Key, Stamp)> =
                shared.map(|(key, kept)| (key.clone(), kept.record.stamp)).take(MOST_COMPARED).collect();
            compared += entries.len();
            let is_whole = entries.len() < MOST_COMPARED;
            let mut after = None;
            let mut pages = entries.chunks(MOST_ENTRIES).peekable();
            if pages.peek().is_none() {
                let leaf = part as u32;
                self.send(from, Message::Range { leaf, after: None, last: None, entries: Vec::new() });
            }
            while let Some(page) = pages.next() {
                let last = page.last().map(|(key, _)| key.clone());
                let is_end = pages.peek().is_none() && is_whole;
                let range = Message::Range {
                    leaf: part as u32,
                    after: after.take(),
                    last: last.clone().filter(|_| !is_end),
                    entries: page.to_vec(),
                };
                after = last;
                self.send(from, range);
            }
            if compared > MOST_COMPARED {
                break;
            }
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.compare = now.mono.after(self.rules.again);
        }
    }

    pub(super) fn is_shared(&self, key: &Key, other: u64) -> bool {
        let owners = self.owners(key);
        owners.contains(&self.own) && owners.contains(&other)
    }

    /// Sends what is later here, and asks for what is later there.
    pub(super) fn answer_range(
        &mut self,
        from: u64,
        leaf: usize,
        after: Option<&Key>,
        last: Option<&Key>,
        entries: &[(Key, Stamp)],
    ) {
        let theirs: BTreeMap<&Key, Stamp> = entries.iter().map(|(key, stamp)| (key, *stamp)).collect();
        let of_part = self.table.part(leaf, after, last);
        let later =
            of_part.filter(|(key, kept)| theirs.get(key).is_none_or(|stamp| *stamp < kept.record.stamp));
        let later: Vec<Key> =
            later.filter(|(key, _)| self.is_shared(key, from)).map(|(key, _)| key.clone()).collect();
        let is_earlier = |key: &Key, stamp: Stamp| {
            self.table.find(key).is_none_or(|kept| kept.record.stamp < stamp) && self.is_shared(key, from)
        };
        let wanted: Vec<Key> = theirs
            .iter()
            .filter(|(key, stamp)| is_earlier(key, **stamp))
            .map(|(key, _)| (*key).clone())
            .collect();
        self.send_records(from, &later);
        if !wanted.is_empty() {
            self.send(from, Message::Want(wanted));
        }
    }

    /// Sends records, as many as one message takes; the rest is found different the next time.
    pub(super) fn send_records(&mut self, to: u64, keys: &[Key]) {
        let (mut records, mut bytes, mut batch) = (Vec::new(), 0, 0);
        for key in keys {
            let Some(kept) = self.table.find(key) else { continue };
            bytes += key.as_str().len() + kept.record.size();
            if bytes > MOST_BYTES && !records.is_empty() {
                break;
            }
            batch = batch.max(kept.batch);
            records.push((key.clone(), kept.record.clone()));
        }
        if !records.is_empty() {
            self.send_after(batch, to, Message::Records(records));
        }
    }

    /// Another server has sent what is later there.
    pub(super) fn take_records(&mut self, from: u64, records: Vec<(Key, Record)>, now: Now) {
        for (key, record) in records {
            let is_news = self.table.find(&key).is_none_or(|kept| record.is_after(&kept.record));
            // What is refused is found different the next time.
            if is_news && self.is_shared(&key, from) && self.absorb(&key, record, now).is_ok() {
                self.counts.differences += 1;
            }
        }
    }

    fn replay(&mut self, now: Now) {
        for target in self.hints.targets() {
            if !self.is_there(target) {
                continue;
            }
            let waiting =
                self.hints.of(target, MOST_HINTS).filter(|(number, _)| !self.replaying.contains(number));
            let waiting: Vec<_> = waiting.map(|(number, hint)| (number, hint.clone())).collect();
            for (number, hint) in waiting {
                let id = self.new_id();
                self.replaying.insert(number);
                self.doing.insert(id, (Doing::Replay(number), now.mono.after(self.rules.again)));
                self.send(target, Message::Store { id, key: hint.key, record: hint.record });
            }
        }
    }

    /// A hint has got there, or was refused. Says whether there is more to come.
    pub(super) fn end_replay(&mut self, number: u64, message: &Message) -> bool {
        let is_stored = matches!(message, Message::Stored { .. });
        if is_stored {
            self.replaying.remove(&number);
            if self.hints.remove(number).is_some() {
                self.counts.hints_replayed += 1;
                self.write(Change::Hint(number, None));
            }
        }
        // One that was refused stays marked until its time is over, and is then sent again.
        !is_stored
    }

    /// Hands on records that are others' to keep.
    fn move_strays(&mut self, now: Now) {
        for _ in 0..MOST_MOVES {
            let Some(key) = self.strays.pop_first() else { return };
            let Some(kept) = self.table.find(&key) else { continue };
            let (record, owners) = (kept.record.clone(), self.owners(&key));
            let id = self.new_id();
            for owner in &owners {
                self.send(*owner, Message::Store { id, key: key.clone(), record: record.clone() });
            }
            let left = owners.into_iter().collect();
            self.doing
                .insert(id, (Doing::Move(key, record.stamp, left), now.mono.after(self.rules.again * 5)));
        }
    }

    /// A record has been taken by one of those who keep it. Says whether there is more to come.
    pub(super) fn continue_move(
        &mut self,
        key: &Key,
        stamp: Stamp,
        left: &mut BTreeSet<u64>,
        from: u64,
        message: &Message,
    ) -> bool {
        if matches!(message, Message::Stored { .. }) {
            left.remove(&from);
        }
        if !left.is_empty() {
            return true;
        }
        let sets = self.sets(key);
        let is_that = self.table.find(key).is_some_and(|kept| kept.record.stamp == stamp);
        if !union(&sets).contains(&self.own) {
            if is_that {
                self.erase(key);
            } else {
                self.strays.insert(key.clone());
            }
        }
        false
    }
}
