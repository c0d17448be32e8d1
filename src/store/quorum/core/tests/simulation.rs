//! Whole meshes in virtual time, and what must hold in them whatever happens. A failure names the seed; `OUTRIGGER_SEED=n`
//! runs that one alone. The same is run with planted errors, which must be found.

use std::collections::{BTreeMap, BTreeSet};

use super::super::rules::{Answer, Failure, Level, Planted, Rules, Want};
use super::{
    world::{STEP, World, rules},
    *,
};

/// Until then anything may go wrong.
const CHAOS: u64 = 12_000;
/// So long it takes at most until all is well again.
const HEALING: u64 = 9_000;
/// Longer than any operation takes: who has heard nothing by then asks on.
const PATIENCE: u64 = 1_500;

/// Seeds of the normal run, or the one that was asked for.
fn seeds(count: u64) -> Vec<u64> {
    let asked = std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok());
    asked.map_or_else(|| (0..count).collect(), |seed| vec![seed])
}

/// Somebody who reads and writes, one thing after the other.
#[derive(Default)]
struct Client {
    session: Session,
    /// What it has seen at level session: the checker's own account, by name.
    seen: BTreeMap<Key, (Stamp, bool)>,
    asked: Option<Asked>,
    rest: u64,
    /// How far it is with a key that is written, removed, and never written again.
    grave: Grave,
}

#[derive(Default)]
struct Grave {
    number: u64,
    is_written: bool,
    repeated: Option<OpId>,
}

struct Asked {
    request: u64,
    began: u64,
    want: Want,
    level: Level,
}

/// An operation by quorum that was confirmed.
struct Done {
    ended: u64,
    stamp: Stamp,
}

struct Story {
    world: World,
    clients: Vec<Client>,
    requests: u64,
    /// Confirmed quorum writes, by key.
    done: BTreeMap<Key, Vec<Done>>,
    /// Keys whose removal was confirmed, and when.
    graves: BTreeMap<Key, u64>,
    wrong: Vec<String>,
    answered: u64,
    /// Who is down, and until when.
    down: BTreeMap<usize, u64>,
}

