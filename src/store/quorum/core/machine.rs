//! One server of the leaderless tier: what comes from callers, from other servers and from the disk goes in; messages,
//! answers and what is to be written come out. Single operations are in write.rs, read.rs and scan.rs, what it does by
//! itself in repair.rs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    clock::{Clock, Stamp},
    hints::Hints,
    message::{Message, Packet, Refusal, Standing},
    read::Read,
    record::{Record, keyspace},
    ring::{MOST_BEFORE, Ring, Rings},
    rules::{
        Answer, Change, Counts, Failure, Input, Level, Loaded, Now, Output, Reach, Rules, Spec, Specs, Want,
    },
    scan::Scanning,
    table::{Kept, Table},
    write::Write,
};
use crate::{store::core::key::Key, types::Mono};

/// What is known of another server.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) reach: Reach,
    pub(super) gone_since: Option<Mono>,
    pub(super) heard: Option<Mono>,
    pub(super) says: Option<Standing>,
    pub(super) compare: Mono,
    /// All that was here up to this batch is there as well.
    pub(super) same: Option<u64>,
}

/// What goes on.
#[derive(Debug)]
pub(super) enum Doing {
    Write(Write),
    Read(Read),
    Scan(Scanning),
    /// A hint is on its way.
    Replay(u64),
    /// A record that is others' to keep is on its way to these.
    Move(Key, Stamp, BTreeSet<u64>),
    /// Removals are being forgotten; which of them by whom.
    Collect(BTreeMap<Key, (Stamp, BTreeSet<u64>)>),
}

/// What waits for the disk.
#[derive(Debug)]
pub(super) enum Due {
    Send(u64, Message),
    /// A hint of this operation is kept.
    Hinted(u64),
}

/// One server.
#[derive(Debug)]
pub struct Machine {
    pub(super) own: u64,
    pub(super) rules: Rules,
    pub(super) specs: Specs,
    pub(super) rings: Rings,
    pub(super) table: Table,
    pub(super) hints: Hints,
    pub(super) clock: Clock,
    pub(super) peers: BTreeMap<u64, Peer>,
    pub(super) standing: Standing,
    pub(super) together_ms: u64,
    pub(super) together_written: u64,
    pub(super) doing: BTreeMap<u64, (Doing, Mono)>,
    pub(super) replaying: BTreeSet<u64>,
    pub(super) strays: BTreeSet<Key>,
    pub(super) counts: Counts,
    next_id: u64,
    batch: u64,
    synced: u64,
    changes: Vec<Change>,
    due: BTreeMap<u64, Vec<Due>>,
    inbox: VecDeque<Message>,
    outbox: BTreeMap<u64, Vec<Message>>,
    answers: VecDeque<(u64, Answer)>,
    next_tick: Mono,
    /// When it was last told the time.
    seen: Mono,
}

/// Operations at once; more are refused.
const MOST_DOING: usize = 4096;
/// Reads that are looked after beyond their answer.
pub(super) const MOST_BACKGROUND: usize = 512;

impl Machine {
    /// Server `own`, with what was on its disk. `writer` was drawn by chance for this process alone.
    #[must_use]
    pub fn new(own: u64, writer: u64, rules: Rules, specs: Specs, loaded: Loaded, now: Now) -> Self {
        let mut machine = Self {
            own,
            specs,
            rings: Rings::new(Ring::default(), now.mono),
            table: Table::new(own),
            hints: Hints::default(),
            clock: Clock::new(writer),
            peers: BTreeMap::new(),
            standing: Standing::Serving,
            together_ms: now.wall_ms,
            together_written: 0,
            doing: BTreeMap::new(),
            replaying: BTreeSet::new(),
            strays: BTreeSet::new(),
            counts: Counts::default(),
            // Answers to questions of an earlier process answer none of this one.
            next_id: writer,
            batch: 1,
            synced: 0,
            changes: Vec::new(),
            due: BTreeMap::new(),
            inbox: VecDeque::new(),
            outbox: BTreeMap::new(),
            answers: VecDeque::new(),
            next_tick: now.mono,
            seen: now.mono,
            rules,
        };
        machine.load(loaded, now);
        machine
    }

