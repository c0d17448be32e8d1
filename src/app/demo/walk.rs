//! The scenario `store`, step by step: the store is founded, a tenth of the traffic is shifted, whoever leads dies, and
//! then whoever leads next. Pure: what to do next, from what was counted and seen, and whether all of it held.

use std::{fmt::Write as _, time::Duration};

use super::{
    fleet::{CLIENTS, NAMES, OTHER, SERVERS},
    shift::{PERCENT, Shifted},
    store::StoreLook,
    tally::{Sample, Tally},
};
use crate::types::Mono;

/// What the show is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Shift the traffic, then tell [`Walk::shifted`].
    Shift,
    /// Kill the sidecar of this instance, then tell [`Walk::killed`].
    Kill(usize),
    /// End: nothing more is to be seen.
    End,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The store is not founded yet.
    Founding,
    /// Traffic goes where the files say.
    Before,
    /// The show does what was demanded.
    Acting,
    /// A tenth of it goes to the other version.
    After,
    /// So it does, without the one that led.
    WithoutLeader,
    /// So it does, without the one that led next.
    WithoutMajority,
    /// It is over.
    Done,
}

/// The way through the scenario.
#[derive(Debug)]
pub(super) struct Walk {
    step: Step,
    since: Mono,
    /// When the last sidecar had started.
    started: Mono,
    stages: Vec<Stage>,
    founded: Option<(Vec<String>, Duration)>,
    shifted: Option<Shifted>,
    killed: Vec<Killed>,
    faults: Vec<String>,
}

/// What was counted in one step.
#[derive(Debug)]
struct Stage {
    name: &'static str,
    /// Only requests count that began from here ...
    began: Mono,
    /// ... to there: those in between may have gone by one route or another.
    ended: Option<Mono>,
    tally: Tally,
    /// Thousandths that the other version may have through each sidecar.
    bounds: (u64, u64),
}

#[derive(Debug)]
struct Killed {
    instance: usize,
    pid: u32,
    at: Mono,
    /// Who led next, or that nobody did, and how much later.
    next: Option<(Option<String>, Duration)>,
}

impl Walk {
    /// At its beginning.
    pub(super) fn new(started: Mono, now: Mono) -> Self {
        let (stages, killed, faults) = (Vec::new(), Vec::new(), Vec::new());
        let step = Step::Founding;
        Self { step, since: now, started, stages, founded: None, shifted: None, killed, faults }
    }

    /// Counts a request, answered by the instance with that index, or by none.
    pub(super) fn count(&mut self, sample: &Sample, instance: Option<usize>) {
        let is_in = |stage: &&mut Stage| {
            stage.began <= sample.began && stage.ended.is_none_or(|ended| sample.began < ended)
        };
        if let Some(stage) = self.stages.iter_mut().find(is_in) {
            stage.tally.count(sample.sender, instance, sample.latency);
        }
    }

    /// What to do now, by how the store is. Time passes only in what is not being acted upon.
    pub(super) fn next(&mut self, store: &StoreLook, now: Mono) -> Option<Demand> {
        self.see(store, now);
        let leader = store.leader.as_ref();
        let leader = leader.and_then(|leader| NAMES[..SERVERS].iter().position(|name| *name == leader.node));
        match self.step {
            Step::Founding if store.voters.len() == SERVERS && leader.is_some() => {
                self.founded = Some((store.voters.clone(), now.since(self.started)));
                self.enter(Step::Before, now);
                self.open("by the files", NONE, now);
                None
            }
            Step::Before if self.has(ENOUGH) => self.demand(Demand::Shift, now),
            Step::After if self.has(MANY) => leader.and_then(|leader| self.demand(Demand::Kill(leader), now)),
            Step::WithoutLeader if self.has(ENOUGH) && self.is_settled() => {
                leader.and_then(|leader| self.demand(Demand::Kill(leader), now))
            }
            Step::WithoutMajority if self.has(ENOUGH) && self.is_settled() => {
                self.enter(Step::Done, now);
                Some(Demand::End)
            }
            Step::Acting | Step::Done => None,
            Step::Founding | Step::Before | Step::After | Step::WithoutLeader | Step::WithoutMajority => {
                let is_late = now.since(self.since) > STEP_LIMIT;
                is_late.then(|| {
                    self.faults.push(format!("nothing more came for {STEP_LIMIT:?}"));
                    Demand::End
                })
            }
        }
    }

    /// The traffic is shifted since `now`, or it is not, and why.
    pub(super) fn shifted(&mut self, outcome: Result<Shifted, String>, now: Mono) {
        match outcome {
            Ok(shifted) => self.shifted = Some(shifted),
            Err(why) => self.faults.push(why),
        }
        self.enter(Step::After, now);
        self.open("shifted", SHIFTED, now);
    }

    /// The sidecar of that instance is dead, since `at`.
    pub(super) fn killed(&mut self, instance: usize, pid: u32, at: Mono) {
        let is_first = self.killed.is_empty();
        self.killed.push(Killed { instance, pid, at, next: None });
        self.enter(if is_first { Step::WithoutLeader } else { Step::WithoutMajority }, at);
        self.open(if is_first { "leader dead" } else { "two of three dead" }, SHIFTED, at);
    }

