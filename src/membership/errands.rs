//! Whom a member calls, and when: seeds until it is in, somebody now and then to compare all that is known, and those who
//! have yet to prove who they are. What is done with what was heard is decided by the driver, one thing at a time. Calls of
//! others are answered in answers.rs.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use super::{
    KeyringReport, MemberId, Params, Seed,
    call::{Answer, CallError, Card, LIMIT, Line, Question},
    core::{envelope::Keyring, packet::Knowledge, tuning::Tuning},
    driver::Driver,
};
use crate::{
    rt::{clock, random},
    telemetry::metrics::{GossipDrop, GossipKind, GossipSide, JoinResult, PushPullResult},
    types::Mono,
};

/// First wait after an attempt to get in; doubled up to the last.
const JOIN_AFTER: Duration = Duration::from_millis(500);
const JOIN_AFTER_AT_MOST: Duration = Duration::from_secs(10);
/// Seeds that are not among the living are called in each of these: two meshes that should be one find each other so.
const SEEDS_AFTER: Duration = Duration::from_secs(15);
/// Whoever knows members that have said nothing about themselves, twice in a row with this time between, compares at once:
/// what they said was lost.
const GAPS_AFTER: Duration = Duration::from_secs(2);
/// First wait before somebody is asked again who it is; doubled up to the last.
const PROOF_AFTER: Duration = Duration::from_secs(1);
const PROOF_AFTER_AT_MOST: Duration = Duration::from_secs(30);
/// Members that are asked who they are at a time.
const PROOFS_AT_ONCE: usize = 8;
/// Addresses of one seed that are called.
const ADDRESSES: usize = 16;
/// Addresses that are called in one round, of all seeds together.
const CALLS: usize = 64;

/// Finds the addresses of a seed; the error is the whole reason.
pub type Lookup =
    Arc<dyn Fn(Seed) -> Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, String>> + Send>> + Send + Sync>;

/// What an errand has brought.
pub(super) enum Done {
    /// The addresses of a seed were looked up, for the round that is under way.
    Found(Result<Vec<SocketAddr>, String>),
    /// Somebody was called to compare, in that round.
    Called(Box<Result<Heard, CallError>>),
    /// Somebody was asked who it is.
    Met { id: MemberId, outcome: Box<Result<Heard, CallError>> },
    /// Everybody was told to change the keyring.
    Told {
        report: KeyringReport,
        cards: Vec<Heard>,
        answer: oneshot::Sender<Result<KeyringReport, super::KeyringError>>,
    },
    /// Nothing that matters.
    Nothing,
}

/// Why somebody is called to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To get in.
    Join,
    /// Seeds that are not among the living, to see whether there is another mesh.
    Seeds,
    /// As it is done now and then.
    Compare,
}

/// Calls to compare, all at once: one that hangs keeps nobody from what another says.
struct Round {
    purpose: Purpose,
    question: Arc<Question>,
    everything: Arc<Question>,
    /// Who was called, and who need not be.
    called: BTreeSet<SocketAddr>,
    /// Calls and look-ups that are under way.
    left: usize,
    in_touch: bool,
    /// What the last failure is counted as.
    result: JoinResult,
    failures: Vec<String>,
}

/// What was heard on a call.
pub(super) struct Heard {
    pub(super) card: Card,
    /// The service whose identity was proved.
    pub(super) service: Option<Arc<str>>,
    pub(super) knowledge: Option<Knowledge>,
    pub(super) bytes: (usize, usize),
}

/// When what is to be done again.
#[derive(Clone, Copy, Debug)]
struct Again {
    at: Mono,
    wait: Duration,
}

/// What is to be done beside the protocol.
pub(super) struct Errands {
    pub(super) tasks: JoinSet<Done>,
    line: Line,
    lookup: Lookup,
    seeds: Vec<Seed>,
    own: SocketAddr,
    tuning: Tuning,
    rng: fastrand::Rng,
    join: Again,
    round: Option<Round>,
    next_seeds: Mono,
    next_compare: Mono,
    proofs: BTreeMap<MemberId, Again>,
    asking: BTreeSet<MemberId>,
    complaint: Option<String>,
    /// All that is known was compared with somebody's, whoever called.
    pub(super) has_compared: bool,
    has_joined: bool,
    next_gaps: Mono,
    had_gaps: bool,
}