impl Story {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xabcd);
        let count = rng.usize(3..=7).min(rng.usize(3..=7));
        let world = World::new(seed, count, rules);
        let clients = (0..rng.usize(2..=5)).map(|_| Client::default()).collect();
        Self {
            world,
            clients,
            requests: 0,
            done: BTreeMap::new(),
            graves: BTreeMap::new(),
            wrong: Vec::new(),
            answered: 0,
            down: BTreeMap::new(),
        }
    }

    fn run(&mut self) {
        while self.world.now < CHAOS {
            self.misfortune();
            self.step();
        }
        self.heal();
        while self.world.now < CHAOS + HEALING {
            if self.world.now < CHAOS + 2_000 {
                self.step();
            } else {
                self.world.step();
                self.hear();
            }
        }
        self.check_end();
    }

    fn misfortune(&mut self) {
        let count = self.world.servers.len();
        let at = self.world.rng.usize(..count);
        match self.world.rng.u16(..800) {
            0..=4 if self.world.is_up(at) => {
                self.world.crash(at);
                let until = self.world.now + self.world.rng.u64(100..5_000);
                self.down.insert(at, until);
            }
            5..=7 => self.world.part.iter_mut().for_each(|part| *part = 0),
            8..=9 => self.world.part[at] = 1,
            10 => {
                let parts: Vec<u8> = (0..count).map(|_| self.world.rng.u8(..2)).collect();
                self.world.part = parts;
            }
            _ => {}
        }
        let now = self.world.now;
        let back: Vec<usize> =
            self.down.iter().filter(|(_, until)| **until <= now).map(|(at, _)| *at).collect();
        for at in back {
            self.down.remove(&at);
            self.world.start(at);
        }
    }

    fn heal(&mut self) {
        self.world.part.fill(0);
        self.world.loss = self.world.loss.min(0.02);
        for at in std::mem::take(&mut self.down).into_keys() {
            self.world.start(at);
        }
    }

    fn step(&mut self) {
        for client in 0..self.clients.len() {
            self.go_on(client);
        }
        self.world.step();
        self.hear();
    }

    /// Asks the next thing, if the last one is answered or given up.
    fn go_on(&mut self, client: usize) {
        let now = self.world.now;
        if self.clients[client].asked.as_ref().is_some_and(|asked| now - asked.began < PATIENCE) {
            return;
        }
        if self.clients[client].rest > now {
            return;
        }
        let rest = self.world.rng.u64(0..200);
        self.clients[client].rest = now + rest;
        let at = self.world.rng.usize(..self.world.servers.len());
        if !self.world.is_up(at) {
            return;
        }
        let (want, level) = self.choose(client);
        self.requests += 1;
        let request = self.requests;
        self.world.ask(at, request, want.clone(), level);
        self.clients[client].asked = Some(Asked { request, began: now, want, level });
    }

    fn choose(&mut self, client: usize) -> (Want, Level) {
        let rng = &mut self.world.rng;
        let op = OpId { client: client as u64 + 1, sequence: self.requests + 1 };
        if rng.u8(..4) == 0 {
            return self.dig(client, op);
        }
        let key = key(&format!("shared/{}", rng.u8(..6)));
        let floor = self.clients[client].session.floor(&key);
        let level = match rng.u8(..10) {
            0..=3 => Level::Quorum,
            4..=7 => Level::Session(floor),
            _ => Level::Eventual,
        };
        let want = match rng.u8(..10) {
            0..=5 => Want::Get(key),
            6..=8 => Want::Put(key, op, Some(format!("{}", self.requests).into())),
            _ => Want::Put(key, op, None),
        };
        (want, level)
    }

    /// Its own keys: written, removed, read. A removal that was not confirmed is repeated, as the same operation.
    fn dig(&mut self, client: usize, op: OpId) -> (Want, Level) {
        let grave = &mut self.clients[client].grave;
        let name = key(&format!("grave/{client}-{}", grave.number));
        if !grave.is_written {
            let level = if self.world.rng.bool() { Level::Quorum } else { Level::Eventual };
            return (Want::Put(name, op, Some("alive".into())), level);
        }
        if let Some(old) = self.graves.keys().next().cloned().filter(|_| self.world.rng.bool()) {
            return (Want::Get(old), Level::Quorum);
        }
        let op = *grave.repeated.get_or_insert(op);
        (Want::Put(name, op, None), Level::Quorum)
    }

    fn hear(&mut self) {
        for (request, answer) in std::mem::take(&mut self.world.answers) {
            let asking = self
                .clients
                .iter()
                .position(|client| client.asked.as_ref().is_some_and(|asked| asked.request == request));
            // Whoever gave up does not hear it.
            let Some(client) = asking else { continue };
            let Some(asked) = self.clients[client].asked.take() else { continue };
            if !matches!(answer, Answer::Failed(_)) {
                self.answered += 1;
            }
            match (&asked.want, answer) {
                (Want::Get(key), Answer::Got(record)) => {
                    self.check_read(client, &asked, key, record.as_ref());
                }
                (Want::Put(key, _, value), Answer::Written(stamp, _)) => {
                    self.check_write(client, &asked, key, value.is_some(), stamp);
                }
                (_, Answer::Failed(Failure::Full | Failure::Returning | Failure::Busy)) => {
                    self.wrong.push(format!("{:?} failed as it cannot", asked.want));
                }
                _ => {}
            }
        }
    }

    fn check_read(&mut self, client: usize, asked: &Asked, key: &Key, record: Option<&Record>) {
        let stamp = record.map(|record| record.stamp);
        match asked.level {
            Level::Quorum => {
                let before = self.done.get(key).into_iter().flatten().filter(|done| done.ended < asked.began);
                if let Some(least) = before.map(|done| done.stamp).max()
                    && stamp < Some(least)
                {
                    self.wrong.push(format!(
                        "{key}: a quorum read has {stamp:?}, and {least:?} was confirmed before"
                    ));
                }
                if self.graves.get(key).is_some_and(|removed| *removed < asked.began)
                    && record.is_some_and(|record| record.value.is_some())
                {
                    self.wrong.push(format!("{key} was removed and is read"));
                }
            }
            Level::Session(_) => {
                let client = &mut self.clients[client];
                if let Some((least, _)) = client.seen.get(key)
                    && stamp < Some(*least)
                {
                    self.wrong.push(format!("{key}: a session reads {stamp:?} after {least:?}"));
                }
                if let Some(record) = record {
                    client.session.saw(key, record.stamp);
                    client.seen.insert(key.clone(), (record.stamp, record.value.is_some()));
                }
            }
            Level::Eventual => {}
        }
    }

    fn check_write(&mut self, client: usize, asked: &Asked, key: &Key, is_value: bool, stamp: Stamp) {
        if let Level::Session(_) = asked.level {
            let client = &mut self.clients[client];
            client.session.saw(key, stamp);
            client.seen.insert(key.clone(), (stamp, is_value));
        }
        if asked.level != Level::Eventual {
            let held = self.world.on_disk(key, stamp);
            if held < 2 {
                self.wrong.push(format!("{key}: a write was confirmed that {held} have on their disks"));
            }
            let done = self.done.entry(key.clone()).or_default();
            let before = done.iter().filter(|done| done.ended < asked.began).map(|done| done.stamp).max();
            if before > Some(stamp) && self.clients[client].grave.repeated.is_none() {
                self.wrong
                    .push(format!("{key}: a write has {stamp:?}, and {before:?} was confirmed before it"));
            }
            done.push(Done { ended: self.world.now, stamp });
        }
        if key.as_str().starts_with("grave/") {
            let grave = &mut self.clients[client].grave;
            if is_value {
                grave.is_written = true;
                if asked.level == Level::Eventual {
                    // Its stamp may be ahead of other clocks by so much, and nobody looked for it there.
                    self.clients[client].rest = self.world.now + 1_000;
                }
            } else {
                self.graves.insert(key.clone(), self.world.now);
                *grave = Grave { number: grave.number + 1, ..Grave::default() };
            }
        }
    }

    fn check_end(&mut self) {
        let all: BTreeSet<Key> =
            self.world.servers.iter().flat_map(|server| server.disk.records.keys().cloned()).collect();
        let ring = Ring::new(self.world.servers.iter().map(|server| server.id));
        for key in all {
            let owners = ring.replicas(key.as_str(), 3);
            let has: Vec<Option<&Record>> = self
                .world
                .servers
                .iter()
                .filter(|server| owners.contains(&server.id))
                // A removal may be forgotten by some of them just now.
                .map(|server| server.disk.records.get(&key).filter(|record| record.value.is_some()))
                .collect();
            if has.windows(2).any(|pair| pair[0] != pair[1]) {
                self.wrong.push(format!("{key} differs at the end: {has:?}"));
            }
            if self.graves.contains_key(&key) && has.iter().any(Option::is_some) {
                self.wrong.push(format!("{key} was removed and is there"));
            }
            if self
                .world
                .servers
                .iter()
                .any(|server| !owners.contains(&server.id) && server.disk.records.contains_key(&key))
            {
                self.wrong.push(format!("{key} is where it does not belong"));
            }
        }
    }
}

