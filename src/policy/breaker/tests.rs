//! Tables of what opens and closes a circuit, and a simulation of an endpoint that dies and recovers.

use super::*;

fn params() -> BreakerParams {
    BreakerParams {
        consecutive_errors: 7,
        error_rate: Some(ErrorRate { percent: 50 }),
        slow_calls: None,
        window: Duration::from_secs(10),
        min_requests: 20,
        open_time: Duration::from_secs(1),
        max_open_time: Duration::from_secs(60),
        half_open_requests: 1,
        probe_timeout: Duration::from_secs(30),
    }
}

fn at(millis: u64) -> Mono {
    Mono::from_nanos(millis * 1_000_000)
}

fn sample(outcome: Outcome) -> Sample {
    Sample { outcome, latency: Duration::from_millis(1), retry_after: None }
}

const OK: Outcome = Outcome::Success;
const BAD: Outcome = Outcome::ServerError;

/// One attempt that ends at once.
fn attempt(breaker: &Breaker, params: &BreakerParams, outcome: Outcome, now: Mono) -> Option<Transition> {
    match breaker.admit(params, now) {
        Admit::Yes(ticket) | Admit::Probe { ticket, .. } => {
            breaker.settle(ticket, &sample(outcome), params, now)
        }
        Admit::No { .. } => panic!("not admitted at {now:?}"),
    }
}

fn probe(breaker: &Breaker, params: &BreakerParams, now: Mono) -> Ticket {
    match breaker.admit(params, now) {
        Admit::Probe { ticket, .. } => ticket,
        other => panic!("no probe: {other:?}"),
    }
}

/// A circuit that opened at `now`, and when it may be probed.
fn tripped(params: &BreakerParams, now: Mono) -> (Breaker, Mono) {
    let breaker = Breaker::new(42);
    for _ in 1..params.consecutive_errors {
        assert_eq!(attempt(&breaker, params, BAD, now), None);
    }
    match attempt(&breaker, params, BAD, now) {
        Some(Transition::Opened { until, .. }) => (breaker, until),
        other => panic!("did not open: {other:?}"),
    }
}

#[test]
fn it_opens_at_the_last_of_so_many_failures_in_a_row_and_not_before() {
    // g: good, b: bad, t: throttled, l: no answer; the circuit opens with the last one, or never.
    let cases = [
        ("bbbbbbb", true),
        ("bbbbbb", false),
        ("bbbbbbgbbbbbb", false),
        ("bbbtbbbb", true),
        ("tttttttttttttttttttttttttttttttttttt", false),
        ("blblblb", true),
    ];
    for (outcomes, opens) in cases {
        let breaker = Breaker::new(1);
        let outcome = |c| match c {
            'g' => OK,
            't' => Outcome::Throttled,
            'l' => Outcome::LocalOrigin,
            _ => BAD,
        };
        let mut changes: Vec<_> =
            outcomes.chars().map(|c| attempt(&breaker, &params(), outcome(c), at(5))).collect();
        let last = changes.pop().flatten();
        assert!(changes.iter().all(Option::is_none), "{outcomes}");
        let consecutive = matches!(last, Some(Transition::Opened { cause: TripCause::Consecutive, .. }));
        assert_eq!(consecutive, opens, "{outcomes}: {last:?}");
    }
}

#[test]
fn it_opens_at_half_of_twenty_within_the_window() {
    let params = BreakerParams { consecutive_errors: 0, ..params() };
    let breaker = Breaker::new(1);
    for round in 0..9 {
        assert_eq!(attempt(&breaker, &params, OK, at(round)), None);
        assert_eq!(attempt(&breaker, &params, BAD, at(round)), None);
    }
    assert_eq!(attempt(&breaker, &params, OK, at(100)), None);
    let opened = attempt(&breaker, &params, BAD, at(100));
    assert!(matches!(opened, Some(Transition::Opened { cause: TripCause::ErrorRate, .. })), "{opened:?}");
}

#[test]
fn failures_older_than_the_window_are_forgotten() {
    let params = BreakerParams { consecutive_errors: 0, ..params() };
    let breaker = Breaker::new(1);
    (0..19).for_each(|_| assert_eq!(attempt(&breaker, &params, BAD, at(0)), None));
    (0..19).for_each(|_| assert_eq!(attempt(&breaker, &params, BAD, at(10_000)), None));
}

#[test]
fn slow_answers_open_it_only_where_that_is_configured() {
    let slow = Sample { outcome: OK, latency: Duration::from_millis(501), retry_after: None };
    let run = |params: &BreakerParams| {
        let breaker = Breaker::new(1);
        (0..20)
            .filter_map(|_| match breaker.admit(params, at(1)) {
                Admit::Yes(ticket) => breaker.settle(ticket, &slow, params, at(1)),
                _ => None,
            })
            .last()
    };
    assert_eq!(run(&params()), None);
    let slow_calls = Some(SlowCalls { duration: Duration::from_millis(500), percent: 80 });
    let opened = run(&BreakerParams { slow_calls, ..params() });
    assert!(matches!(opened, Some(Transition::Opened { cause: TripCause::SlowCalls, .. })), "{opened:?}");
}

