//! The show itself: runs the load, acts when the schedule says so, and tells what is to be seen.

use std::{collections::VecDeque, io::Write, net::SocketAddr, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    DemoError, Ending, Scenario, Verdict,
    application::{LATE, Mood},
    fleet::{CLIENTS, Casualty, FAILING, Fleet, NAMES, SLOW, SPARE, VICTIM},
    introduction::{self, binary},
    load::Load,
    process::Process,
    report::{self, Happening},
    rotation::{self, Look, Rotation, Turn},
    schedule::{Act, Schedule},
    shift,
    sidecar::SECOND,
    store::{self, StoreLook, StoreTurn},
    tally::{Sample, Tally},
    walk::{Demand, Walk},
    workspace::Workspace,
};
use crate::{
    rt::{Tasks, clock},
    types::Mono,
};

/// How often the children are looked at.
const PULSE: Duration = Duration::from_millis(200);

/// How many failures are told one by one.
const TOLD_FAILURES: u64 = 5;

/// Looks at the admin API that wait to be read.
const LOOKS: usize = 16;

/// How long the watching of the admin API may take to end; nothing depends on it.
const WATCH_LIMIT: Duration = Duration::from_millis(10);

/// A running show.
pub(super) struct Show<'a> {
    fleet: Fleet,
    acts: VecDeque<(Duration, Act)>,
    workspace: &'a Workspace,
    out: &'a mut dyn Write,
    began: Mono,
    /// `None` until the first look, by which everybody is there already.
    rotation: Option<Rotation>,
    /// Since when each instance is dead, if it is.
    killed: [Option<Mono>; NAMES.len()],
    /// Where the sidecars that keep the store are asked.
    servers: watch::Sender<Vec<SocketAddr>>,
    store: StoreLook,
    /// The other scenario.
    walk: Option<Walk>,
    total: Tally,
    second: Tally,
    happenings: Vec<Happening>,
}

/// What the show waits for.
enum Event {
    Sample(Sample),
    Look(Look),
    Store(StoreLook),
    Act(Act),
    Second,
    Pulse,
    Signal,
}

impl<'a> Show<'a> {
    /// A show that has not begun, with everything started.
    pub(super) fn new(
        fleet: Fleet,
        scenario: Scenario,
        schedule: &Schedule,
        workspace: &'a Workspace,
        out: &'a mut dyn Write,
    ) -> Self {
        Self {
            rotation: None,
            killed: [None; NAMES.len()],
            servers: watch::Sender::new(fleet.servers()),
            store: StoreLook::default(),
            walk: (scenario == Scenario::Store).then(|| Walk::new(fleet.started(), clock::now())),
            fleet,
            acts: schedule.acts().into(),
            workspace,
            out,
            began: clock::now(),
            total: Tally::new(CLIENTS.len(), NAMES.len()),
            second: Tally::new(CLIENTS.len(), NAMES.len()),
            happenings: Vec::new(),
        }
    }

    /// Runs to the end, ends all processes and prints the table.
    pub(super) async fn run(mut self, ending: &mut Ending) -> Result<Verdict, DemoError> {
        introduction::write(&self.fleet, self.workspace, self.out)?;
        let clients: Vec<_> = self.fleet.clients().iter().map(|client| client.ports).collect();
        let admins: Vec<_> = clients.iter().map(|ports| ports.admin).collect();
        let targets: Vec<_> = clients.iter().map(|ports| ports.traffic).collect();
        let (reports, mut looks) = mpsc::channel(LOOKS);
        let (store_reports, mut stores) = mpsc::channel(LOOKS);
        let mut watching = Tasks::default();
        watching.spawn("rotation", rotation::watch(admins[0], reports));
        watching.spawn("store", store::follow(self.servers.subscribe(), admins, store_reports));
        self.began = clock::now();
        let (load, mut samples) = Load::start(&targets);

        if let Err(error) = self.until_the_end(ending, &mut samples, &mut looks, &mut stores).await {
            // The first fault is the one to tell.
            let _ = self.fleet.end().await;
            return Err(error);
        }
        let length = self.elapsed();
        // What is on its way is counted as well, while the sidecars still live.
        let ((), rest) = tokio::join!(load.stop(), drain(samples));
        for sample in rest {
            self.count(sample)?;
        }
        watching.finish(WATCH_LIMIT).await;
        self.fleet.end().await?;
        write!(self.out, "\n{}", report::table(length, &self.total, &self.happenings))?;
        let faults = match &self.walk {
            Some(walk) => {
                write!(self.out, "\nthe store, step by step\n\n{}\n", walk.report())?;
                walk.faults()
            }
            None => Vec::new(),
        };
        for fault in &faults {
            writeln!(self.out, "DOES NOT HOLD: {fault}")?;
        }
        if self.walk.is_some() && faults.is_empty() && self.total.failures == 0 {
            writeln!(self.out, "holds: the store, the shift and both deaths cost no request")?;
        }
        Ok(match self.total.failures {
            0 if faults.is_empty() => Verdict::Clean,
            0 => Verdict::NotShown,
            failures => Verdict::Failed(failures),
        })
    }

