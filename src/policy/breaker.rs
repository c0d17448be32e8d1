//! The circuit breaker of one endpoint: closed, open, half-open. Decides whether an attempt may go there, from what
//! came of the earlier ones. Which endpoint is chosen instead is not decided here. Semantics: ADR 0008.

use std::{
    sync::atomic::{
        AtomicU8, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
    time::Duration,
};

use self::word::Word;
use super::{
    classify::{Outcome, Sample},
    window::{Tick, Window},
};
use crate::types::{Circuit, Mono, TripCause};

mod word;

/// Most probes of one half-open period.
pub const MAX_PROBES: u32 = 32;

/// When a circuit opens, for how long, and how it closes again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerParams {
    /// Failures in a row that open it; 0 does not count them.
    pub consecutive_errors: u32,
    /// Share of failures that opens it; `None` does not look at it.
    pub error_rate: Option<ErrorRate>,
    /// Share of slow answers that opens it; `None` does not look at it. Shares its window with `error_rate`.
    pub slow_calls: Option<SlowCalls>,
    /// How far back shares look, and for how long after closing a new failure counts as the old trouble.
    pub window: Duration,
    /// Attempts in the window below which no share is worth acting upon.
    pub min_requests: u32,
    /// First time that it stays open; doubled each time that it was of no use. Above zero.
    pub open_time: Duration,
    /// Longest time that it stays open, before the jitter of up to a half.
    pub max_open_time: Duration,
    /// Attempts that are let through to see whether the endpoint is well again, 1 to [`MAX_PROBES`].
    pub half_open_requests: u32,
    /// A probe that has not ended after this time has failed, so that a half-open circuit is never stuck.
    pub probe_timeout: Duration,
}

/// Share of failures that opens a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRate {
    /// From this share on, 1 to 100.
    pub percent: u32,
}

/// Share of slow answers that opens a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowCalls {
    /// What takes longer than this is slow.
    pub duration: Duration,
    /// From this share on, 1 to 100.
    pub percent: u32,
}

/// Permission for one attempt. It must come back, by [`Breaker::settle`] or [`Breaker::cancel`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket {
    /// What has an older ticket says nothing about the present period.
    period: u16,
    is_probe: bool,
}

/// Whether an attempt may be made.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Admit {
    /// It may.
    Yes(Ticket),
    /// It may, and its outcome decides whether the circuit closes. `first`: the circuit became half-open with it.
    Probe {
        /// The permission.
        ticket: Ticket,
        /// The circuit was open until now.
        first: bool,
    },
    /// It may not.
    No {
        /// When it is worth asking again.
        retry_at: Mono,
        /// The circuit opened again right now, because a probe has not ended in time.
        hung: bool,
    },
}

/// A change of the circuit that a settled attempt caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It lets everything through again.
    Closed,
    /// It lets nothing through until `until`.
    Opened {
        /// Why.
        cause: TripCause,
        /// When probes are let through.
        until: Mono,
    },
}

/// State of one circuit. Lock-free; every thread that sends to the endpoint shares it.
///
/// Everything that a decision rests on stands in one word of 64 bits, so that each transition is one exchange of
/// it, made by exactly one thread. What comes back with a ticket of an earlier period changes nothing.
#[derive(Debug)]
pub struct Breaker {
    state: AtomicU64,
    /// Failures in a row while closed.
    consecutive: AtomicU32,
    /// How often in a row opening was of no use; decides how long it stays open.
    streak: AtomicU32,
    ok: Window,
    failed: Window,
    slow: Window,
    /// For people: when the circuit changed last, and why it opened.
    changed: AtomicU64,
    cause: AtomicU8,
    /// Decides the jitter: other circuits, other sidecars, other draws.
    seed: u64,
}

