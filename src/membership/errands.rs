//! Whom a member calls, and when: seeds until it is in, somebody now and then to compare all that is known, and those who
//! have yet to prove who they are. Also answers calls. What is done with what was heard is decided by the driver's owner,
//! one thing at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{
    KeyringReport, MemberId, Params, Seed,
    call::{Answer, CallError, Card, LIMIT, Line, QUESTIONS, Question},
    core::{envelope::Keyring, packet::Knowledge, tuning::Tuning},
    driver::{Asked, Driver},
};
use crate::{
    net::Stream,
    rt::{clock, random},
    telemetry::metrics::{GossipDrop, GossipKind, GossipSide, JoinResult, PushPullResult},
    types::Mono,
};

/// First wait after an attempt to get in; doubled up to the last.
const JOIN_AFTER: Duration = Duration::from_millis(500);
const JOIN_AFTER_AT_MOST: Duration = Duration::from_secs(10);
/// Seeds that are not among the living are called in each of these: two meshes that should be one find each other so.
const SEEDS_AFTER: Duration = Duration::from_secs(15);
/// First wait before somebody is asked again who it is; doubled up to the last.
const PROOF_AFTER: Duration = Duration::from_secs(1);
const PROOF_AFTER_AT_MOST: Duration = Duration::from_secs(30);
/// Members that are asked who they are at a time.
const PROOFS_AT_ONCE: usize = 8;
/// Addresses of one seed that are called.
const ADDRESSES: usize = 16;
/// Addresses that are called at a time, of all seeds together.
const CALLS: usize = 64;

/// Finds the addresses of a seed; the error is the whole reason.
pub type Lookup =
    Arc<dyn Fn(Seed) -> Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, String>> + Send>> + Send + Sync>;