    async fn until_the_end(
        &mut self,
        ending: &mut Ending,
        samples: &mut mpsc::Receiver<Sample>,
        looks: &mut mpsc::Receiver<Look>,
        stores: &mut mpsc::Receiver<StoreLook>,
    ) -> Result<(), DemoError> {
        let began = clock::instant(self.began);
        let mut seconds = ticks(began, Duration::from_secs(1));
        let mut pulses = ticks(began, PULSE);
        loop {
            let next = self.acts.front().copied();
            let event = tokio::select! {
                () = ending.come() => Event::Signal,
                act = come(next, began) => Event::Act(act),
                Some(sample) = samples.recv() => Event::Sample(sample),
                Some(look) = looks.recv() => Event::Look(look),
                Some(look) = stores.recv() => Event::Store(look),
                _ = seconds.tick() => Event::Second,
                _ = pulses.tick() => Event::Pulse,
            };
            match event {
                Event::Sample(sample) => self.count(sample)?,
                Event::Look(look) => self.look(&look)?,
                Event::Store(look) => self.look_at_store(look)?,
                Event::Second => self.tell_second()?,
                Event::Pulse => self.look_after()?,
                Event::Act(Act::End) | Event::Signal => return Ok(()),
                Event::Act(act) => {
                    self.acts.pop_front();
                    tokio::select! {
                        acted = self.act(act) => acted?,
                        () = ending.come() => return Ok(()),
                    }
                }
            }
            let demand = self.walk.as_mut().and_then(|walk| walk.next(&self.store, clock::now()));
            if let Some(demand) = demand {
                let met = tokio::select! {
                    met = self.meet(demand) => met?,
                    () = ending.come() => true,
                };
                if met {
                    return Ok(());
                }
            }
        }
    }

    /// Does what the other scenario demands. Whether it is over.
    async fn meet(&mut self, demand: Demand) -> Result<bool, DemoError> {
        match demand {
            Demand::Shift => {
                let file = shift::prepare(self.workspace)?;
                let outcome =
                    shift::put(&file, self.fleet.clients()[0].ports.admin, self.fleet.sidecars()).await;
                match &outcome {
                    Ok(shifted) => self.happen(format!(
                        "`outrigger routes put` sent {} % of the traffic to {SECOND}: revision {}",
                        shift::PERCENT,
                        shifted.revision
                    ))?,
                    Err(why) => self.happen(format!("not shifted: {why}"))?,
                }
                if let Some(walk) = &mut self.walk {
                    walk.shifted(outcome, clock::now());
                }
            }
            Demand::Kill(instance) => {
                let at = clock::now();
                let pid = self.fleet.kill_sidecar(instance).await?.unwrap_or_default();
                self.killed[instance] = Some(at);
                if let Some(walk) = &mut self.walk {
                    walk.killed(instance, pid, at);
                }
                self.happen(format!(
                    "killed the sidecar of {}, which led the store (kill -9 {pid})",
                    NAMES[instance]
                ))?;
            }
            Demand::End => return Ok(true),
        }
        Ok(false)
    }

    /// Looks whether all processes live. A sidecar that somebody has killed by hand is part of the show.
    fn look_after(&mut self) -> Result<(), DemoError> {
        match self.fleet.casualty() {
            None => Ok(()),
            Some(Casualty::Fault(error)) => Err(error),
            Some(Casualty::Killed(instance)) => {
                // What was planned would get in the way of what somebody tries.
                let is_away = self.killed[VICTIM].is_some();
                self.acts.retain(|(_, act)| *act == Act::End || (is_away && *act == Act::Restore));
                self.killed[instance] = Some(clock::now());
                let name = NAMES[instance];
                let file = self.workspace.path().join(format!("{name}.yaml"));
                self.happen(format!(
                    "somebody killed the sidecar of {name}; {} run --config {} starts it again",
                    binary()?.display(),
                    file.display()
                ))
            }
        }
    }

