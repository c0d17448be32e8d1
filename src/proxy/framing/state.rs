//! What is known of one downstream connection: shared by the guard, the connection's driver, the exchanges of
//! its requests, and the sweeper that enforces the time limits. One thread; no clock but the one given.

use std::{
    cell::Cell,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    expiry::{Expired, TimeLimits},
    frames::Flood,
    reject::{Reject, RejectReason},
    scan::Place,
    waker::WakerSlot,
};
use crate::types::Mono;

/// The worker's coarse clock, moved on by its sweeper.
pub type CoarseClock = Rc<Cell<Mono>>;

/// How long an idle HTTP/1 connection that should end is left open. Closing it at once would race with a request
/// that is on its way; one that comes within this time is answered with `Connection: close`.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its protocol is not known yet.
    Detect,
    /// HTTP/1, between the messages of the client. Requests may be in progress.
    Idle,
    /// HTTP/1, within a head.
    Head,
    /// HTTP/1, within a body.
    Body,
    /// HTTP/1, a request for another protocol has been passed and is not decided.
    Held,
    /// Bytes pass as they are.
    Tunnel,
    /// HTTP/2.
    H2,
    /// HTTP/1, nothing the client sends will be read any more.
    Closing,
}

/// How reading goes on after a time limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReadFate {
    /// As usual.
    #[default]
    Open,
    /// The stream is taken to have ended.
    Eof,
    /// As soon as no byte is there, the reader gets an error.
    TimedOut,
}

/// What became of a request for another protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Decision {
    #[default]
    Open,
    Granted,
    Refused,
}

/// The shared state of one connection.
pub struct ConnState {
    clock: CoarseClock,
    phase: Cell<Phase>,
    /// When the phase began; for `Detect` that is the accept.
    phase_since: Cell<Mono>,
    last_read: Cell<Mono>,
    last_write: Cell<Mono>,
    /// Since when a reader waits for bytes.
    reader_waits: Cell<Option<Mono>>,
    /// Since when a writer waits for room.
    writer_waits: Cell<Option<Mono>>,
    reader: WakerSlot,
    writer: WakerSlot,
    driver: WakerSlot,
    received_any: Cell<bool>,
    read_fate: Cell<ReadFate>,
    write_failed: Cell<bool>,
    /// A refusal made by the sweeper that the guard has yet to present.
    late_head: Cell<bool>,
    truncated: Cell<bool>,
    /// The refusal, and the number of the request that it concerns.
    reject: Cell<Option<(u64, Reject)>>,
    flood: Cell<Option<Flood>>,
    /// Heads given to the codec; the first request has number 0.
    heads: Cell<u64>,
    /// Requests that reached the service.
    begun: Cell<u64>,
    active: Cell<u32>,
    last_end: Cell<Mono>,
    /// Number of the request that asks for another protocol.
    upgrade: Cell<Option<u64>>,
    decision: Cell<Decision>,
    /// Bytes came behind that request before it was decided.
    early_data: Cell<bool>,
    graceful_since: Cell<Option<Mono>>,
}

impl ConnState {
    /// The state of a connection that was accepted just now.
    #[must_use]
    pub fn new(clock: CoarseClock) -> Rc<Self> {
        let now = clock.get();
        Rc::new(Self {
            clock,
            phase: Cell::new(Phase::Detect),
            phase_since: Cell::new(now),
            last_read: Cell::new(now),
            last_write: Cell::new(now),
            reader_waits: Cell::default(),
            writer_waits: Cell::default(),
            reader: WakerSlot::default(),
            writer: WakerSlot::default(),
            driver: WakerSlot::default(),
            received_any: Cell::default(),
            read_fate: Cell::default(),
            write_failed: Cell::default(),
            late_head: Cell::default(),
            truncated: Cell::default(),
            reject: Cell::default(),
            flood: Cell::default(),
            heads: Cell::default(),
            begun: Cell::default(),
            active: Cell::default(),
            last_end: Cell::new(now),
            upgrade: Cell::default(),
            decision: Cell::default(),
            early_data: Cell::default(),
            graceful_since: Cell::default(),
        })
    }

    /// What the connection is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Requests in progress.
    #[must_use]
    pub fn active_requests(&self) -> u32 {
        self.active.get()
    }