impl Breaker {
    /// A closed circuit. `seed` decides the jitter of its open times; different for each circuit and process.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: AtomicU64::new(Word::CLOSED.pack()),
            consecutive: AtomicU32::new(0),
            streak: AtomicU32::new(0),
            ok: Window::default(),
            failed: Window::default(),
            slow: Window::default(),
            changed: AtomicU64::new(0),
            cause: AtomicU8::new(0),
            seed,
        }
    }

    /// Asks for an attempt at `now`. What is granted must come back as settled or cancelled.
    pub fn admit(&self, params: &BreakerParams, now: Mono) -> Admit {
        loop {
            let word = Word::unpack(self.state.load(Acquire));
            let (next, first) = match word.circuit {
                Circuit::Closed => {
                    return Admit::Yes(Ticket { period: word.period, is_probe: false });
                }
                Circuit::Open if now < word.until => return Admit::No { retry_at: word.until, hung: false },
                Circuit::Open => (word.half_open(now.after(params.probe_timeout)), true),
                Circuit::HalfOpen if word.outstanding() > 0 && now >= word.until => {
                    let Some(until) = self.reopen(word, TripCause::ProbeHung, None, params, now) else {
                        continue;
                    };
                    return Admit::No { retry_at: until, hung: true };
                }
                Circuit::HalfOpen if word.taken >= params.half_open_requests => {
                    return Admit::No { retry_at: word.until, hung: false };
                }
                Circuit::HalfOpen => (word.one_more(now.after(params.probe_timeout)), false),
            };
            if self.exchange(word, next) {
                if first {
                    self.changed.store(now.as_nanos(), Relaxed);
                }
                return Admit::Probe { ticket: Ticket { period: next.period, is_probe: true }, first };
            }
        }
    }

    /// Whether [`Breaker::admit`] is worth asking at `now`. Changes nothing; by the time of the asking the answer
    /// may be another one.
    #[must_use]
    pub fn may_admit(&self, params: &BreakerParams, now: Mono) -> bool {
        let bits = self.state.load(Acquire);
        Word::is_closed(bits) || Self::retry_at_of(Word::unpack(bits), params, now).is_none()
    }

    /// When it is worth asking again; `None`: now. While probes are under way it is `now`, too: they may end at any
    /// moment.
    #[must_use]
    pub fn retry_at(&self, params: &BreakerParams, now: Mono) -> Option<Mono> {
        Self::retry_at_of(Word::unpack(self.state.load(Acquire)), params, now)
    }

    fn retry_at_of(word: Word, params: &BreakerParams, now: Mono) -> Option<Mono> {
        let full = word.outstanding() > 0 && word.taken >= params.half_open_requests;
        match word.circuit {
            // Past its time a half-open circuit must be asked: the asking is what opens it again.
            _ if now >= word.until => None,
            Circuit::Closed => None,
            Circuit::Open => Some(word.until),
            Circuit::HalfOpen => full.then_some(now),
        }
    }

    /// Takes back a ticket with what came of the attempt, which ended at `now`; says whether that changed the
    /// circuit.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is spent once")]
    pub fn settle(
        &self,
        ticket: Ticket,
        sample: &Sample,
        params: &BreakerParams,
        now: Mono,
    ) -> Option<Transition> {
        let word = Word::unpack(self.state.load(Acquire));
        if word.period != ticket.period {
            return None;
        }
        let slow = params.slow_calls.is_some_and(|slow| sample.latency > slow.duration);
        if ticket.is_probe {
            let failed = sample.outcome.is_failure() || slow;
            return self.settle_probe(ticket.period, failed, sample.retry_after, params, now);
        }
        let cause = self.count(sample.outcome, slow, params, now)?;
        // Trouble that comes back at once was never over.
        let relapsed = self.streak.load(Relaxed) > 0 && now < word.until.after(params.window);
        if !relapsed {
            self.streak.store(0, Relaxed);
        }
        let until = self.reopen(word, cause, sample.retry_after, params, now)?;
        Some(Transition::Opened { cause, until })
    }

    /// Takes back a ticket of an attempt that says nothing about the endpoint. The place of a probe is free again.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is spent once")]
    pub fn cancel(&self, ticket: Ticket) {
        if !ticket.is_probe {
            return;
        }
        loop {
            let word = Word::unpack(self.state.load(Acquire));
            if word.period != ticket.period || word.circuit != Circuit::HalfOpen || word.outstanding() == 0 {
                return;
            }
            // Without any probe left the circuit is open, and the next attempt is the first probe again.
            let next = if word.taken == 1 { word.waiting() } else { word.one_less() };
            if self.exchange(word, next) {
                return;
            }
        }
    }

    /// What the circuit does with requests at `now`. One whose open time is over counts as half-open.
    #[must_use]
    pub fn circuit(&self, now: Mono) -> Circuit {
        let word = Word::unpack(self.state.load(Acquire));
        match word.circuit {
            Circuit::Open if now >= word.until => Circuit::HalfOpen,
            circuit => circuit,
        }
    }

    /// When the circuit changed last, and why it opened; for people. `None` if it never did.
    #[must_use]
    pub fn last_change(&self) -> Option<(Mono, TripCause)> {
        let at = self.changed.load(Relaxed);
        let cause = TripCause::ALL.get(usize::from(self.cause.load(Relaxed))).copied()?;
        (at > 0).then_some((Mono::from_nanos(at), cause))
    }

    /// Counts an attempt of a closed circuit; says why it must open, if it must.
    fn count(&self, outcome: Outcome, slow: bool, params: &BreakerParams, now: Mono) -> Option<TripCause> {
        // Neither good nor bad: an endpoint with too much to do must not lose all of it to its peers.
        if outcome == Outcome::Throttled {
            return None;
        }
        let tick = Tick::of(now, params.window);
        if slow {
            self.slow.add(tick);
        }
        if !outcome.is_failure() {
            // Mostly it is zero already, and a load is cheaper than a store to a line that all threads read.
            if self.consecutive.load(Relaxed) != 0 {
                self.consecutive.store(0, Relaxed);
            }
            self.ok.add(tick);
            return if slow { self.share(tick, params) } else { None };
        }
        self.failed.add(tick);
        let in_a_row = self.consecutive.fetch_add(1, Relaxed).saturating_add(1);
        if params.consecutive_errors > 0 && in_a_row >= params.consecutive_errors {
            return Some(TripCause::Consecutive);
        }
        self.share(tick, params)
    }

    /// Looks at the shares in the window. Only after a failure or a slow answer: nothing else can raise them.
    fn share(&self, tick: Tick, params: &BreakerParams) -> Option<TripCause> {
        let failed = self.failed.sum(tick);
        let total = failed + self.ok.sum(tick);
        if total < u64::from(params.min_requests) {
            return None;
        }
        let reaches = |count: u64, percent: u32| count * 100 >= total * u64::from(percent);
        if params.error_rate.is_some_and(|rate| reaches(failed, rate.percent)) {
            return Some(TripCause::ErrorRate);
        }
        let slow = params.slow_calls.is_some_and(|slow| reaches(self.slow.sum(tick), slow.percent));
        slow.then_some(TripCause::SlowCalls)
    }

    fn settle_probe(
        &self,
        period: u16,
        failed: bool,
        retry_after: Option<Duration>,
        params: &BreakerParams,
        now: Mono,
    ) -> Option<Transition> {
        loop {
            let word = Word::unpack(self.state.load(Acquire));
            if word.circuit != Circuit::HalfOpen || word.period != period {
                return None;
            }
            if failed {
                let cause = TripCause::ProbeFailed;
                match self.reopen(word, cause, retry_after, params, now) {
                    Some(until) => return Some(Transition::Opened { cause, until }),
                    None => continue,
                }
            }
            let next = word.one_passed();
            if next.passed < params.half_open_requests {
                if self.exchange(word, next) {
                    return None;
                }
                continue;
            }
            // Cleared before it closes: afterwards others count already.
            self.consecutive.store(0, Relaxed);
            [&self.ok, &self.failed, &self.slow].into_iter().for_each(Window::clear);
            if self.exchange(word, word.closed(now)) {
                self.changed.store(now.as_nanos(), Relaxed);
                return Some(Transition::Closed);
            }
        }
    }

    /// Opens the circuit that stood at `word`; until when, or `None` if somebody else changed it first.
    fn reopen(
        &self,
        word: Word,
        cause: TripCause,
        retry_after: Option<Duration>,
        params: &BreakerParams,
        now: Mono,
    ) -> Option<Mono> {
        let streak = self.streak.load(Relaxed);
        let next = word.open(now.after(self.open_time(streak, word.period, retry_after, params)));
        if !self.exchange(word, next) {
            return None;
        }
        self.streak.store(streak.saturating_add(1), Relaxed);
        self.changed.store(now.as_nanos(), Relaxed);
        self.cause.store(cause as u8, Relaxed);
        Some(next.until)
    }

    /// `min(max, open_time * 2^k)`, or what the endpoint asked for within the same bounds; then up to a half more,
    /// so that sidecars that opened together do not probe together.
    fn open_time(
        &self,
        streak: u32,
        period: u16,
        retry_after: Option<Duration>,
        params: &BreakerParams,
    ) -> Duration {
        let most = params.max_open_time.max(params.open_time);
        let own = params.open_time.saturating_mul(1_u32.checked_shl(streak).unwrap_or(u32::MAX)).min(most);
        let time = retry_after.map_or(own, |asked| asked.clamp(params.open_time, most));
        let jitter = fastrand::Rng::with_seed(self.seed ^ u64::from(period)).f64() * 0.5;
        time.mul_f64(1.0 + jitter)
    }

    fn exchange(&self, from: Word, to: Word) -> bool {
        self.state.compare_exchange(from.pack(), to.pack(), AcqRel, Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests;
