//! The show itself: runs the load, acts when the schedule says so, and tells what is to be seen.

use std::{collections::VecDeque, io::Write, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    DemoError, Ending, Verdict,
    application::{LATE, Mood},
    fleet::{Alive, FAILING, Fleet, NAMES, SLOW, SPARE, VICTIM},
    load::{self, Load},
    report::{self, Happening},
    rotation::{self, Look, Rotation},
    schedule::{Act, Schedule},
    sidecar::Ports,
    tally::{Sample, Tally},
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
    killed: Option<Mono>,
    total: Tally,
    second: Tally,
    happenings: Vec<Happening>,
}

/// What the show waits for.
enum Event {
    Sample(Sample),
    Look(Look),
    Act(Act),
    Second,
    Pulse,
    Signal,
}

impl<'a> Show<'a> {
    /// A show that has not begun, with everything started.
    pub(super) fn new(
        fleet: Fleet,
        schedule: &Schedule,
        workspace: &'a Workspace,
        out: &'a mut dyn Write,
    ) -> Self {
        Self {
            rotation: None,
            killed: None,
            fleet,
            acts: schedule.acts().into(),
            workspace,
            out,
            began: clock::now(),
            total: Tally::new(NAMES.len()),
            second: Tally::new(NAMES.len()),
            happenings: Vec::new(),
        }
    }

    /// Runs to the end, ends all processes and prints the table.
    pub(super) async fn run(mut self, ending: &mut Ending) -> Result<Verdict, DemoError> {
        self.introduce()?;
        let client = self.fleet.client().ports;
        let (reports, mut looks) = mpsc::channel(LOOKS);
        let mut watching = Tasks::default();
        watching.spawn("rotation", rotation::watch(client.admin, reports));
        self.began = clock::now();
        let (load, mut samples) = Load::start(client.traffic);

        if let Err(error) = self.until_the_end(ending, &mut samples, &mut looks).await {
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
        Ok(match self.total.failures {
            0 => Verdict::Clean,
            failures => Verdict::Failed(failures),
        })
    }

    async fn until_the_end(
        &mut self,
        ending: &mut Ending,
        samples: &mut mpsc::Receiver<Sample>,
        looks: &mut mpsc::Receiver<Look>,
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
                _ = seconds.tick() => Event::Second,
                _ = pulses.tick() => Event::Pulse,
            };
            match event {
                Event::Sample(sample) => self.count(sample)?,
                Event::Look(look) => self.look(&look)?,
                Event::Second => self.tell_second()?,
                Event::Pulse => self.fleet.casualty().map_or(Ok(()), Err)?,
                Event::Act(Act::End) | Event::Signal => return Ok(()),
                Event::Act(act) => {
                    self.acts.pop_front();
                    tokio::select! {
                        acted = self.act(act) => acted?,
                        () = ending.come() => return Ok(()),
                    }
                }
            }
        }
    }

    async fn act(&mut self, act: Act) -> Result<(), DemoError> {
        match act {
            Act::Kill => {
                self.killed = Some(clock::now());
                let killed = self.fleet.kill().await?;
                self.happen(format!("killed {} (kill -9 of {killed})", NAMES[VICTIM]))
            }
            Act::Restore => {
                let moved = self.fleet.restore(self.workspace).await?;
                let address = self.fleet.instances()[VICTIM].ports.traffic;
                self.killed = None;
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
        let Sample { latency, outcome } = sample;
        let instance = match &outcome {
            Ok(name) => NAMES.iter().position(|known| known == name),
            Err(_) => None,
        };
        if instance == Some(SPARE) && self.total.answers[SPARE] == 0 {
            self.happen(format!("{} answers its first request", NAMES[SPARE]))?;
        }
        self.total.count(instance, latency);
        self.second.count(instance, latency);
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
            let since_killed = self.killed.filter(|_| node == NAMES[VICTIM]).map(|at| clock::now().since(at));
            self.happen(report::turn(&node, &turn, since_killed))?;
        }
        Ok(())
    }

    fn tell_second(&mut self) -> Result<(), DemoError> {
        let line = report::second(self.elapsed(), &self.second, self.total.failures);
        self.second = Tally::new(NAMES.len());
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

    /// Says what runs where, and what to try.
    fn introduce(&mut self) -> Result<(), DemoError> {
        let out = &mut *self.out;
        writeln!(out)?;
        for (name, instance) in NAMES.iter().zip(self.fleet.instances()) {
            let Some(Alive { application, address, sidecar }) = &instance.alive else { continue };
            let Ports { traffic, admin, .. } = instance.ports;
            let pids = (application.pid(), sidecar.pid());
            writeln!(
                out,
                "  {name:<7} application at {address} (pid {}), sidecar at {traffic} (pid {}), its admin API at {admin}",
                pids.0, pids.1
            )?;
        }
        let (client, spare) = (self.fleet.client(), self.fleet.spare());
        let Ports { traffic, admin, .. } = client.ports;
        writeln!(
            out,
            "  client  sidecar at {traffic} (pid {}), its admin API at {admin}",
            client.process.pid()
        )?;
        let (name, address, pid) = (NAMES[SPARE], spare.address, spare.application.pid());
        writeln!(
            out,
            "  {name:<7} application at {address} (pid {pid}), no sidecar: start it by hand, see below"
        )?;
        writeln!(out)?;
        if let Some(join) = self.fleet.join() {
            writeln!(
                out,
                "  mesh    {} members found each other {:.1} s after the last had started, all by the one address {join}",
                self.fleet.instances().len() + 1,
                self.fleet.gathered().as_secs_f64()
            )?;
        }
        self.invite()?;
        let out = &mut *self.out;
        writeln!(
            out,
            "load: {} connections, about {} requests per second through the client's sidecar; Ctrl-C ends it",
            load::CONNECTIONS,
            load::RATE
        )?;
        writeln!(out)?;
        Ok(out.flush()?)
    }

    /// Says what to try, as commands.
    fn invite(&mut self) -> Result<(), DemoError> {
        let out = &mut *self.out;
        let Ports { traffic, admin, .. } = self.fleet.client().ports;
        let spare = self.fleet.spare();
        let binary = std::env::current_exe()?;
        let binary = binary.display();
        writeln!(out)?;
        writeln!(out, "  try     curl -i http://{traffic}/")?;
        writeln!(out, "  look    curl http://{admin}/v1/services")?;
        writeln!(out, "  members {binary} members --admin http://{admin}")?;
        writeln!(out, "  add     {binary} run --config {}", spare.configuration.display())?;
        writeln!(
            out,
            "          ({}, whose admin API will be at {}; Ctrl-C takes it out again)",
            NAMES[SPARE], spare.ports.admin
        )?;
        if let Some(first) = self.fleet.instances().first() {
            let (traffic, files) = (first.ports.traffic, self.workspace.path().join("certificates/client"));
            let files = files.display();
            writeln!(out, "  refused curl -k https://{traffic}/")?;
            writeln!(
                out,
                "  allowed curl -k --cert {files}/tls.crt --key {files}/tls.key https://{traffic}/"
            )?;
        }
        writeln!(out, "  files   {}", self.workspace.path().display())?;
        Ok(writeln!(out)?)
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