    async fn act(&mut self, act: Act) -> Result<(), DemoError> {
        match act {
            Act::Kill => {
                self.killed[VICTIM] = Some(clock::now());
                let killed = self.fleet.kill().await?;
                self.happen(format!("killed {} (kill -9 of {killed})", NAMES[VICTIM]))
            }
            Act::Restore => {
                let moved = self.fleet.restore(self.workspace).await?;
                let address = self.fleet.instances()[VICTIM].ports.traffic;
                self.killed[VICTIM] = None;
                self.servers.send_replace(self.fleet.servers());
                let place =
                    if moved { format!(", now at {address}: its port was taken") } else { String::new() };
                self.happen(format!("started {} again{place}", NAMES[VICTIM]))
            }
            Act::Fail => {
                self.fleet.tell(FAILING, Mood::Failing).await?;
                self.happen(format!(
                    "{} answers every request with 503, and says that it is healthy",
                    NAMES[FAILING]
                ))
            }
            Act::Recover => {
                self.fleet.tell(FAILING, Mood::Well).await?;
                self.happen(format!("{} is well again", NAMES[FAILING]))
            }
            Act::Slow => {
                self.fleet.tell(SLOW, Mood::Slow).await?;
                self.happen(format!("{} takes {} ms for every answer", NAMES[SLOW], LATE.as_millis()))
            }
            Act::Quick => {
                self.fleet.tell(SLOW, Mood::Well).await?;
                self.happen(format!("{} is quick again", NAMES[SLOW]))
            }
            Act::End => Ok(()),
        }
    }

    fn count(&mut self, sample: Sample) -> Result<(), DemoError> {
        let instance = match &sample.outcome {
            Ok(name) => NAMES.iter().position(|known| known == name),
            Err(_) => None,
        };
        if instance == Some(SPARE) && self.total.answers(SPARE) == 0 {
            self.happen(format!("{} answers its first request", NAMES[SPARE]))?;
        }
        if let Some(walk) = &mut self.walk {
            walk.count(&sample, instance);
        }
        let Sample { sender, latency, outcome, .. } = sample;
        self.total.count(sender, instance, latency);
        self.second.count(sender, instance, latency);
        if instance.is_none() && self.total.failures <= TOLD_FAILURES {
            let why = outcome.map_or_else(|reason| reason, |name| format!("{name} is no instance of ours"));
            self.happen(format!("FAILED: {why}"))?;
        }
        Ok(())
    }

    fn look(&mut self, look: &Look) -> Result<(), DemoError> {
        let Some(rotation) = &mut self.rotation else {
            self.rotation.insert(Rotation::default()).observe(look);
            return Ok(());
        };
        for (node, turn) in rotation.observe(look) {
            let instance = NAMES.iter().position(|name| *name == node);
            if let Some(instance) = instance.filter(|_| turn == Turn::Joined) {
                self.killed[instance] = None;
            }
            let killed = instance.and_then(|instance| self.killed[instance]);
            let since_killed = killed.map(|at| clock::now().since(at));
            self.happen(report::turn(&node, &turn, since_killed))?;
        }
        Ok(())
    }

    fn look_at_store(&mut self, look: StoreLook) -> Result<(), DemoError> {
        for turn in look.turns(&self.store) {
            let since_started = clock::now().since(self.fleet.started());
            let pid = match &turn {
                StoreTurn::Leads(leader) => {
                    let instance = NAMES.iter().position(|name| *name == leader.node);
                    instance.and_then(|instance| self.fleet.sidecar(instance)).map(Process::pid)
                }
                StoreTurn::Founded(_) | StoreTurn::Leaderless | StoreTurn::Route(..) => None,
            };
            self.happen(report::store_turn(&turn, since_started, pid))?;
        }
        self.store = look;
        Ok(())
    }

    fn tell_second(&mut self) -> Result<(), DemoError> {
        let line = report::second(
            self.elapsed(),
            &self.second,
            self.total.failures,
            self.store.leader.as_ref().map(|leader| &*leader.node),
        );
        self.second = Tally::new(CLIENTS.len(), NAMES.len());
        Ok(writeln!(self.out, "{line}")?)
    }

    fn happen(&mut self, what: String) -> Result<(), DemoError> {
        let happening = Happening { at: self.elapsed(), what };
        writeln!(self.out, "{}", happening.line())?;
        self.happenings.push(happening);
        Ok(())
    }

    fn elapsed(&self) -> Duration {
        clock::now().since(self.began)
    }
}

/// Waits for the next act; for ever, if there is none.
async fn come(next: Option<(Duration, Act)>, began: Instant) -> Act {
    match next {
        Some((at, act)) => {
            sleep_until(began + at).await;
            act
        }
        None => std::future::pending().await,
    }
}

fn ticks(began: Instant, period: Duration) -> tokio::time::Interval {
    let mut ticks = interval_at(began + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Everything that still comes.
async fn drain(mut samples: mpsc::Receiver<Sample>) -> Vec<Sample> {
    let mut rest = Vec::new();
    while let Some(sample) = samples.recv().await {
        rest.push(sample);
    }
    rest
}