    fn load(&mut self, Loaded(changes): Loaded, now: Now) {
        for change in changes {
            match change {
                Change::Record(key, Some(record)) => {
                    // Later stamps of this server are greater, if its clock allows that.
                    let _ = self.clock.observe(record.stamp, now.wall_ms);
                    self.table.put(&key, Kept { record, batch: 0 }, &[]);
                }
                Change::Hint(number, Some(hint)) => self.hints.load(number, hint),
                Change::Op(op, Some((stamp, at_ms))) => {
                    self.table.remember(op, stamp, at_ms);
                }
                Change::Ring(members) => self.rings = Rings::new(Ring::new(members), now.mono),
                Change::Together(ms) => self.together_ms = ms.min(now.wall_ms),
                Change::Record(_, None) | Change::Hint(_, None) | Change::Op(_, None) => {}
            }
        }
        self.judge_absence(now);
        self.rings_changed();
    }

    /// Takes in what has come, and does what follows from it.
    pub fn handle(&mut self, input: Input, now: Now) {
        self.seen = now.mono;
        // A process that was stopped for a day hears of it here first.
        self.judge_absence(now);
        match input {
            Input::Peers(peers) => self.learn_peers(&peers, now),
            Input::Received(from, packet) => self.receive(from, packet, now),
            Input::Asked(request, want, level) => self.begin(request, want, level, now),
            Input::Synced(batch) => {
                self.synced = self.synced.max(batch);
                let later = self.due.split_off(&(self.synced + 1));
                for due in std::mem::replace(&mut self.due, later).into_values().flatten() {
                    self.release(due, now);
                }
            }
        }
        self.settle(now);
    }

    /// Does what is to be done by now.
    pub fn advance(&mut self, now: Now) {
        self.seen = now.mono;
        self.judge_absence(now);
        let over: Vec<u64> =
            self.doing.iter().filter(|(_, (_, due))| *due <= now.mono).map(|(id, _)| *id).collect();
        for id in over {
            self.time_is_up(id, now);
        }
        if self.next_tick <= now.mono {
            self.next_tick = now.mono.after(self.rules.tick);
            self.tick(now);
        }
        self.settle(now);
    }