    /// Requests that reached the service so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.begun.get()
    }

    /// The refusal that ended the connection's requests, if there was one.
    #[must_use]
    pub fn rejected(&self) -> Option<Reject> {
        self.reject.get().map(|(_, reject)| reject)
    }

    /// What the client flooded its HTTP/2 connection with, if that ended it.
    #[must_use]
    pub fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// The client closed within a head.
    #[must_use]
    pub fn head_truncated(&self) -> bool {
        self.truncated.get()
    }

    /// Whether an exchange granted another protocol: once the codec is done, the connection is a tunnel.
    #[must_use]
    pub fn upgrade_granted(&self) -> bool {
        self.decision.get() == Decision::Granted
    }

    /// Called by the service first thing for every request, in the order in which the codec hands them over.
    pub fn begin_request(self: &Rc<Self>) -> ActiveRequest {
        let number = self.begun.get();
        self.begun.set(number + 1);
        self.active.set(self.active.get() + 1);
        ActiveRequest { state: Rc::clone(self), number }
    }

    /// Asks the driver to end the connection after the requests in progress.
    pub fn request_graceful(&self) {
        if self.graceful_since.get().is_none() {
            self.graceful_since.set(Some(self.clock.get()));
            self.driver.wake();
        }
    }

    /// Whether the driver should end the connection gracefully.
    #[must_use]
    pub fn wants_graceful(&self) -> bool {
        self.graceful_since.get().is_some()
    }

    /// Ready as soon as a time limit has ended the connection, whoever was waiting for what. For tunnels, whose
    /// client side may have nothing left to read or write.
    pub fn poll_expired(&self, cx: &Context<'_>) -> Poll<()> {
        if self.read_fate.get() != ReadFate::Open || self.write_failed.get() {
            return Poll::Ready(());
        }
        self.driver.register(cx);
        Poll::Pending
    }

    /// Ready as soon as the driver should end the connection gracefully.
    pub fn poll_graceful_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        if self.wants_graceful() {
            return Poll::Ready(());
        }
        self.driver.register(cx);
        Poll::Pending
    }

    /// Applies the time limits; called by the sweeper every 100 ms or so. What it decides it has already
    /// brought about when it returns: wakers are woken, and each expiry is reported once.
    pub fn sweep(&self, now: Mono, limits: &TimeLimits) -> Option<Expired> {
        if self.writer_waits.get().is_some_and(|since| now.since(since) > limits.stream_idle) {
            if self.write_failed.replace(true) {
                return None;
            }
            self.writer.wake();
            self.fail_reads(ReadFate::TimedOut);
            return Some(Expired::Write);
        }
        if self.read_fate.get() != ReadFate::Open || self.late_head.get() {
            return None;
        }
        match self.phase.get() {
            Phase::Detect | Phase::Idle if self.left_in_vain(now) => {
                self.expire_if(true, ReadFate::Eof, Expired::Idle)
            }
            Phase::Detect => self.sweep_head(now.since(self.phase_since.get()), limits),
            Phase::Head => {
                // A response may still be on its way to a client that pipelines.
                let since = self.phase_since.get().max(self.last_end.get());
                if self.active.get() > 0 { None } else { self.sweep_head(now.since(since), limits) }
            }
            Phase::Idle => self.expire_if(self.idle_for(now) > limits.idle, ReadFate::Eof, Expired::Idle),
            Phase::Body => {
                let stalled = self
                    .reader_waits
                    .get()
                    .is_some_and(|since| now.since(since.max(self.last_read.get())) > limits.stream_idle);
                self.expire_if(stalled, ReadFate::TimedOut, Expired::Body)
            }
            Phase::Held => None,
            Phase::Tunnel => {
                let last = self.last_read.get().max(self.last_write.get()).max(self.phase_since.get());
                self.expire_if(now.since(last) > limits.stream_idle, ReadFate::TimedOut, Expired::Tunnel)
            }
            Phase::H2 => self.sweep_http2(now, limits),
            Phase::Closing => {
                let late = self.idle_for(now) > limits.header;
                self.expire_if(late, ReadFate::Eof, Expired::Closing)
            }
        }
    }

    /// The connection should end, no request tells the client so, and it has had time to send one.
    fn left_in_vain(&self, now: Mono) -> bool {
        let told = self.graceful_since.get().is_some_and(|since| now.since(since) > LEAVE_WAIT);
        told && self.idle_for(now) > LEAVE_WAIT
    }

    fn sweep_head(&self, waited: Duration, limits: &TimeLimits) -> Option<Expired> {
        if waited <= limits.header {
            return None;
        }
        if !self.received_any.get() {
            self.fail_reads(ReadFate::Eof);
            return Some(Expired::Silent);
        }
        self.late_head.set(true);
        self.reader.wake();
        Some(Expired::Header)
    }

    fn sweep_http2(&self, now: Mono, limits: &TimeLimits) -> Option<Expired> {
        if self.active.get() > 0 {
            return None;
        }
        let unused = now.since(self.last_end.get().max(self.phase_since.get()));
        if let Some(since) = self.graceful_since.get() {
            // GOAWAY asks; a client that does not answer it is cut.
            let told = now.since(since).min(unused);
            return self.expire_if(told > limits.header, ReadFate::Eof, Expired::Closing);
        }
        if unused <= limits.idle {
            return None;
        }
        self.graceful_since.set(Some(now));
        self.driver.wake();
        Some(Expired::Idle)
    }

    /// For how long nothing was read and no request was in progress.
    fn idle_for(&self, now: Mono) -> Duration {
        if self.active.get() > 0 {
            return Duration::ZERO;
        }
        now.since(self.last_read.get().max(self.last_end.get()))
    }

    fn expire_if(&self, late: bool, fate: ReadFate, expired: Expired) -> Option<Expired> {
        if !late {
            return None;
        }
        self.fail_reads(fate);
        Some(expired)
    }

    fn fail_reads(&self, fate: ReadFate) {
        self.read_fate.set(fate);
        self.reader.wake();
        self.driver.wake();
    }
}