/// What goes wrong with a planted error in some seeds.
fn found(planted: Planted, count: u64) -> Vec<String> {
    let runs = (0..count).map(|seed| {
        let mut story = Story::new(seed, Rules { planted: Some(planted), ..rules() });
        story.run();
        story.wrong
    });
    runs.flatten().collect()
}

#[test]
fn what_was_confirmed_is_read_sessions_never_go_back_and_all_ends_the_same() {
    let mut answered = 0;
    let mut counts = Vec::new();
    for seed in seeds(200) {
        let mut story = Story::new(seed, rules());
        story.run();
        assert!(story.wrong.is_empty(), "seed {seed}:\n{}", story.wrong.join("\n"));
        answered += story.answered;
        counts.push(story.world.counts());
    }
    if counts.len() > 1 {
        assert!(answered > 50 * counts.len() as u64, "{answered} answers: nothing was tried");
        let some = |count: fn(&super::super::rules::Counts) -> u64| counts.iter().map(count).sum::<u64>();
        assert!(some(|counts| counts.read_repairs) > 0);
        assert!(some(|counts| counts.hints_replayed) > 0);
        assert!(some(|counts| counts.differences) > 0);
    }
}

#[test]
fn what_was_confirmed_is_read_while_servers_join_one_after_the_other() {
    for seed in seeds(40) {
        let mut story = Story::new(seed, rules());
        let count = story.world.servers.len();
        story.world = World::growing(seed, count, rules());
        let mut starts: Vec<u64> = (0..count).map(|_| story.world.rng.u64(..6_000)).collect();
        starts[0] = 0;
        while story.world.now < 14_000 {
            for (at, start) in starts.iter().enumerate() {
                if !story.world.is_up(at) && *start <= story.world.now {
                    story.world.start(at);
                }
            }
            story.step();
        }
        assert!(story.wrong.is_empty(), "seed {seed}:\n{}", story.wrong.join("\n"));
        assert!(story.answered > 20, "seed {seed}: {} answers", story.answered);
    }
}

