//! What is tried, how often, and what came of it. All times are seconds of virtual time.

use std::time::Duration;

use outrigger::membership::{MemberState, core::machine::Event};

use crate::gossip::{Layer, Mesh, Network, Noticed, Stall, id};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(50);
/// Nothing is waited for any longer.
const LIMIT: Duration = Duration::from_secs(30);
/// How many of 128 stall.
pub(crate) const STALLING: [usize; 6] = [1, 2, 4, 8, 16, 32];
pub(crate) const LOSSES: [f64; 3] = [0.0, 0.1, 0.3];

/// So many meshes of that size, each with its own seed, and so many trials in each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    pub(crate) members: usize,
    pub(crate) seeds: u64,
    pub(crate) trials: usize,
}

/// What is tried.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) kills: Vec<Runs>,
    pub(crate) news: Vec<Runs>,
    /// The same in meshes that lose packets since a while.
    pub(crate) late_news: Vec<Runs>,
    /// Members of the meshes in which some stall, seeds, and virtual seconds.
    pub(crate) numb: Runs,
    pub(crate) frozen: Runs,
    pub(crate) idle: Vec<Runs>,
    pub(crate) churn: Vec<Runs>,
    pub(crate) parted: Vec<Runs>,
}

fn runs(of: &[(usize, u64, usize)]) -> Vec<Runs> {
    of.iter()
        .map(|(members, seeds, trials)| Runs { members: *members, seeds: *seeds, trials: *trials })
        .collect()
}

impl Plan {
    /// Everything: minutes.
    pub(crate) fn full() -> Self {
        Self {
            kills: runs(&[(10, 20, 20), (100, 8, 25), (128, 8, 25), (1000, 2, 20)]),
            news: runs(&[(10, 20, 20), (100, 5, 20), (128, 5, 20), (1000, 1, 5)]),
            late_news: runs(&[(10, 5, 20), (100, 2, 5), (128, 2, 5)]),
            numb: Runs { members: 128, seeds: 3, trials: 60 },
            frozen: Runs { members: 128, seeds: 1, trials: 60 },
            idle: runs(&[(10, 5, 60), (100, 3, 60), (128, 3, 60), (1000, 1, 30)]),
            churn: runs(&[(10, 5, 60), (100, 3, 60), (128, 3, 60), (1000, 1, 10)]),
            parted: runs(&[(10, 20, 1), (100, 5, 1), (128, 5, 1), (1000, 1, 1)]),
        }
    }

    /// A little of each: seconds, and in a debug build not much more.
    pub(crate) fn short() -> Self {
        let few = || runs(&[(10, 1, 2)]);
        let stalls = Runs { members: 12, seeds: 1, trials: 5 };
        Self {
            kills: few(),
            news: few(),
            late_news: few(),
            numb: stalls,
            frozen: stalls,
            idle: runs(&[(10, 1, 5)]),
            churn: runs(&[(10, 1, 5)]),
            parted: few(),
        }
    }
}

/// Times after a process was gone.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    pub(crate) suspected: Vec<f64>,
    pub(crate) dead: Vec<f64>,
    pub(crate) known: Vec<f64>,
}

/// For each piece of news, when it reached each member, the first of which told it.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) reached: Vec<Vec<f64>>,
    /// Members that it did not reach within the limit.
    pub(crate) missed: usize,
}

/// Verdicts of death about healthy members with so many that stall.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    pub(crate) stalling: usize,
    pub(crate) on: usize,
    pub(crate) off: usize,
    pub(crate) off_socket_first: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) kills: Vec<(Runs, Kills)>,
    pub(crate) news: Vec<(Runs, f64, News)>,
    pub(crate) late_news: Vec<(Runs, f64, News)>,
    pub(crate) numb: Vec<Verdicts>,
    pub(crate) frozen: Vec<Verdicts>,
    /// Bytes that a member sends in a second.
    pub(crate) idle: Vec<(Runs, Vec<f64>)>,
    pub(crate) churn: Vec<(Runs, Vec<f64>)>,
    /// Seconds from the end of a partition to one view.
    pub(crate) healed: Vec<(Runs, Vec<f64>)>,
}

