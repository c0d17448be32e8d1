//! Who keeps which key: the servers that score highest for it (rendezvous hashing, Thaler and Ravishankar 1998). A node
//! that comes or goes moves only what it keeps itself.

use std::time::Duration;

use xxhash_rust::xxh64::xxh64;

use crate::types::Mono;

/// Most servers that keep records. Others ask them.
pub const MOST_MEMBERS: usize = 64;

/// The servers among which keys are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring(Vec<u64>);

impl Ring {
    /// In whatever order; at most [`MOST_MEMBERS`], the lowest ones.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = u64>) -> Self {
        let mut members: Vec<u64> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        members.truncate(MOST_MEMBERS);
        Self(members)
    }

    /// In order.
    #[must_use]
    pub fn members(&self) -> &[u64] {
        &self.0
    }

    /// Whether `node` is one of them.
    #[must_use]
    pub fn has(&self, node: u64) -> bool {
        self.0.binary_search(&node).is_ok()
    }

    /// The same for all that have the same members.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let bytes: Vec<u8> = self.0.iter().flat_map(|member| member.to_le_bytes()).collect();
        xxh64(&bytes, 0)
    }

    /// Who keeps `key`, the first one first; all if there are no more than `count`.
    #[must_use]
    pub fn replicas(&self, key: &str, count: usize) -> Vec<u64> {
        let score = |member: &u64| xxh64(key.as_bytes(), *member);
        let mut scored: Vec<(u64, u64)> = self.0.iter().map(|member| (score(member), *member)).collect();
        scored.sort_unstable_by(|one, other| other.cmp(one));
        scored.into_iter().take(count).map(|(_, member)| member).collect()
    }
}

/// The ring, and those that are handed over from: while nodes disagree about who is there, a write counts once it has
/// its quorum in each of them.
#[derive(Clone, Debug)]
pub struct Rings {
    current: Ring,
    before: Vec<(Ring, Mono)>,
    changed: Mono,
}

/// So many rings are handed over from at once; a mesh that changes faster than that loses the oldest.
pub const MOST_BEFORE: usize = 8;

impl Rings {
    /// One that nobody disagrees with.
    #[must_use]
    pub fn new(current: Ring, now: Mono) -> Self {
        Self { current, before: Vec::new(), changed: now }
    }

    /// The ring as this node sees it.
    #[must_use]
    pub fn current(&self) -> &Ring {
        &self.current
    }

    /// This node sees another ring from now on. Says whether it is another.
    pub fn change(&mut self, next: Ring, now: Mono, handover: Duration) -> bool {
        if next == self.current {
            return false;
        }
        let last = std::mem::replace(&mut self.current, next);
        self.before.retain(|(ring, _)| *ring != self.current);
        self.changed = now;
        if !last.members().is_empty() {
            self.keep(last, now.after(handover));
        }
        true
    }

    /// Another node sees this ring. Says whether that is news.
    pub fn learn(&mut self, theirs: Ring, now: Mono, handover: Duration) -> bool {
        if theirs == self.current || theirs.members().is_empty() {
            return false;
        }
        self.changed = now;
        let until = now.after(handover);
        match self.before.iter_mut().find(|(ring, _)| *ring == theirs) {
            Some((_, known)) => {
                *known = until;
                false
            }
            None => {
                self.keep(theirs, until);
                true
            }
        }
    }

    /// Another node heeds this ring for so long. Says whether that is news.
    pub fn heed(&mut self, theirs: Ring, left: Duration, now: Mono) -> bool {
        let is_known = theirs == self.current || self.before.iter().any(|(ring, _)| *ring == theirs);
        if is_known || theirs.members().is_empty() {
            return false;
        }
        self.changed = now;
        self.keep(theirs, now.after(left));
        true
    }

    /// The rings that others have to hear of, and for how many milliseconds each still counts. One of which half of the
    /// time is over is told no more: otherwise nodes would tell each other of it for ever.
    #[must_use]
    pub fn told(&self, now: Mono, handover: Duration) -> Vec<(Vec<u64>, u32)> {
        let left = self.before.iter().map(|(ring, until)| (ring, until.since(now)));
        let fresh = left.filter(|(_, left)| *left > handover / 2);
        let millis = |left: Duration| u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        fresh.map(|(ring, left)| (ring.members().to_vec(), millis(left))).collect()
    }

    fn keep(&mut self, ring: Ring, until: Mono) {
        if self.before.len() >= MOST_BEFORE {
            self.before.remove(0);
        }
        self.before.push((ring, until));
    }

    /// Forgets rings whose time is over. Says whether there were any.
    pub fn advance(&mut self, now: Mono) -> bool {
        let count = self.before.len();
        self.before.retain(|(_, until)| *until > now);
        self.before.len() != count
    }

    /// How long all have agreed; nothing while they do not.
    #[must_use]
    pub fn unchanged(&self, now: Mono) -> Duration {
        if self.before.is_empty() { now.since(self.changed) } else { Duration::ZERO }
    }

    /// Who keeps `key`, in each of the rings that have to be heeded: reads and writes are of so many of `count`. Another
    /// ring need not be if nothing could be confirmed in it, or if its quorums meet those of the current one anyway, as
    /// when servers join of which there were too few.
    #[must_use]
    pub fn sets(&self, key: &str, count: usize, reads: usize, writes: usize) -> Vec<Vec<u64>> {
        let current = self.current.replicas(key, count);
        let mut sets = vec![current.clone()];
        for (ring, _) in &self.before {
            let set = ring.replicas(key, count);
            let meets = meet(&set, &current, reads, writes) && meet(&current, &set, reads, writes);
            if set.len() >= writes && !meets && !sets.contains(&set) {
                sets.push(set);
            }
        }
        sets
    }

    /// The members of all rings, without those of which all are members of the current one.
    #[must_use]
    pub fn widest(&self) -> Vec<Vec<u64>> {
        let is_new = |ring: &&Ring| ring.members().iter().any(|member| !self.current.has(*member));
        let before = self.before.iter().map(|(ring, _)| ring).filter(is_new);
        std::iter::once(&self.current).chain(before).map(|ring| ring.members().to_vec()).collect()
    }
}

/// Whether each `reads` of `readers` have one in common with each `writes` of `writers`.
fn meet(writers: &[u64], readers: &[u64], reads: usize, writes: usize) -> bool {
    let apart = writers.iter().filter(|writer| !readers.contains(writer)).count();
    writes.saturating_sub(apart) + reads > readers.len()
}

/// All of several sets, each once, in order of appearance.
#[must_use]
pub fn union(sets: &[Vec<u64>]) -> Vec<u64> {
    let mut all = Vec::new();
    for member in sets.iter().flatten() {
        if !all.contains(member) {
            all.push(*member);
        }
    }
    all
}

/// Whether at least `count` of each set are among those for which `has` holds.
pub fn reached(sets: &[Vec<u64>], count: usize, has: impl Fn(u64) -> bool) -> bool {
    sets.iter().all(|set| set.iter().filter(|member| has(**member)).count() >= count)
}