#[test]
fn hints_that_count_as_replicas_are_found_out() {
    let wrong = found(Planted::HintsCount, 10);
    assert!(wrong.iter().any(|what| what.contains("have on their disks")), "{wrong:?}");
}

#[test]
fn sessions_that_forget_what_they_saw_are_found_out() {
    let wrong = found(Planted::IgnoresSession, 10);
    assert!(wrong.iter().any(|what| what.contains("a session reads")), "{wrong:?}");
}

#[test]
fn removals_that_are_forgotten_at_once_are_found_out() {
    let wrong = found(Planted::ForgetsAtOnce, 20);
    assert!(wrong.iter().any(|what| what.contains("was removed and is")), "{wrong:?}");
}

/// Three to five servers, of which one is away until the others have forgotten what was removed. Whether a removed key
/// is there at the end, and how often a server began anew.
fn absence(seed: u64, rules: Rules) -> (bool, u64) {
    let mut world = World::new(seed, 3 + (seed % 3) as usize, rules);
    world.loss = world.loss.min(0.02);
    world.slowest = 50;
    let count = world.servers.len();
    let keys: Vec<Key> = (0..20).map(|number| key(&format!("grave/{number}"))).collect();
    let mut request = 0;
    let mut put_all = |world: &mut World, value: Option<Bytes>, by: usize| {
        for key in &keys {
            // Until it is confirmed.
            loop {
                request += 1;
                let op = OpId { client: 5, sequence: request };
                world.ask(by, request, Want::Put(key.clone(), op, value.clone()), Level::Quorum);
                let mut is_done = None;
                while is_done.is_none() {
                    world.step();
                    let answers = std::mem::take(&mut world.answers);
                    is_done =
                        answers.into_iter().find(|(asked, _)| *asked == request).map(|(_, answer)| answer);
                }
                if matches!(is_done, Some(Answer::Written(..))) {
                    break;
                }
            }
        }
    };
    let pass = |world: &mut World, time: u64| (0..time / STEP).for_each(|_| world.step());
    put_all(&mut world, Some("alive".into()), 0);
    pass(&mut world, 3_000);
    // It is down, or cut off and alive.
    let (away, is_cut) = (count - 1, seed.is_multiple_of(2));
    if is_cut {
        world.part[away] = 1;
    } else {
        world.crash(away);
    }
    pass(&mut world, 2_000);
    put_all(&mut world, None, 0);
    pass(&mut world, 45_000);
    assert!(world.counts().tombstones_collected > 0, "seed {seed}: nothing was forgotten");
    if is_cut {
        world.part[away] = 0;
    } else {
        world.start(away);
    }
    pass(&mut world, 10_000);
    let is_live = |record: &Record| record.value.is_some();
    let is_back = world.servers.iter().any(|server| server.disk.records.values().any(is_live));
    (is_back, world.counts().purges)
}