impl Errands {
    pub(super) fn new(line: Line, lookup: Lookup, params: &Params, own: SocketAddr, tuning: Tuning) -> Self {
        let now = clock::now();
        let mut rng = random::seeded(u64::from(own.port()));
        let first = tuning.push_pull_interval.mul_f64(rng.f64());
        Self {
            tasks: JoinSet::new(),
            line,
            lookup,
            seeds: params.join.clone(),
            own,
            tuning,
            rng,
            join: Again { at: now, wait: JOIN_AFTER },
            round: None,
            next_seeds: now.after(SEEDS_AFTER),
            next_compare: now.after(first),
            proofs: BTreeMap::new(),
            asking: BTreeSet::new(),
            complaint: None,
            has_compared: false,
            has_joined: false,
            next_gaps: now.after(GAPS_AFTER),
            had_gaps: false,
        }
    }

    pub(super) fn own_address(&self) -> SocketAddr {
        self.own
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// Says once what keeps this node from getting in.
    fn complain(&mut self, text: String) {
        if self.complaint.as_ref() != Some(&text) {
            tracing::warn!(reason = %text, "cannot join the mesh yet; it is tried again");
            self.complaint = Some(text);
        }
    }
}

impl Driver {
    /// Starts what is due.
    pub(super) fn run_errands(&mut self) {
        let now = clock::now();
        let others = self.machine.others();
        let errands = &mut self.errands;
        let mut is_gap = false;
        if errands.next_gaps <= now {
            errands.next_gaps = now.after(GAPS_AFTER);
            is_gap = std::mem::replace(&mut errands.had_gaps, self.machine.has_gaps()) && errands.had_gaps;
        }
        if errands.round.is_none() {
            // Gossip may come first: it brings members, not what they said long ago.
            let is_out = others == 0 || !(errands.has_compared || errands.seeds.is_empty());
            let mut lost: Vec<SocketAddr> = if is_out { self.machine.lost().collect() } else { Vec::new() };
            if is_out && errands.join.at <= now && !(errands.seeds.is_empty() && lost.is_empty()) {
                // Others each time: some of them may have been gone for hours.
                errands.rng.shuffle(&mut lost);
                lost.truncate(ADDRESSES);
                let seeds =
                    errands.seeds.iter().cloned().chain(lost.into_iter().map(Seed::Address)).collect();
                self.compare(Purpose::Join, seeds);
            } else if others > 0 && errands.next_seeds <= now {
                errands.next_seeds = now.after(SEEDS_AFTER);
                let seeds = errands.seeds.clone();
                if !seeds.is_empty() {
                    self.compare(Purpose::Seeds, seeds);
                }
            } else if others > 0 && (errands.next_compare <= now || is_gap) {
                let interval = errands.tuning.push_pull(others + 1);
                errands.next_compare = now.after(interval.mul_f64(0.9 + 0.2 * errands.rng.f64()));
                if let Some((_, address)) = self.machine.companion() {
                    self.compare(Purpose::Compare, vec![Seed::Address(address)]);
                }
            }
        }
        self.ask_for_proof(now);
    }

    fn ask_for_proof(&mut self, now: Mono) {
        let wanted: Vec<(MemberId, SocketAddr)> = self
            .machine
            .unconfirmed()
            .filter(|(id, ..)| !self.errands.asking.contains(id))
            .filter(|(id, ..)| self.errands.proofs.get(id).is_none_or(|again| again.at <= now))
            .map(|(id, address, _)| (id, address))
            .take(PROOFS_AT_ONCE.saturating_sub(self.errands.asking.len()))
            .collect();
        for (id, address) in wanted {
            let (line, keyring, question) =
                (self.errands.line.clone(), self.keyring.clone(), Question::Hello(self.card()));
            self.errands.asking.insert(id);
            self.errands.tasks.spawn(async move {
                let outcome = timeout(LIMIT, hello(&line, address, &question, &keyring)).await;
                Done::Met { id, outcome: Box::new(outcome.unwrap_or(Err(CallError::Late))) }
            });
        }
    }

    fn compare(&mut self, purpose: Purpose, seeds: Vec<Seed>) {
        let (card, digest, knowledge) = (self.card(), self.machine.digest(), self.machine.knowledge());
        let is_joining = purpose == Purpose::Join;
        let mut called = BTreeSet::from([self.errands.own]);
        if purpose == Purpose::Seeds {
            // Whom we know to live need not be called as a seed.
            called.extend(self.machine.living());
        }
        self.errands.round = Some(Round {
            purpose,
            question: Arc::new(Question::Compare { card: card.clone(), digest, is_joining }),
            everything: Arc::new(Question::Everything(card, knowledge)),
            called,
            left: 0,
            in_touch: false,
            result: JoinResult::Unresolved,
            failures: Vec::new(),
        });
        for seed in seeds {
            match seed {
                Seed::Address(address) => self.call(address),
                named => {
                    let found = (self.errands.lookup)(named);
                    self.errands.tasks.spawn(async move { Done::Found(found.await) });
                    self.errands.round.iter_mut().for_each(|round| round.left += 1);
                }
            }
        }
        self.conclude();
    }