#[test]
fn it_stays_open_for_its_time_and_then_lets_one_probe_through() {
    let (breaker, until) = tripped(&params(), at(100));
    assert!(until >= at(1_100) && until <= at(1_601), "{until:?}");
    let before = Mono::from_nanos(until.as_nanos() - 1);
    assert_eq!(breaker.admit(&params(), before), Admit::No { retry_at: until, hung: false });
    assert!(!breaker.may_admit(&params(), before) && breaker.may_admit(&params(), until));
    let Admit::Probe { ticket, first: true } = breaker.admit(&params(), until) else { panic!("no probe") };
    assert!(matches!(breaker.admit(&params(), until), Admit::No { .. }));
    assert!(!breaker.may_admit(&params(), until));
    assert_eq!(breaker.settle(ticket, &sample(OK), &params(), until), Some(Transition::Closed));
    assert!(matches!(breaker.admit(&params(), until), Admit::Yes(_)));
}

#[test]
fn closing_forgets_the_failures_that_opened_it() {
    let (breaker, until) = tripped(&params(), at(0));
    attempt(&breaker, &params(), OK, until);
    (0..6).for_each(|_| assert_eq!(attempt(&breaker, &params(), BAD, until), None));
}

#[test]
fn each_failed_probe_doubles_the_time_up_to_the_longest() {
    let params = BreakerParams { max_open_time: Duration::from_secs(5), ..params() };
    let (breaker, mut until) = tripped(&params, at(0));
    for seconds in [2_u64, 4, 5, 5, 5] {
        let now = until;
        let Some(Transition::Opened { cause: TripCause::ProbeFailed, until: next }) =
            attempt(&breaker, &params, BAD, now)
        else {
            panic!("did not open again");
        };
        let open = next.since(now);
        let least = Duration::from_secs(seconds);
        assert!(open >= least && open <= least.mul_f64(1.5) + Duration::from_millis(1), "{open:?}");
        until = next;
    }
}

#[test]
fn trouble_that_comes_back_at_once_is_answered_with_a_longer_time() {
    let open = |after: Duration| {
        let (breaker, until) = tripped(&params(), at(0));
        attempt(&breaker, &params(), OK, until);
        let now = until.after(after);
        let last = (0..7).filter_map(|_| attempt(&breaker, &params(), BAD, now)).last();
        let Some(Transition::Opened { until, .. }) = last else { panic!("did not open") };
        until.since(now)
    };
    assert!(open(Duration::from_secs(1)) >= Duration::from_secs(2));
    assert!(open(Duration::from_secs(11)) < Duration::from_secs(2));
}

#[test]
fn the_endpoint_says_how_long_within_bounds() {
    for (asked, least) in [(0, 1), (3, 3), (10_000, 60)] {
        let breaker = Breaker::new(7);
        let told = Sample { retry_after: Some(Duration::from_secs(asked)), ..sample(Outcome::GatewayError) };
        let mut opened = None;
        while opened.is_none() {
            let Admit::Yes(ticket) = breaker.admit(&params(), at(0)) else { panic!("closed") };
            opened = breaker.settle(ticket, &told, &params(), at(0));
        }
        let Some(Transition::Opened { until, .. }) = opened else { panic!("opened") };
        let open = until.since(at(0));
        let least = Duration::from_secs(least);
        assert!(open >= least && open <= least.mul_f64(1.5) + Duration::from_millis(1), "{asked}: {open:?}");
    }
}

#[test]
fn a_cancelled_probe_frees_its_place_and_teaches_nothing() {
    let (breaker, until) = tripped(&params(), at(0));
    for _ in 0..100 {
        let ticket = probe(&breaker, &params(), until);
        assert!(!breaker.may_admit(&params(), until));
        breaker.cancel(ticket);
    }
    assert_eq!(attempt(&breaker, &params(), OK, until), Some(Transition::Closed));
}

#[test]
fn a_probe_that_hangs_has_failed_and_its_late_answer_counts_for_nothing() {
    let (breaker, until) = tripped(&params(), at(0));
    let hanging = probe(&breaker, &params(), until);
    let late = until.after(Duration::from_secs(30));
    assert!(matches!(breaker.admit(&params(), at(20_000)), Admit::No { hung: false, .. }));
    assert!(breaker.may_admit(&params(), late), "somebody must ask for it to open again");
    let Admit::No { retry_at, hung: true } = breaker.admit(&params(), late) else { panic!("not hung") };
    assert_eq!(breaker.settle(hanging, &sample(OK), &params(), late), None);
    assert_eq!(breaker.admit(&params(), late), Admit::No { retry_at, hung: false });
    assert_eq!(breaker.last_change().map(|(_, cause)| cause), Some(TripCause::ProbeHung));
}