#[test]
fn who_was_away_for_too_long_brings_back_nothing_that_was_removed() {
    for seed in seeds(20) {
        let (is_back, purges) = absence(seed, rules());
        assert!(!is_back, "seed {seed}: what was removed is back");
        assert_eq!(purges, 1, "seed {seed}");
    }
}

#[test]
fn who_keeps_what_it_had_after_too_long_an_absence_is_found_out() {
    let planted = Rules { planted: Some(Planted::KeepsOld), ..rules() };
    assert!((0..6).any(|seed| absence(seed, planted.clone()).0));
}

#[test]
fn if_all_were_away_nothing_is_forgotten() {
    for seed in seeds(10) {
        let mut world = World::new(seed, 3, rules());
        (world.loss, world.slowest) = (0.0, 20);
        let name = key("shared/1");
        let op = OpId { client: 1, sequence: 1 };
        world.ask(0, 1, Want::Put(name.clone(), op, Some("kept".into())), Level::Quorum);
        (0..200).for_each(|_| world.step());
        (0..3).for_each(|at| world.crash(at));
        (0..30_000 / STEP).for_each(|_| world.step());
        (0..3).for_each(|at| world.start(at));
        (0..200).for_each(|_| world.step());
        world.answers.clear();
        world.ask(1, 2, Want::Get(name), Level::Quorum);
        (0..50).for_each(|_| world.step());
        let value = world.answers.iter().find_map(|(_, answer)| match answer {
            Answer::Got(Some(record)) => record.value.clone(),
            _ => None,
        });
        assert_eq!(value, Some("kept".into()), "seed {seed}");
        assert_eq!(world.counts().purges, 0, "seed {seed}");
    }
}

#[test]
fn a_repeated_write_is_done_once() {
    let mut world = World::new(1, 3, rules());
    (world.loss, world.slowest) = (0.0, 20);
    let name = key("shared/1");
    let (first, second) = (OpId { client: 1, sequence: 1 }, OpId { client: 2, sequence: 1 });
    let mut ask = |request: u64, want: Want| {
        world.ask(request as usize % 3, request, want, Level::Quorum);
        (0..50).for_each(|_| world.step());
        std::mem::take(&mut world.answers).pop().map(|(_, answer)| answer)
    };
    let written = ask(1, Want::Put(name.clone(), first, Some("one".into())));
    assert!(matches!(written, Some(Answer::Written(..))), "{written:?}");
    ask(2, Want::Put(name.clone(), second, Some("two".into())));
    // The first one again, through another server: it was done, and is not done over the second.
    let (Some(Answer::Written(again, _)), Some(Answer::Written(then, _))) =
        (ask(4, Want::Put(name.clone(), first, Some("one".into()))), written)
    else {
        panic!("it is confirmed again")
    };
    assert_eq!(again, then);
    let Some(Answer::Got(Some(record))) = ask(5, Want::Get(name)) else { panic!("it is there") };
    assert_eq!(record.value, Some("two".into()));
}

#[test]
fn a_stamp_far_ahead_is_refused() {
    let mut clock = Clock::new(1);
    let far = Stamp { ms: 10_000 + MOST_AHEAD + 1, count: 0, writer: 2 };
    assert!(clock.observe(far, 10_000).is_err());
    assert_eq!(clock.next(10_000).unwrap().ms, 10_000);
}