    /// What is not as it should be; nothing, if all of it held.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        if self.step != Step::Done {
            faults.push("it ended before its end".to_owned());
        }
        for Stage { name, tally, bounds, .. } in &self.stages {
            for (sender, client) in CLIENTS.iter().enumerate() {
                let share = tally.share(sender, OTHER).per_mille();
                if share < bounds.0 || share > bounds.1 {
                    let (low, high) = (percent(bounds.0), percent(bounds.1));
                    faults.push(format!(
                        "{name}: {} of the requests through {client} went to {}, not {low} to {high}",
                        percent(share),
                        NAMES[OTHER],
                    ));
                }
            }
        }
        faults
    }

    /// What happened, and what came of it.
    pub(super) fn report(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        if let Some((voters, after)) = &self.founded {
            let _ = writeln!(
                text,
                "  founded  by {}, {:.1} s after the last sidecar had started",
                voters.join(", "),
                after.as_secs_f64()
            );
        }
        if let Some(Shifted { revision, sidecars, after }) = self.shifted {
            let _ = writeln!(
                text,
                "  shifted  {PERCENT} % by `outrigger routes put`: revision {revision}, in force on all {sidecars} \
                 sidecars {} ms after it was written",
                after.as_millis()
            );
        }
        for Killed { instance, pid, next, .. } in &self.killed {
            let _ = write!(text, "  killed   the sidecar of {}, which led (pid {pid})", NAMES[*instance]);
            let _ = match next {
                Some((Some(next), after)) => write!(text, ": {next} led {:.1} s later", after.as_secs_f64()),
                Some((None, _)) => write!(text, ": nobody leads, one of three is no majority"),
                None => Ok(()),
            };
            text.push('\n');
        }
        let _ = write!(text, "\n  {:<18}", "share of v2");
        for client in CLIENTS {
            let _ = write!(text, "  {client:>16}");
        }
        text.push_str("  requests  failed\n");
        for Stage { name, tally, .. } in &self.stages {
            let _ = write!(text, "  {name:<18}");
            for sender in 0..CLIENTS.len() {
                let share = tally.share(sender, OTHER);
                let shown = format!("{} of {}", percent(share.per_mille()), share.whole);
                let _ = write!(text, "  {shown:>16}");
            }
            let _ = writeln!(text, "  {:>8}  {:>6}", tally.requests, tally.failures);
        }
        text
    }

    fn see(&mut self, store: &StoreLook, now: Mono) {
        let is_last = self.killed.len() > 1;
        let Some(killed) = self.killed.last_mut().filter(|killed| killed.next.is_none()) else { return };
        let leader = store.leader.as_ref().map(|leader| leader.node.clone());
        let is_next = match &leader {
            Some(leader) => *leader != NAMES[killed.instance],
            // Until another one is elected, nobody leads; after the second death, for good.
            None => is_last,
        };
        if is_next {
            killed.next = Some((leader, now.since(killed.at)));
        }
    }

    /// Whether it was seen who leads after the last death.
    fn is_settled(&self) -> bool {
        self.killed.last().is_some_and(|killed| killed.next.is_some())
    }

    /// Whether each sidecar has had so many answers in this step.
    fn has(&self, answers: u64) -> bool {
        let shares = self.stages.last().map(|stage| &stage.tally);
        shares
            .is_some_and(|tally| (0..CLIENTS.len()).all(|sender| tally.share(sender, OTHER).whole >= answers))
    }

    fn demand(&mut self, demand: Demand, now: Mono) -> Option<Demand> {
        self.step = Step::Acting;
        if let Some(stage) = self.stages.last_mut() {
            stage.ended = Some(now);
        }
        Some(demand)
    }

    fn enter(&mut self, step: Step, now: Mono) {
        (self.step, self.since) = (step, now);
    }

    fn open(&mut self, name: &'static str, bounds: (u64, u64), began: Mono) {
        let tally = Tally::new(CLIENTS.len(), NAMES.len());
        self.stages.push(Stage { name, began, ended: None, tally, bounds });
    }
}

