//! Where the state of a connection goes with each request, and what ends it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use super::*;

const LIMITS: TimeLimits = TimeLimits {
    header: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    stream_idle: Duration::from_secs(300),
};

fn at(seconds: u64) -> Mono {
    Mono::ZERO.after(Duration::from_secs(seconds))
}

struct Flag(AtomicBool);

impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection accepted at second 0, and a clock to move.
struct Bench {
    state: Rc<ConnState>,
    clock: CoarseClock,
    woken: Arc<Flag>,
}

impl Bench {
    fn new() -> Self {
        let clock = CoarseClock::default();
        Self {
            state: ConnState::new(Rc::clone(&clock)),
            clock,
            woken: Arc::new(Flag(AtomicBool::new(false))),
        }
    }

    fn sweep(&self, seconds: u64) -> Option<Expired> {
        self.clock.set(at(seconds));
        self.state.sweep(at(seconds), &LIMITS)
    }

    fn with_waker(&self, action: impl FnOnce(&Context<'_>)) {
        let waker = Waker::from(Arc::clone(&self.woken));
        action(&Context::from_waker(&waker));
    }

    fn woken(&self) -> bool {
        self.woken.0.swap(false, Ordering::Relaxed)
    }
}

#[test]
fn a_silent_connection_is_closed_without_a_word_once() {
    let bench = Bench::new();
    bench.with_waker(|cx| bench.state.note_reader_waits(cx));
    assert_eq!(bench.sweep(10), None);
    assert_eq!(bench.sweep(11), Some(Expired::Silent));
    assert!(bench.woken());
    assert_eq!(bench.state.read_fate(), ReadFate::Eof);
    assert_eq!(bench.state.take_late_head(), None);
    assert_eq!(bench.sweep(12), None);
}

#[test]
fn a_slow_head_is_answered_however_often_a_byte_of_it_comes() {
    let bench = Bench::new();
    bench.state.enter(Phase::Head);
    for second in 1..=10 {
        assert_eq!(bench.sweep(second), None);
        bench.state.note_read();
    }
    bench.with_waker(|cx| bench.state.note_reader_waits(cx));
    assert_eq!(bench.sweep(11), Some(Expired::Header));
    assert!(bench.woken());
    assert_eq!(bench.state.take_late_head().map(|reject| reject.status), Some(408));
}

#[test]
fn a_pipelined_head_has_its_time_from_the_end_of_the_response_before_it() {
    let bench = Bench::new();
    bench.state.note_read();
    let request = bench.state.begin_request();
    bench.state.enter(Phase::Head);
    assert_eq!(bench.sweep(100), None);
    drop(request);
    assert_eq!(bench.sweep(110), None);
    assert_eq!(bench.sweep(111), Some(Expired::Header));
}

#[test]
fn idleness_counts_from_the_last_byte_or_response() {
    let bench = Bench::new();
    bench.state.enter(Phase::Idle);
    let request = bench.state.begin_request();
    assert_eq!(bench.sweep(1000), None);
    drop(request);
    assert_eq!(bench.sweep(1060), None);
    assert_eq!(bench.sweep(1061), Some(Expired::Idle));
    assert_eq!(bench.state.read_fate(), ReadFate::Eof);
}

#[test]
fn a_body_expires_only_while_somebody_waits_for_it() {
    let bench = Bench::new();
    bench.state.enter(Phase::Body);
    let _request = bench.state.begin_request();
    assert_eq!(bench.sweep(1000), None);
    bench.with_waker(|cx| bench.state.note_reader_waits(cx));
    assert_eq!(bench.sweep(1300), None);
    bench.state.note_read();
    bench.with_waker(|cx| bench.state.note_reader_waits(cx));
    assert_eq!(bench.sweep(1600), None);
    assert_eq!(bench.sweep(1601), Some(Expired::Body));
    assert_eq!(bench.state.read_fate(), ReadFate::TimedOut);
}

#[test]
fn a_writer_that_waits_too_long_fails_and_progress_restarts_its_time() {
    let bench = Bench::new();
    bench.state.enter(Phase::H2);
    let _request = bench.state.begin_request();
    bench.with_waker(|cx| bench.state.note_writer_waits(cx));
    assert_eq!(bench.sweep(300), None);
    bench.state.note_written();
    bench.with_waker(|cx| bench.state.note_writer_waits(cx));
    assert_eq!(bench.sweep(600), None);
    assert_eq!(bench.sweep(601), Some(Expired::Write));
    assert!(bench.woken() && bench.state.write_failed());
    assert_eq!(bench.sweep(602), None);
}

#[test]
fn http2_without_streams_is_told_to_go_and_then_cut() {
    let bench = Bench::new();
    bench.state.enter(Phase::H2);
    let request = bench.state.begin_request();
    assert_eq!(bench.sweep(100), None);
    drop(request);
    bench.state.note_read(); // A PING is no request.
    assert_eq!(bench.sweep(160), None);
    assert_eq!(bench.sweep(161), Some(Expired::Idle));
    assert!(bench.state.wants_graceful());
    assert_eq!(bench.sweep(171), None);
    assert_eq!(bench.sweep(172), Some(Expired::Closing));
    assert_eq!(bench.state.read_fate(), ReadFate::Eof);
}

#[test]
fn a_tunnel_lives_as_long_as_a_byte_passes_either_way() {
    let bench = Bench::new();
    bench.state.enter(Phase::Tunnel);
    assert_eq!(bench.sweep(300), None);
    bench.state.note_written();
    assert_eq!(bench.sweep(600), None);
    assert_eq!(bench.sweep(601), Some(Expired::Tunnel));
}

#[test]
fn only_the_request_that_asked_may_change_the_protocol_and_its_end_refuses() {
    let bench = Bench::new();
    let state = &bench.state;
    state.note_heads(2, true);
    let first = state.begin_request();
    let second = state.begin_request();
    assert!(!first.grant_upgrade());
    drop(first);
    assert_eq!(state.decision(), Decision::Open);
    drop(second);
    assert_eq!(state.decision(), Decision::Refused);

    state.note_heads(1, true);
    let third = state.begin_request();
    assert!(third.grant_upgrade());
    drop(third);
    assert!(state.upgrade_granted());
}

#[test]
fn a_refusal_belongs_to_the_request_it_stands_for() {
    let bench = Bench::new();
    let refusal = Reject::new(RejectReason::Host);
    bench.state.note_heads(1, false);
    bench.state.note_refused_head(refusal);
    let first = bench.state.begin_request();
    let second = bench.state.begin_request();
    assert_eq!((first.reject(), second.reject()), (None, Some(refusal)));
}

#[test]
fn the_driver_is_woken_when_it_should_end_the_connection() {
    let bench = Bench::new();
    let mut wanted = std::pin::pin!(std::future::poll_fn(|cx| bench.state.poll_graceful_wanted(cx)));
    let waker = Waker::from(Arc::clone(&bench.woken));
    let mut cx = Context::from_waker(&waker);
    assert!(wanted.as_mut().poll(&mut cx).is_pending());
    bench.state.request_graceful();
    assert!(bench.woken());
    assert!(wanted.as_mut().poll(&mut cx).is_ready());
}