impl Figures {
    /// Does all that `plan` says; `say` is told what comes next.
    pub(crate) fn measure(plan: &Plan, say: impl Fn(&str)) -> Self {
        let mut figures = Self::default();
        for runs in &plan.kills {
            say(&format!("deaths among {}", runs.members));
            figures.kills.push((*runs, kills(*runs)));
        }
        for (wanted, found, warm) in [
            (&plan.news, &mut figures.news, Duration::ZERO),
            (&plan.late_news, &mut figures.late_news, 5 * SECOND),
        ] {
            for (runs, loss) in wanted.iter().flat_map(|runs| LOSSES.map(|loss| (*runs, loss))) {
                say(&format!("news among {}, {loss} lost since {warm:?}", runs.members));
                found.push((runs, loss, news(runs, loss, warm)));
            }
        }
        for stalling in STALLING {
            say(&format!("{stalling} that stall"));
            figures.numb.push(verdicts(plan.numb, stalling, true));
            figures.frozen.push(verdicts(plan.frozen, stalling, false));
        }
        for runs in &plan.idle {
            figures.idle.push((*runs, each_seed(*runs, idle)));
        }
        for runs in &plan.churn {
            say(&format!("churn among {}", runs.members));
            figures.churn.push((*runs, each_seed(*runs, churn)));
        }
        for runs in &plan.parted {
            say(&format!("a partition of {}", runs.members));
            figures.healed.push((*runs, each_seed(*runs, heal)));
        }
        figures
    }
}

/// The value below which a share of the samples is; the highest of them if there are too few to tell.
pub(crate) fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

fn each_seed(runs: Runs, mut trial: impl FnMut(&mut Mesh, Runs, &mut fastrand::Rng) -> f64) -> Vec<f64> {
    (0..runs.seeds)
        .map(|seed| {
            let mut mesh = Mesh::formed(runs.members, Layer::On, Network::default(), seed);
            trial(&mut mesh, runs, &mut fastrand::Rng::with_seed(seed))
        })
        .collect()
}

/// Lets time pass until `done` says so of something that was noticed.
fn until(mesh: &mut Mesh, mut done: impl FnMut(&Noticed) -> bool) {
    mesh.run_until(STEP, LIMIT, |mesh| {
        let noticed = std::mem::take(&mut mesh.noticed);
        let mut is_done = false;
        for one in &noticed {
            // Each is looked at, also after the last that was waited for.
            is_done |= done(one);
        }
        is_done
    });
}

fn kills(runs: Runs) -> Kills {
    let mut found = Kills::default();
    each_seed(runs, |mesh, runs, rng| {
        (0..runs.trials).for_each(|_| kill(mesh, rng, &mut found));
        0.0
    });
    found
}

fn kill(mesh: &mut Mesh, rng: &mut fastrand::Rng, found: &mut Kills) {
    mesh.run(SECOND.mul_f64(rng.f64()));
    mesh.noticed.clear();
    let count = mesh.up().count();
    let victim = rng.usize(..count);
    let (begun, dead) = (mesh.now, id(victim));
    let (mut suspected, mut verdicts) = (None, Vec::new());
    mesh.kill(victim);
    until(mesh, |noticed| {
        let at = noticed.at.since(begun).as_secs_f64();
        match &noticed.event {
            Event::Member { id, state: MemberState::Suspect, .. } if *id == dead => {
                suspected.get_or_insert(at);
            }
            Event::Member { id, state: MemberState::Dead, .. } if *id == dead => verdicts.push(at),
            _ => {}
        }
        verdicts.len() + 1 >= count
    });
    found.suspected.extend(suspected);
    found.dead.extend(verdicts.first());
    found.known.extend(verdicts.last().filter(|_| verdicts.len() + 1 >= count));
    // The next one dies in a mesh that is whole and at rest.
    mesh.restart(victim, (victim + 1) % count);
    mesh.run(5 * SECOND);
}