    /// When [`Machine::advance`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        let due = self.doing.values().map(|(_, due)| *due).min();
        due.map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    /// What comes out.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some((request, answer)) = self.answers.pop_front() {
            return Some(Output::Answer(request, answer));
        }
        let (to, messages) = self.outbox.pop_first()?;
        let members = self.rings.current().members().to_vec();
        let before = self.rings.told(self.seen, self.rules.handover);
        Some(Output::Send(to, Packet { members, before, standing: self.standing, messages }))
    }

    /// What is to be written next, and its number; each is asked for once the one before is on the disk.
    pub fn batch(&mut self) -> Option<(u64, Vec<Change>)> {
        if self.changes.is_empty() {
            return None;
        }
        let number = self.batch;
        self.batch += 1;
        Some((number, std::mem::take(&mut self.changes)))
    }

    /// What has happened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Records, removals among them, hints.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.table.len(), self.table.removed(), self.hints.len())
    }

    /// The records of this server, for those who look at it from outside.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The ring as this server sees it, and whether what it has may be believed.
    #[must_use]
    pub fn ring(&self) -> (&Ring, Standing) {
        (self.rings.current(), self.standing)
    }

    fn receive(&mut self, from: u64, packet: Packet, now: Now) {
        let Packet { members, before, standing, messages } = packet;
        let peer = self.peers.entry(from).or_insert_with(|| Peer::new(Reach::There, now.mono));
        (peer.heard, peer.says) = (Some(now.mono), Some(standing));
        if self.rings.current().has(from) {
            let mut is_news = self.rings.learn(Ring::new(members), now.mono, self.rules.handover);
            for (members, left_ms) in before.into_iter().take(MOST_BEFORE) {
                let left = Duration::from_millis(left_ms.into()).min(self.rules.handover);
                is_news |= self.rings.heed(Ring::new(members), left, now.mono);
            }
            if is_news {
                self.rings_changed();
                self.replan(now);
            }
        }
        for message in messages {
            match message {
                Message::Ping => self.send(from, Message::Pong),
                Message::Pong => {}
                // What a node that was away too long has is not to be spread, nor is it asked for anything.
                _ if Standing::Returning == standing || Standing::Returning == self.standing => {}
                message => self.take(from, message, now),
            }
        }
    }

    /// Messages to itself, until there are none.
    fn settle(&mut self, now: Now) {
        while let Some(message) = self.inbox.pop_front() {
            self.take(self.own, message, now);
        }
    }

    fn take(&mut self, from: u64, message: Message, now: Now) {
        match message {
            Message::Ask { id, key, op } => self.tell(from, id, &key, op),
            Message::Store { id, key, record } => {
                let answer = match self.absorb(&key, record, now) {
                    Ok(batch) => return self.send_after(batch, from, Message::Stored { id }),
                    Err(why) => Message::Refused { id, why },
                };
                self.send(from, answer);
            }
            Message::Fetch { id, key, whole } => {
                let kept = self.table.find(&key);
                let batch = kept.map_or(0, |kept| kept.batch);
                let record = kept.filter(|_| whole).map(|kept| kept.record.clone());
                let stamp = kept.map(|kept| kept.record.stamp);
                self.send_after(batch, from, Message::Found { id, stamp, record });
            }
            Message::List { id, prefix, after, limit } => self.list(from, id, &prefix, after.as_ref(), limit),
            Message::Told { id, .. }
            | Message::Stored { id }
            | Message::Refused { id, .. }
            | Message::Found { id, .. }
            | Message::Listed { id, .. }
            | Message::Collected { id, .. } => self.answered(from, id, message, now),
            Message::Compare { root, at } => self.compared(from, root, at),
            Message::Same { at } => self.found_same(from, at),
            Message::Leaves(leaves) => self.show_ranges(from, &leaves, now),
            Message::Range { leaf, after, last, entries } => {
                self.answer_range(from, leaf as usize, after.as_ref(), last.as_ref(), &entries);
            }
            Message::Want(keys) => self.send_records(from, &keys),
            Message::Records(records) => self.take_records(from, records, now),
            Message::Collect { id, epoch, tombstones } => self.collect(from, id, epoch, tombstones, now),
            Message::Ping | Message::Pong => {}
        }
    }

    /// An answer to a question of this server has come.
    fn answered(&mut self, from: u64, id: u64, message: Message, now: Now) {
        let Some((mut doing, due)) = self.doing.remove(&id) else { return };
        let goes_on = match &mut doing {
            Doing::Write(write) => self.continue_write(id, write, from, &message, now),
            Doing::Read(read) => self.continue_read(id, read, from, message, now),
            Doing::Scan(scan) => self.continue_scan(scan, from, message),
            Doing::Replay(number) => self.end_replay(*number, &message),
            Doing::Move(key, stamp, left) => self.continue_move(key, *stamp, left, from, &message),
            Doing::Collect(tombstones) => self.continue_collect(tombstones, from, message),
        };
        if goes_on {
            self.doing.insert(id, (doing, due));
        }
    }

    fn time_is_up(&mut self, id: u64, now: Now) {
        let Some((mut doing, _)) = self.doing.remove(&id) else { return };
        match &mut doing {
            Doing::Write(write) => {
                if let Some(until) = self.end_write(id, write, now) {
                    self.doing.insert(id, (doing, until));
                }
            }
            Doing::Read(read) => self.end_read(read),
            Doing::Scan(scan) => self.end_scan(scan),
            Doing::Replay(number) => {
                self.replaying.remove(number);
            }
            Doing::Move(key, ..) => {
                self.strays.insert(key.clone());
            }
            Doing::Collect(_) => {}
        }
    }

    /// Another ring counts: what goes on has to heed it.
    pub(super) fn replan(&mut self, now: Now) {
        for (id, (mut doing, due)) in std::mem::take(&mut self.doing) {
            match &mut doing {
                Doing::Write(write) => self.replan_write(id, write, now),
                Doing::Read(read) => self.replan_read(id, read),
                Doing::Scan(scan) => self.replan_scan(id, scan),
                Doing::Replay(_) | Doing::Move(..) | Doing::Collect(_) => {}
            }
            self.doing.insert(id, (doing, due));
        }
    }

    fn begin(&mut self, request: u64, want: Want, level: Level, now: Now) {
        if self.standing == Standing::Returning {
            return self.answer(request, Answer::Failed(Failure::Returning));
        }
        if self.doing.len() >= MOST_DOING {
            return self.answer(request, Answer::Failed(Failure::Busy));
        }
        match want {
            Want::Get(key) => self.begin_read(request, key, level, now),
            Want::Put(key, op, value) => self.begin_write(request, key, op, value, level, now),
            Want::List { prefix, after, limit } => {
                self.begin_scan(request, prefix, after, limit, level, now);
            }
        }
    }

    /// Keeps a record, unless what is there is later; the batch with which what is there then goes to the disk.
    pub(super) fn absorb(&mut self, key: &Key, record: Record, now: Now) -> Result<u64, Refusal> {
        if self.clock.observe(record.stamp, now.wall_ms).is_err() {
            self.counts.clock_refusals += 1;
            return Err(Refusal::Clock);
        }
        if let Some(kept) = self.table.find(key)
            && !record.is_after(&kept.record)
        {
            return Ok(kept.batch);
        }
        if record.value.is_some() && self.table.bytes() + record.size() > self.rules.room {
            return Err(Refusal::Full);
        }
        if self.table.remember(record.op, record.stamp, now.wall_ms) {
            self.changes.push(Change::Op(record.op, Some((record.stamp, now.wall_ms))));
        }
        self.changes.push(Change::Record(key.clone(), Some(record.clone())));
        let owners = self.owners(key);
        self.table.put(key, Kept { record, batch: self.batch }, &owners);
        if self.sets(key).iter().all(|set| !set.contains(&self.own)) {
            self.strays.insert(key.clone());
        }
        Ok(self.batch)
    }

    pub(super) fn erase(&mut self, key: &Key) {
        let owners = self.owners(key);
        if self.table.remove(key, &owners).is_some() {
            self.write(Change::Record(key.clone(), None));
        }
    }

    pub(super) fn spec(&self, key: &Key) -> Spec {
        self.spec_of(key.as_str())
    }

    pub(super) fn spec_of(&self, key: &str) -> Spec {
        self.specs.get(keyspace(key)).copied().unwrap_or_default()
    }

    /// Who keeps `key`, in each ring that has to be heeded.
    pub(super) fn sets(&self, key: &Key) -> Vec<Vec<u64>> {
        let Spec { replicas, reads, writes, .. } = self.spec(key);
        self.rings.sets(key.as_str(), replicas, reads, writes)
    }

    /// Who keeps `key` in the ring as it is.
    pub(super) fn owners(&self, key: &Key) -> Vec<u64> {
        self.rings.current().replicas(key.as_str(), self.spec(key).replicas)
    }

    pub(super) fn is_there(&self, node: u64) -> bool {
        node == self.own || self.peers.get(&node).is_some_and(|peer| peer.reach == Reach::There)
    }

    pub(super) fn send(&mut self, to: u64, message: Message) {
        if to == self.own {
            self.inbox.push_back(message);
        } else {
            self.outbox.entry(to).or_default().push(message);
        }
    }

    /// Sends it once `batch` is on the disk.
    pub(super) fn send_after(&mut self, batch: u64, to: u64, message: Message) {
        if batch <= self.synced {
            self.send(to, message);
        } else {
            self.due.entry(batch).or_default().push(Due::Send(to, message));
        }
    }

    fn release(&mut self, due: Due, now: Now) {
        match due {
            Due::Send(to, message) => self.send(to, message),
            Due::Hinted(id) => self.hinted(id, now),
        }
    }

    /// Writes it with the next batch; its number.
    pub(super) fn write(&mut self, change: Change) -> u64 {
        self.changes.push(change);
        self.batch
    }

    pub(super) fn after_batch(&mut self, batch: u64, due: Due) {
        self.due.entry(batch).or_default().push(due);
    }

    pub(super) fn synced(&self) -> u64 {
        self.synced
    }

    /// The last batch to which nothing is added any more.
    pub(super) fn closed_batch(&self) -> u64 {
        self.batch - 1
    }

    /// The last batch that has anything; the one that is being put together, if that has.
    pub(super) fn last_change(&self) -> u64 {
        if self.changes.is_empty() { self.batch - 1 } else { self.batch }
    }

    pub(super) fn answer(&mut self, request: u64, answer: Answer) {
        self.answers.push_back((request, answer));
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
}