    fn call(&mut self, address: SocketAddr) {
        let errands = &mut self.errands;
        let Some(round) = &mut errands.round else { return };
        if round.left >= CALLS || !round.called.insert(address) {
            return;
        }
        round.left += 1;
        let (line, keyring) = (errands.line.clone(), self.keyring.clone());
        let (question, everything) = (Arc::clone(&round.question), Arc::clone(&round.everything));
        errands.tasks.spawn(async move {
            let call = exchange(&line, address, &question, &everything, &keyring);
            Done::Called(Box::new(timeout(LIMIT, call).await.unwrap_or(Err(CallError::Late))))
        });
    }

    /// Takes what an errand has brought.
    pub(super) fn finished(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Met { id, outcome } => self.met(id, *outcome),
            Done::Found(found) => self.found(found),
            Done::Called(outcome) => self.called(*outcome),
            Done::Told { report, cards, answer } => {
                for heard in cards {
                    let _ = self.hear(heard);
                }
                // Whoever asks for the keys next shall see what it was told.
                self.publish();
                // Whoever asked may have gone; it is done all the same.
                let _ = answer.send(Ok(report));
            }
        }
    }

    fn met(&mut self, id: MemberId, outcome: Result<Heard, CallError>) {
        self.errands.asking.remove(&id);
        let why = match outcome {
            Ok(heard) if heard.card.seen.id == id => self.hear(heard).err(),
            Ok(_) => Some("another member answers at its address".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let Some(why) = why else {
            self.errands.proofs.remove(&id);
            return;
        };
        let now = clock::now();
        let before = self.errands.proofs.get(&id).map(|again| again.wait);
        let wait = before.map_or(PROOF_AFTER, |wait| (wait * 2).min(PROOF_AFTER_AT_MOST));
        if before.is_none() {
            let node = super::journal::name(id, &self.machine);
            tracing::warn!(%node, reason = %why, "a member has not proved who it is; it is sent no requests until it does");
        }
        self.errands.proofs.retain(|id, _| self.machine.state(*id).is_some());
        self.errands.proofs.insert(id, Again { at: now.after(wait), wait });
    }

    fn found(&mut self, found: Result<Vec<SocketAddr>, String>) {
        match found {
            Ok(addresses) => addresses.into_iter().take(ADDRESSES).for_each(|address| self.call(address)),
            Err(reason) => {
                self.errands.round.iter_mut().for_each(|round| round.failures.push(reason.clone()));
            }
        }
        self.returned();
    }

    fn called(&mut self, outcome: Result<Heard, CallError>) {
        match outcome.and_then(|heard| self.hear(heard).map_err(CallError::Refused)) {
            Ok(()) => {
                self.journal.metrics.push_pulled(PushPullResult::Ok);
                self.in_touch();
            }
            Err(error) => self.failed(&error),
        }
        self.returned();
    }

    /// Somebody has answered as it should.
    fn in_touch(&mut self) {
        self.errands.has_compared = true;
        let Some(round) = &mut self.errands.round else { return };
        if std::mem::replace(&mut round.in_touch, true) || round.purpose != Purpose::Join {
            return;
        }
        self.journal.metrics.joined(JoinResult::Ok);
        self.errands.complaint = None;
        self.errands.join.wait = JOIN_AFTER;
        if !std::mem::replace(&mut self.errands.has_joined, true) {
            tracing::info!(members = self.machine.others() + 1, "joined the mesh");
        }
    }

    fn failed(&mut self, error: &CallError) {
        self.journal.metrics.push_pulled(pushed(error));
        if matches!(error, CallError::NameTaken(_)) {
            self.journal.metrics.conflicted();
            tracing::error!(node = %self.machine.own().facts.node, %error, "the name of this node is taken");
        }
        let Some(round) = &mut self.errands.round else { return };
        round.result = match error {
            CallError::NameTaken(_) => JoinResult::Conflict,
            CallError::Refused(_) | CallError::Sealed(_) | CallError::Tls(_) | CallError::HungUp => {
                JoinResult::Refused
            }
            _ if round.result == JoinResult::Unresolved => JoinResult::Unreachable,
            _ => round.result,
        };
        round.failures.push(error.to_string());
    }

    /// A call or a look-up of the round has come back.
    fn returned(&mut self) {
        self.errands.round.iter_mut().for_each(|round| round.left = round.left.saturating_sub(1));
        self.conclude();
    }

    /// Ends the round when all of it has come back.
    fn conclude(&mut self) {
        let Some(Round { purpose, in_touch, result, mut failures, .. }) =
            self.errands.round.take_if(|round| round.left == 0)
        else {
            return;
        };
        failures.sort_unstable();
        failures.dedup();
        if purpose != Purpose::Join || in_touch {
            if !failures.is_empty() {
                tracing::debug!(reason = %failures.join("; "), "a comparison came to nothing");
            }
            return;
        }
        self.journal.metrics.joined(result);
        let errands = &mut self.errands;
        let wait = errands.join.wait.mul_f64(0.75 + 0.5 * errands.rng.f64());
        errands.join.at = clock::now().after(wait);
        errands.join.wait = (errands.join.wait * 2).min(JOIN_AFTER_AT_MOST);
        // Whose only seed is itself is the first.
        if !failures.is_empty() {
            errands.complain(failures.join("; "));
        }
    }

    /// Takes what another says on a connection, if it is who it says.
    fn hear(&mut self, heard: Heard) -> Result<(), String> {
        let Heard { card, service, knowledge, bytes } = heard;
        self.journal.metrics.message(GossipKind::PushPull, GossipSide::Sent, bytes.0);
        self.journal.metrics.message(GossipKind::PushPull, GossipSide::Received, bytes.1);
        self.prove(&card, service.as_deref())?;
        let (now, id) = (clock::now(), card.seen.id);
        if let Some(knowledge) = knowledge {
            if !knowledge.is_plausible() {
                self.journal.metrics.dropped(GossipDrop::Size);
                return Err("it says to know more than can be".to_owned());
            }
            self.machine.merge(knowledge, id, now);
        }
        self.machine.meet(&card.seen, card.record, now);
        self.dirty = true;
        Ok(())
    }

    /// Whether the bearer of the identity of `service` may be the member that it says to be.
    pub(super) fn prove(&self, card: &Card, service: Option<&str>) -> Result<(), String> {
        let facts = &card.record.facts;
        if card.seen.id != card.record.id || card.seen.generation != card.record.generation {
            return Err("it contradicts itself".to_owned());
        }
        if card.seen.id == self.machine.own().id {
            return Err("it says to be this node: a data directory (mesh.data_dir) was copied".to_owned());
        }
        if self.errands.line.mesh.is_some() && service != Some(&*facts.service) {
            let proved = service.unwrap_or("-");
            return Err(format!(
                "its certificate is of the service `{proved}`, and it says to be of `{}`",
                facts.service
            ));
        }
        Ok(())
    }
}

fn pushed(error: &CallError) -> PushPullResult {
    match error {
        CallError::Unreachable(_) | CallError::Broken(_) => PushPullResult::Unreachable,
        CallError::Late => PushPullResult::Timeout,
        CallError::Refused(_) | CallError::NameTaken(_) | CallError::Tls(_) | CallError::HungUp => {
            PushPullResult::Refused
        }
        CallError::Sealed(_) | CallError::Nonsense => PushPullResult::Malformed,
    }
}

async fn hello(
    line: &Line,
    address: SocketAddr,
    question: &Question,
    keyring: &Keyring,
) -> Result<Heard, CallError> {
    let mut session = line.call(address).await?;
    let answer = session.ask(question, keyring).await?;
    let Answer::Hello(card) = answer else { return Err(CallError::Nonsense) };
    Ok(Heard { card, service: session.service.clone(), knowledge: None, bytes: session.bytes })
}

/// Asks a member for its card, with a question that it answers by it.
pub(super) async fn ask(
    line: &Line,
    address: SocketAddr,
    question: &Question,
    keyring: &Keyring,
) -> Result<Heard, CallError> {
    timeout(LIMIT / 4, hello(line, address, question, keyring)).await.unwrap_or(Err(CallError::Late))
}

async fn exchange(
    line: &Line,
    address: SocketAddr,
    question: &Question,
    everything: &Question,
    keyring: &Keyring,
) -> Result<Heard, CallError> {
    let mut session = line.call(address).await?;
    let (card, knowledge) = match session.ask(question, keyring).await? {
        Answer::Same(card) => (card, None),
        Answer::Different(_) => match session.ask(everything, keyring).await? {
            Answer::Everything(card, knowledge) => (card, Some(knowledge)),
            _ => return Err(CallError::Nonsense),
        },
        _ => return Err(CallError::Nonsense),
    };
    Ok(Heard { card, service: session.service.clone(), knowledge, bytes: session.bytes })
}