fn news(runs: Runs, loss: f64, warm: Duration) -> News {
    let mut found = News::default();
    each_seed(runs, |mesh, runs, rng| {
        (0..runs.trials).for_each(|_| {
            mesh.run(SECOND.mul_f64(rng.f64()));
            mesh.network.loss = loss;
            mesh.run(warm);
            mesh.noticed.clear();
            tell(mesh, rng, &mut found);
            mesh.network.loss = 0.0;
            mesh.run(5 * SECOND);
        });
        0.0
    });
    found
}

fn tell(mesh: &mut Mesh, rng: &mut fastrand::Rng, found: &mut News) {
    let count = mesh.up().count();
    let teller = rng.usize(..count);
    let (begun, subject) = (mesh.now, id(teller));
    let mut reached = vec![0.0];
    mesh.say(teller, rng.u16(2..));
    until(mesh, |noticed| {
        if matches!(noticed.event, Event::Fact { id, .. } if id == subject) {
            reached.push(noticed.at.since(begun).as_secs_f64());
        }
        reached.len() >= count
    });
    found.missed += count.saturating_sub(reached.len());
    found.reached.push(reached);
}

/// What members that stall do.
pub(crate) fn stall() -> Stall {
    Stall { blocked: SECOND..8 * SECOND, awake: Duration::from_millis(10)..Duration::from_millis(200) }
}

fn verdicts(runs: Runs, stalling: usize, is_numb: bool) -> Verdicts {
    let count = |layer| {
        let of = |seed| {
            let mut mesh = Mesh::formed(runs.members, layer, Network::default(), seed);
            for node in 0..stalling.min(runs.members / 4) {
                if is_numb {
                    mesh.numb(node, stall());
                } else {
                    mesh.stall(node, Some(stall()));
                }
            }
            let mut wrong = 0;
            for _ in 0..runs.trials {
                mesh.run(SECOND);
                wrong += mesh.false_deaths();
                mesh.noticed.clear();
            }
            wrong
        };
        (0..runs.seeds).map(of).sum()
    };
    Verdicts {
        stalling,
        on: count(Layer::On),
        off: count(Layer::Off),
        // With timers that run on there is no order on waking up.
        off_socket_first: if is_numb { 0 } else { count(Layer::OffSocketFirst) },
    }
}

fn idle(mesh: &mut Mesh, runs: Runs, _rng: &mut fastrand::Rng) -> f64 {
    mesh.run(SECOND * runs.trials as u32);
    mesh.sent() / runs.trials as f64
}

/// One in a hundred is killed in each second, and started again a second later.
fn churn(mesh: &mut Mesh, runs: Runs, rng: &mut fastrand::Rng) -> f64 {
    let (mut due, mut down) = (0.0, Vec::new());
    for _ in 0..runs.trials {
        for node in std::mem::take(&mut down) {
            let up: Vec<usize> = mesh.up().collect();
            mesh.restart(node, up[rng.usize(..up.len())]);
        }
        due += runs.members as f64 / 100.0;
        while due >= 1.0 {
            due -= 1.0;
            let victim = rng.usize(..runs.members);
            if !down.contains(&victim) {
                mesh.kill(victim);
                down.push(victim);
            }
        }
        mesh.run(SECOND);
        mesh.noticed.clear();
    }
    mesh.sent() / runs.trials as f64
}

/// Two halves do not reach each other for a minute.
fn heal(mesh: &mut Mesh, _runs: Runs, _rng: &mut fastrand::Rng) -> f64 {
    mesh.part(|node| (node % 2) as u32);
    for _ in 0..60 {
        mesh.run(SECOND);
        mesh.noticed.clear();
    }
    mesh.part(|_| 0);
    let took = mesh.run_until(2 * STEP, LIMIT, |mesh| {
        mesh.noticed.clear();
        mesh.is_one_view()
    });
    took.map_or(f64::INFINITY, |took| took.as_secs_f64())
}