fn percent(per_mille: u64) -> String {
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

/// Answers through each sidecar before the next step, and once the traffic is shifted.
const ENOUGH: u64 = 800;
/// See [`ENOUGH`].
const MANY: u64 = 1000;

/// Some requests at most that began before the end of that and were sent on after it.
const NONE: (u64, u64) = (0, 5);
/// A tenth, with more than four standard deviations of so many answers to both sides.
const SHIFTED: (u64, u64) = (50, 160);

/// Several times as long as a step takes.
const STEP_LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::{super::store::Leader, *};

    fn at(millis: u64) -> Mono {
        Mono::from_nanos(0).after(Duration::from_millis(millis))
    }

    fn led_by(node: Option<&str>) -> StoreLook {
        StoreLook {
            voters: NAMES[..SERVERS].iter().map(|name| (*name).to_owned()).collect(),
            leader: node.map(|node| Leader { node: node.to_owned(), term: 1 }),
            routes: Vec::new(),
        }
    }

    /// Sends so many requests through each sidecar, of which every `nth` goes to the other version.
    fn send(walk: &mut Walk, count: u64, nth: Option<u64>, began: Mono) {
        for number in 0..count {
            for sender in 0..CLIENTS.len() {
                let is_other = nth.is_some_and(|nth| number % nth == 0);
                let latency = Duration::from_millis(1);
                let sample = Sample { sender, began, latency, outcome: Ok(String::new()) };
                walk.count(&sample, Some(if is_other { OTHER } else { 0 }));
            }
        }
    }

    /// As far as the traffic that is shifted, of which every `nth` request goes to the other version.
    fn up_to_shift(nth: Option<u64>) -> Walk {
        let mut walk = Walk::new(at(0), at(100));
        assert_eq!(walk.next(&StoreLook::default(), at(200)), None);
        assert_eq!(walk.next(&led_by(Some("api-2")), at(2_200)), None);
        send(&mut walk, ENOUGH - 1, None, at(2_300));
        assert_eq!(walk.next(&led_by(Some("api-2")), at(2_400)), None);
        send(&mut walk, 1, None, at(2_300));
        assert_eq!(walk.next(&led_by(Some("api-2")), at(5_000)), Some(Demand::Shift));
        assert_eq!(walk.next(&led_by(Some("api-2")), at(5_001)), None);
        walk.shifted(Ok(Shifted { revision: 4, sidecars: 6, after: Duration::from_millis(12) }), at(5_100));
        send(&mut walk, MANY, nth, at(5_100));
        walk
    }

    fn to_the_end(mut walk: Walk) -> Walk {
        assert_eq!(walk.next(&led_by(Some("api-2")), at(9_000)), Some(Demand::Kill(1)));
        walk.killed(1, 42, at(9_000));
        send(&mut walk, ENOUGH, Some(10), at(9_100));
        // It is not known yet that it is dead.
        assert_eq!(walk.next(&led_by(Some("api-2")), at(9_100)), None);
        assert_eq!(walk.next(&led_by(None), at(9_200)), None);
        assert_eq!(walk.next(&led_by(Some("api-1")), at(9_600)), Some(Demand::Kill(0)));
        walk.killed(0, 43, at(9_700));
        send(&mut walk, ENOUGH, Some(10), at(9_700));
        assert_eq!(walk.next(&led_by(Some("api-1")), at(9_800)), None);
        assert_eq!(walk.next(&led_by(None), at(9_900)), Some(Demand::End));
        walk
    }

    #[test]
    fn whoever_leads_dies_and_then_whoever_leads_next() {
        let walk = to_the_end(up_to_shift(Some(10)));
        assert_eq!(walk.faults(), [] as [String; 0]);
        let expected = "  \
  founded  by api-1, api-2, api-3, 2.2 s after the last sidecar had started
  shifted  10 % by `outrigger routes put`: revision 4, in force on all 6 sidecars 12 ms after it was written
  killed   the sidecar of api-2, which led (pid 42): api-1 led 0.6 s later
  killed   the sidecar of api-1, which led (pid 43): nobody leads, one of three is no majority

  share of v2                 client-1          client-2  requests  failed
  by the files            0.0 % of 800      0.0 % of 800      1600       0
  shifted               10.0 % of 1000    10.0 % of 1000      2000       0
  leader dead            10.0 % of 800     10.0 % of 800      1600       0
  two of three dead      10.0 % of 800     10.0 % of 800      1600       0
";
        assert_eq!(walk.report(), expected);
    }

    #[test]
    fn a_share_that_is_not_near_a_tenth_is_a_fault() {
        for nth in [None, Some(25), Some(5)] {
            let faults = to_the_end(up_to_shift(nth)).faults();
            assert_eq!(faults.len(), CLIENTS.len(), "{faults:?}");
            assert!(faults[0].starts_with("shifted: "), "{faults:?}");
        }
    }

    #[test]
    fn requests_from_while_traffic_is_being_shifted_count_to_no_step() {
        let mut walk = up_to_shift(Some(10));
        send(&mut walk, 1000, Some(2), at(5_000));
        send(&mut walk, 1000, Some(2), at(5_099));
        send(&mut walk, 1000, None, at(4_999));
        assert_eq!(to_the_end(walk).faults(), [] as [String; 0]);
    }

    #[test]
    fn what_does_not_go_on_ends_with_a_fault() {
        let mut walk = Walk::new(at(0), at(0));
        assert_eq!(walk.next(&StoreLook::default(), at(60_000)), None);
        assert_eq!(walk.next(&StoreLook::default(), at(60_001)), Some(Demand::End));
        assert_eq!(walk.faults(), ["nothing more came for 60s", "it ended before its end"]);
        let mut walk = up_to_shift(Some(10));
        walk.shifted(Err("no quorum".to_owned()), at(5_200));
        assert!(walk.faults().contains(&"no quorum".to_owned()));
    }
}