#[test]
fn several_probes_must_all_go_well() {
    let params = BreakerParams { half_open_requests: 3, ..params() };
    let (breaker, until) = tripped(&params, at(0));
    let tickets: Vec<_> = (0..3).map(|_| probe(&breaker, &params, until)).collect();
    assert!(matches!(breaker.admit(&params, until), Admit::No { .. }));
    let last = tickets
        .into_iter()
        .map(|ticket| breaker.settle(ticket, &sample(OK), &params, until))
        .collect::<Vec<_>>();
    assert_eq!(last, [None, None, Some(Transition::Closed)]);
}

#[test]
fn probes_that_went_well_long_ago_are_not_taken_for_hanging_ones() {
    let params = BreakerParams { half_open_requests: 2, ..params() };
    let (breaker, until) = tripped(&params, at(0));
    assert_eq!(attempt(&breaker, &params, OK, until), None);
    let much_later = until.after(Duration::from_secs(300));
    assert_eq!(attempt(&breaker, &params, OK, much_later), Some(Transition::Closed));
}

#[test]
fn an_attempt_from_before_the_circuit_opened_changes_nothing_any_more() {
    let breaker = Breaker::new(3);
    let Admit::Yes(old) = breaker.admit(&params(), at(0)) else { panic!("closed") };
    for _ in 0..7 {
        attempt(&breaker, &params(), BAD, at(0));
    }
    assert_eq!(breaker.circuit(at(1)), Circuit::Open);
    assert_eq!(breaker.settle(old, &sample(OK), &params(), at(1)), None);
    assert_eq!(breaker.circuit(at(1)), Circuit::Open);
}

/// What the simulated endpoint is in the middle of.
struct InFlight {
    ticket: Ticket,
    is_probe: bool,
    ends: u64,
    /// `None`: cancelled.
    outcome: Option<Outcome>,
}

/// An endpoint that is well, dies and recovers, under traffic with random gaps, latencies, cancellations and hangs.
#[test]
fn a_dead_endpoint_gets_probes_only_and_a_recovered_one_is_found_within_two_open_periods() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let params = BreakerParams {
            half_open_requests: rng.u32(1..=4),
            max_open_time: Duration::from_secs(rng.u64(1..10)),
            probe_timeout: Duration::from_millis(rng.u64(500..3_000)),
            ..params()
        };
        let breaker = Breaker::new(seed);
        let (dies, recovers) = (5_000, 5_000 + rng.u64(5_000..60_000));
        let bound = Duration::from_secs(0).max(params.max_open_time).mul_f64(3.0) + params.probe_timeout * 2;
        let give_up = recovers + bound.as_millis() as u64 + 5_000;
        let mut flying: Vec<InFlight> = Vec::new();
        let (mut probes, mut opened_at, mut attempts_while_dead) = (0, None, 0);
        let mut closed_again = None;
        let mut now = 0;
        while now < give_up && closed_again.is_none() {
            now += rng.u64(1..20);
            let mut index = 0;
            while index < flying.len() {
                if flying[index].ends > now {
                    index += 1;
                    continue;
                }
                let done = flying.swap_remove(index);
                let Some(outcome) = done.outcome else {
                    probes -= u32::from(done.is_probe && breaker.circuit(at(now)) == Circuit::HalfOpen);
                    breaker.cancel(done.ticket);
                    continue;
                };
                match breaker.settle(done.ticket, &sample(outcome), &params, at(now)) {
                    Some(Transition::Opened { .. }) => opened_at = Some(now),
                    Some(Transition::Closed) if now > recovers => closed_again = Some(now),
                    Some(Transition::Closed) | None => {}
                }
            }
            let (ticket, is_probe) = match breaker.admit(&params, at(now)) {
                Admit::Yes(ticket) => (ticket, false),
                Admit::Probe { ticket, first } => {
                    probes = if first { 1 } else { probes + 1 };
                    assert!(probes <= params.half_open_requests, "seed {seed}: {probes} probes at {now} ms");
                    (ticket, true)
                }
                Admit::No { retry_at, .. } => {
                    assert!(retry_at > at(now), "seed {seed}: refused until {retry_at:?} at {now} ms");
                    continue;
                }
            };
            let dead = (dies..recovers).contains(&now);
            attempts_while_dead += u32::from(dead);
            let hangs = dead && rng.u8(0..10) == 0;
            let cancelled = rng.u8(0..20) == 0;
            flying.push(InFlight {
                ticket,
                is_probe,
                ends: now + if hangs { rng.u64(1_000..5_000) } else { rng.u64(1..50) },
                outcome: (!cancelled).then_some(if dead { Outcome::LocalOrigin } else { OK }),
            });
        }
        let found = closed_again.or((opened_at.is_none()).then_some(now));
        assert!(found.is_some(), "seed {seed}: never closed after {recovers} ms; open since {opened_at:?}");
        // What was on its way, what opened the circuit, and the probes of each open time, cancelled ones included.
        let periods = 8 + (recovers - dies) as u32 / 500;
        let most = 120 + periods * params.half_open_requests;
        assert!(attempts_while_dead <= most, "seed {seed}: {attempts_while_dead} attempts, at most {most}");
    }
}