/// What only the guard says and asks.
impl ConnState {
    pub(super) fn enter(&self, phase: Phase) {
        if self.phase.get() != phase {
            self.phase.set(phase);
            self.phase_since.set(self.clock.get());
        }
    }

    pub(super) fn enter_place(&self, place: Place) {
        self.enter(match place {
            Place::Between => Phase::Idle,
            Place::Head => Phase::Head,
            Place::Body => Phase::Body,
            Place::Held => Phase::Held,
            Place::End => Phase::Closing,
        });
    }

    pub(super) fn now(&self) -> Mono {
        self.clock.get()
    }

    pub(super) fn note_flood(&self, flood: Flood) {
        self.flood.set(Some(flood));
    }

    pub(super) fn note_read(&self) {
        self.received_any.set(true);
        self.last_read.set(self.clock.get());
        self.reader_waits.set(None);
    }

    pub(super) fn note_reader_waits(&self, cx: &Context<'_>) {
        self.reader.register(cx);
        if self.reader_waits.get().is_none() {
            self.reader_waits.set(Some(self.clock.get()));
        }
    }

    /// Leaves a waker for a decision or the sweeper without claiming to wait for bytes.
    pub(super) fn park_reader(&self, cx: &Context<'_>) {
        self.reader.register(cx);
    }

    pub(super) fn note_written(&self) {
        self.last_write.set(self.clock.get());
        self.writer_waits.set(None);
    }

    pub(super) fn note_writer_waits(&self, cx: &Context<'_>) {
        self.writer.register(cx);
        if self.writer_waits.get().is_none() {
            self.writer_waits.set(Some(self.clock.get()));
        }
    }

    pub(super) fn note_truncated_head(&self) {
        self.truncated.set(true);
    }

    /// Heads were given to the codec; `upgrade` says that the last of them asks for another protocol.
    pub(super) fn note_heads(&self, count: u64, upgrade: bool) {
        let heads = self.heads.get() + count;
        self.heads.set(heads);
        if upgrade {
            self.upgrade.set(heads.checked_sub(1));
            self.decision.set(Decision::Open);
            self.early_data.set(false);
        }
    }

    /// Bytes came behind a request for another protocol.
    pub(super) fn note_early_data(&self) {
        self.early_data.set(true);
    }

    /// The made-up request that stands for a refused head takes the next number.
    pub(super) fn note_refused_head(&self, reject: Reject) {
        self.reject.set(Some((self.heads.get(), reject)));
        self.heads.set(self.heads.get() + 1);
    }

    /// The body of the request whose head was passed last is malformed.
    pub(super) fn note_broken_body(&self, reject: Reject) {
        self.reject.set(Some((self.heads.get().saturating_sub(1), reject)));
    }

    pub(super) fn take_late_head(&self) -> Option<Reject> {
        self.late_head.take().then_some(Reject::new(RejectReason::HeaderTimeout))
    }

    pub(super) fn read_fate(&self) -> ReadFate {
        self.read_fate.get()
    }

    pub(super) fn write_failed(&self) -> bool {
        self.write_failed.get()
    }

    pub(super) fn decision(&self) -> Decision {
        self.decision.get()
    }

    pub(super) fn forget_upgrade(&self) {
        self.upgrade.set(None);
        self.decision.set(Decision::Open);
    }

    fn decide(&self, number: u64, decision: Decision) -> bool {
        if self.upgrade.get() != Some(number) || self.decision.get() != Decision::Open {
            return false;
        }
        self.decision.set(decision);
        self.reader.wake();
        true
    }
}

/// One request in progress; dropped when the last byte of its response was handed to the codec, or earlier
/// when it was given up. An undecided request for another protocol is refused by the drop.
#[must_use = "the request counts as ended when this is dropped"]
pub struct ActiveRequest {
    state: Rc<ConnState>,
    number: u64,
}

impl ActiveRequest {
    /// Why this request must be answered with an error: the codec was given a made-up request in place of a
    /// refused head, or the body of this request is malformed. Ask at the start, when a body that came with
    /// its head is known already, and again after an error of the body.
    #[must_use]
    pub fn reject(&self) -> Option<Reject> {
        self.state.reject.get().and_then(|(number, reject)| (number == self.number).then_some(reject))
    }

    /// Lets the connection become a tunnel after the response. False if this request did not ask for another
    /// protocol in a valid way or that is already decided: then answer without 101.
    #[must_use]
    pub fn grant_upgrade(&self) -> bool {
        self.state.decide(self.number, Decision::Granted)
    }

    /// Whether the client sent anything behind this request before it was decided.
    #[must_use]
    pub fn has_early_data(&self) -> bool {
        self.state.upgrade.get() == Some(self.number) && self.state.early_data.get()
    }

    /// Stays with HTTP/1: the bytes after the request are read as the next request.
    pub fn refuse_upgrade(&self) {
        self.state.decide(self.number, Decision::Refused);
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.refuse_upgrade();
        self.state.active.set(self.state.active.get().saturating_sub(1));
        self.state.last_end.set(self.state.clock.get());
    }
}

#[cfg(test)]
mod tests;