/// What an errand has brought.
pub(super) enum Done {
    /// Somebody was called to compare.
    Compared { purpose: Purpose, outcomes: Vec<Result<Heard, CallError>>, unresolved: Vec<String> },
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
    is_calling: bool,
    next_seeds: Mono,
    next_compare: Mono,
    proofs: BTreeMap<MemberId, Again>,
    asking: BTreeSet<MemberId>,
    complaint: Option<String>,
    has_joined: bool,
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
            is_calling: false,
            next_seeds: now.after(SEEDS_AFTER),
            next_compare: now.after(first),
            proofs: BTreeMap::new(),
            asking: BTreeSet::new(),
            complaint: None,
            has_joined: false,
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
        if !errands.is_calling {
            if others == 0 && errands.join.at <= now && !errands.seeds.is_empty() {
                let lost: Vec<SocketAddr> = self.machine.lost().take(ADDRESSES).collect();
                let seeds =
                    errands.seeds.iter().cloned().chain(lost.into_iter().map(Seed::Address)).collect();
                self.compare(Purpose::Join, seeds);
            } else if others > 0 && errands.next_seeds <= now {
                errands.next_seeds = now.after(SEEDS_AFTER);
                let seeds = errands.seeds.clone();
                if !seeds.is_empty() {
                    self.compare(Purpose::Seeds, seeds);
                }
            } else if others > 0 && errands.next_compare <= now {
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
        self.errands.is_calling = true;
        let (line, lookup, keyring) =
            (self.errands.line.clone(), Arc::clone(&self.errands.lookup), self.keyring.clone());
        let (card, digest, knowledge) = (self.card(), self.machine.digest(), self.machine.knowledge());
        let own = self.errands.own;
        // Whom we know to live need not be called as a seed.
        let known: BTreeSet<SocketAddr> = match purpose {
            Purpose::Seeds => self.machine.living().collect(),
            Purpose::Join | Purpose::Compare => BTreeSet::new(),
        };
        self.errands.tasks.spawn(async move {
            let (mut calls, mut unresolved) = (JoinSet::new(), Vec::new());
            let mut called = BTreeSet::from([own]);
            for seed in seeds {
                let addresses = match seed {
                    Seed::Address(address) => vec![address],
                    named => match lookup(named).await {
                        Ok(addresses) => addresses,
                        Err(reason) => {
                            unresolved.push(reason);
                            continue;
                        }
                    },
                };
                for address in addresses.into_iter().take(ADDRESSES) {
                    if known.contains(&address) || !called.insert(address) || calls.len() >= CALLS {
                        continue;
                    }
                    let is_joining = purpose == Purpose::Join;
                    let question = Question::Compare { card: card.clone(), digest, is_joining };
                    let everything = Question::Everything(card.clone(), knowledge.clone());
                    let (line, keyring) = (line.clone(), keyring.clone());
                    // All at once: one that does not answer keeps nobody waiting for another that does.
                    calls.spawn(async move {
                        let call = exchange(&line, address, &question, &everything, &keyring);
                        timeout(LIMIT, call).await.unwrap_or(Err(CallError::Late))
                    });
                }
            }
            let outcomes = calls.join_all().await;
            Done::Compared { purpose, outcomes, unresolved }
        });
    }

    /// Takes what an errand has brought.
    pub(super) fn finished(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Met { id, outcome } => self.met(id, *outcome),
            Done::Compared { purpose, outcomes, unresolved } => self.compared(purpose, outcomes, unresolved),
            Done::Told { report, cards, answer } => {
                for heard in cards {
                    let _ = self.hear(heard);
                }
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

    fn compared(
        &mut self,
        purpose: Purpose,
        outcomes: Vec<Result<Heard, CallError>>,
        unresolved: Vec<String>,
    ) {
        self.errands.is_calling = false;
        let mut failures = unresolved;
        let (mut in_touch, mut result) = (false, JoinResult::Unresolved);
        for outcome in outcomes {
            let error = match outcome {
                Ok(heard) => match self.hear(heard) {
                    Ok(()) => {
                        in_touch = true;
                        self.journal.metrics.push_pulled(PushPullResult::Ok);
                        continue;
                    }
                    Err(why) => CallError::Refused(why),
                },
                Err(error) => error,
            };
            self.journal.metrics.push_pulled(pushed(&error));
            result = match &error {
                CallError::NameTaken(_) => JoinResult::Conflict,
                CallError::Refused(_) | CallError::Sealed(_) | CallError::Tls(_) => JoinResult::Refused,
                _ if result == JoinResult::Unresolved => JoinResult::Unreachable,
                _ => result,
            };
            if matches!(error, CallError::NameTaken(_)) {
                self.journal.metrics.conflicted();
                tracing::error!(node = %self.machine.own().facts.node, %error, "the name of this node is taken");
            }
            failures.push(error.to_string());
        }
        match purpose {
            Purpose::Join if in_touch => {
                self.journal.metrics.joined(JoinResult::Ok);
                self.errands.complaint = None;
                self.errands.join.wait = JOIN_AFTER;
                if !std::mem::replace(&mut self.errands.has_joined, true) {
                    tracing::info!(members = self.machine.others() + 1, "joined the mesh");
                }
            }
            Purpose::Join => {
                self.journal.metrics.joined(result);
                let errands = &mut self.errands;
                let wait = errands.join.wait.mul_f64(0.75 + 0.5 * errands.rng.f64());
                errands.join.at = clock::now().after(wait);
                errands.join.wait = (errands.join.wait * 2).min(JOIN_AFTER_AT_MOST);
                failures.sort_unstable();
                failures.dedup();
                if failures.is_empty() {
                    // Its only seed is itself: it is the first.
                    return;
                }
                errands.complain(failures.join("; "));
            }
            Purpose::Seeds | Purpose::Compare => {
                if !failures.is_empty() {
                    tracing::debug!(reason = %failures.join("; "), "a comparison came to nothing");
                }
            }
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
        self.machine.confirm(id, now);
        self.dirty = true;
        Ok(())
    }

    /// Whether the bearer of the identity of `service` may be the member that it says to be.
    fn prove(&self, card: &Card, service: Option<&str>) -> Result<(), String> {
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

    /// Answers a question.
    pub(super) fn reply(&mut self, question: Question, service: Option<&str>) -> Answer {
        match question {
            Question::Hello(card) => match self.welcome(card, service) {
                Ok(()) => Answer::Hello(self.card()),
                Err(no) => *no,
            },
            Question::Compare { card, digest, .. } => match self.welcome(card, service) {
                Ok(()) if digest == self.machine.digest() => Answer::Same(self.card()),
                Ok(()) => Answer::Different(self.card()),
                Err(no) => *no,
            },
            Question::Everything(card, knowledge) => {
                let own = self.machine.knowledge();
                let id = card.seen.id;
                match self.welcome(card, service) {
                    Ok(()) if knowledge.is_plausible() => {
                        self.machine.merge(knowledge, id, clock::now());
                        self.dirty = true;
                        Answer::Everything(self.card(), own)
                    }
                    Ok(()) => Answer::Refused("this is more than can be known".to_owned()),
                    Err(no) => *no,
                }
            }
            Question::Keyring(change) => match self.change_keys(change) {
                Ok(()) => Answer::Hello(self.card()),
                Err(error) => Answer::Refused(error.to_string()),
            },
        }
    }

    fn welcome(&mut self, card: Card, service: Option<&str>) -> Result<(), Box<Answer>> {
        if let Err(why) = self.prove(&card, service) {
            tracing::warn!(address = %card.seen.address, node = %card.record.facts.node, reason = %why, "a member is refused");
            return Err(Box::new(Answer::Refused(why)));
        }
        let (now, id) = (clock::now(), card.seen.id);
        if let Some((other, address)) = self.machine.named(&card.record.facts.node, id) {
            if address != card.seen.address {
                self.journal.metrics.conflicted();
                tracing::warn!(node = %card.record.facts.node, %address, newcomer = %card.seen.address, "a member is refused: its name is taken");
                return Err(Box::new(Answer::NameTaken { address }));
            }
            // It has the address of the other, who then is not there any more: it was started without its data directory.
            self.machine.bury(other, now);
        }
        self.machine.meet(&card.seen, card.record, now);
        self.machine.confirm(id, now);
        self.dirty = true;
        Ok(())
    }
}

fn pushed(error: &CallError) -> PushPullResult {
    match error {
        CallError::Unreachable(_) | CallError::Broken(_) => PushPullResult::Unreachable,
        CallError::Late => PushPullResult::Timeout,
        CallError::Refused(_) | CallError::NameTaken(_) | CallError::Tls(_) => PushPullResult::Refused,
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

/// Answers whoever has called, within the time of a call.
pub(super) async fn answer(line: Line, stream: Stream, keyring: Keyring, questions: mpsc::Sender<Asked>) {
    let answering = async {
        let mut session = line.accept(stream).await?;
        for _ in 0..QUESTIONS {
            let Some(question) = session.asked(&keyring).await? else { break };
            let (answer, answered) = oneshot::channel();
            let asked = Asked { question, service: session.service.clone(), answer };
            if questions.send(asked).await.is_err() {
                break;
            }
            let Ok(answer) = answered.await else { break };
            session.answer(&answer, &keyring).await?;
        }
        Ok::<_, CallError>(())
    };
    match timeout(LIMIT, answering).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a call of a member came to nothing"),
        Err(_) => tracing::debug!("a call of a member took too long"),
    }
}
