//! Who is put out and for how long, as tables, and a simulation that holds the cap against everything.

use super::*;

fn params() -> OutlierParams {
    OutlierParams {
        consecutive: ConsecutiveParams::default(),
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_time_jitter: Duration::ZERO,
        max_ejection_percent: 30,
        success_rate: Some(SuccessRateParams { minimum_hosts: 5, request_volume: 100, stdev_factor: 1900 }),
        failure_percentage: Some(FailurePercentageParams {
            threshold: 85,
            minimum_hosts: 5,
            request_volume: 50,
        }),
    }
}

fn at(seconds: u64) -> Mono {
    Mono::from_nanos(seconds * 1_000_000_000)
}

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(1)
}

/// Endpoints as the counters of a service show them.
struct Service(Vec<Observation>);

impl Service {
    fn of(count: u64) -> Self {
        Self((0..count).map(|id| Observation { id, outcomes: [0; 5], accused: None }).collect())
    }

    fn add(&mut self, index: usize, outcome: Outcome, count: u64) {
        self.0[index].outcomes[outcome as usize] += count;
    }

    /// Each endpoint gets 100 requests; `bad` percent of those of `index` come to `outcome`.
    fn interval(&mut self, index: usize, bad: u64, outcome: Outcome) {
        for other in 0..self.0.len() {
            self.add(other, Outcome::Success, if other == index { 100 - bad } else { 100 });
        }
        self.add(index, outcome, bad);
    }
}

/// The verdict of the first comparison, after an interval in which the first endpoint was as bad as said.
fn judged(params: &OutlierParams, hosts: u64, bad: u64, outcome: Outcome) -> Vec<Verdict> {
    let (mut detector, mut service) = (OutlierDetector::default(), Service::of(hosts));
    assert_eq!(detector.look(params, &service.0, at(0), &mut rng()), []);
    service.interval(0, bad, outcome);
    assert_eq!(detector.look(params, &service.0, at(9), &mut rng()), [], "before the interval is over");
    detector.look(params, &service.0, at(10), &mut rng())
}

#[test]
fn who_does_worse_than_its_peers_is_put_out() {
    use EjectionCause as Cause;
    let alone = OutlierParams { success_rate: None, ..params() };
    let peers = OutlierParams { failure_percentage: None, ..params() };
    let off = OutlierParams { success_rate: None, failure_percentage: None, ..params() };
    let cases = [
        (&peers, 10, 20, Outcome::ServerError, Some(Cause::SuccessRate)),
        (&peers, 10, 20, Outcome::GatewayError, Some(Cause::SuccessRate)),
        (&peers, 10, 20, Outcome::LocalOrigin, Some(Cause::LocalOriginSuccessRate)),
        (&peers, 10, 100, Outcome::Throttled, None),
        (&peers, 4, 100, Outcome::ServerError, None),
        (&peers, 10, 0, Outcome::ServerError, None),
        (&alone, 5, 85, Outcome::ServerError, Some(Cause::FailurePercentage)),
        (&alone, 5, 85, Outcome::LocalOrigin, Some(Cause::LocalOriginFailurePercentage)),
        (&alone, 5, 84, Outcome::ServerError, None),
        (&alone, 4, 100, Outcome::ServerError, None),
        (&off, 10, 100, Outcome::ServerError, None),
    ];
    for (params, hosts, bad, outcome, expected) in cases {
        let verdicts = judged(params, hosts, bad, outcome);
        let found = verdicts.first().map(|verdict| match verdict {
            Verdict::Eject { index: 0, cause, until } if *until == at(40) => *cause,
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected, "{hosts} hosts, {bad} % {outcome:?}");
        assert!(verdicts.len() <= 1, "{verdicts:?}");
    }
}

#[test]
fn an_endpoint_with_little_traffic_is_not_judged() {
    let (mut detector, mut service) = (OutlierDetector::default(), Service::of(10));
    detector.look(&params(), &service.0, at(0), &mut rng());
    (0..10).for_each(|index| service.add(index, Outcome::Success, 1000));
    service.0[0].outcomes = [0; 5];
    service.add(0, Outcome::ServerError, 49);
    assert_eq!(detector.look(&params(), &service.0, at(10), &mut rng()), []);
}

#[test]
fn who_is_put_out_again_at_once_stays_out_longer_and_good_intervals_make_up_for_it() {
    let (mut detector, mut service) = (OutlierDetector::default(), Service::of(5));
    let mut out =
        |service: &Service, now: u64| match detector.look(&params(), &service.0, at(now), &mut rng())[..] {
            [Verdict::Eject { index: 0, until, .. }] => Some(until.since(at(now)).as_secs()),
            [Verdict::Return { index: 0 }] => Some(0),
            [] => None,
            ref other => panic!("{other:?}"),
        };
    assert_eq!(out(&service, 0), None);
    let mut now = 0;
    for expected in [30, 60, 90] {
        service.interval(0, 100, Outcome::ServerError);
        now += 10;
        assert_eq!(out(&service, now), Some(expected));
        now += expected;
        assert_eq!(out(&service, now), Some(0), "it comes back");
    }
    for _ in 0..2 {
        service.interval(0, 0, Outcome::ServerError);
        now += 10;
        assert_eq!(out(&service, now), None);
    }
    service.interval(0, 100, Outcome::ServerError);
    assert_eq!(out(&service, now + 10), Some(60), "two good intervals took two of three away");
}

#[test]
fn no_ejection_is_longer_than_the_longest_and_the_jitter() {
    let params = OutlierParams {
        max_ejection_time: Duration::from_secs(45),
        max_ejection_time_jitter: Duration::from_secs(5),
        ..params()
    };
    let (mut detector, mut service) = (OutlierDetector::default(), Service::of(2));
    let (mut now, mut rng) = (0, rng());
    for round in 0..20 {
        service.0[1].accused = Some(EjectionCause::Consecutive5xx);
        let verdicts = detector.look(&params, &service.0, at(now), &mut rng);
        let Some(Verdict::Eject { index: 1, until, .. }) = verdicts.first() else { panic!("{verdicts:?}") };
        let time = until.since(at(now)).as_secs_f64();
        let least = if round == 0 { 30.0 } else { 45.0 };
        assert!((least..least + 5.0).contains(&time), "{time} in round {round}");
        service.0[1].accused = None;
        now = until.as_nanos() / 1_000_000_000 + 1;
        detector.look(&params, &service.0, at(now), &mut rng);
    }
}

#[test]
fn the_cap_always_leaves_one_of_several_to_be_put_out_and_never_the_only_one() {
    let cases = [
        (0, 1, 100, false),
        (0, 2, 10, true),
        (1, 2, 10, false),
        (0, 3, 30, true),
        (1, 3, 67, true),
        (2, 3, 67, false),
        (2, 10, 30, true),
        (3, 10, 30, false),
        (0, 5, 0, true),
        (0, 0, 100, false),
    ];
    for (out, all, percent, expected) in cases {
        assert_eq!(may_eject(out, all, percent), expected, "{out} of {all} at {percent} %");
    }
}

#[test]
fn whoever_leaves_the_service_makes_room_under_the_cap() {
    let (mut detector, mut service) = (OutlierDetector::default(), Service::of(3));
    let accuse = |service: &mut Service, index: usize| {
        service.0[index].accused = Some(EjectionCause::ConsecutiveGatewayFailure);
    };
    accuse(&mut service, 0);
    assert_eq!(detector.look(&params(), &service.0, at(0), &mut rng()).len(), 1);
    accuse(&mut service, 1);
    assert_eq!(detector.look(&params(), &service.0, at(1), &mut rng()), []);
    service.0.remove(0);
    assert_eq!(detector.look(&params(), &service.0, at(2), &mut rng()).len(), 1);
}

/// Endpoints that fail at random, come and go, and are accused at random.
#[test]
fn the_cap_holds_everybody_comes_back_and_repeated_ejections_are_longer() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let params = OutlierParams {
            max_ejection_percent: rng.u8(0..=100),
            max_ejection_time_jitter: Duration::from_secs(rng.u64(0..3)),
            ..params()
        };
        let mut service = Service::of(rng.u64(1..20));
        let mut next_id = 1000;
        let mut detector = OutlierDetector::default();
        let mut out: FxHashMap<u64, Mono> = FxHashMap::default();
        let bad: Vec<u64> = service.0.iter().map(|_| rng.u64(0..=100) * rng.u64(0..2)).collect();
        for second in 0..600 {
            for (index, bad) in bad.iter().enumerate() {
                if !out.contains_key(&service.0[index].id) {
                    let outcome = if index % 2 == 0 { Outcome::ServerError } else { Outcome::LocalOrigin };
                    let failed = bad * 20 / 100;
                    service.0[index].outcomes[outcome as usize] += failed;
                    service.0[index].outcomes[Outcome::Success as usize] += 20 - failed;
                }
                service.0[index].accused = (rng.u16(0..1000) == 0).then_some(EjectionCause::Consecutive5xx);
            }
            if rng.u8(0..100) == 0 {
                let index = rng.usize(0..service.0.len());
                out.remove(&service.0[index].id);
                service.0[index] = Observation { id: next_id, outcomes: [0; 5], accused: None };
                next_id += 1;
            }
            for verdict in detector.look(&params, &service.0, at(second), &mut rng) {
                match verdict {
                    Verdict::Eject { index, until, .. } => {
                        let time = until.since(at(second)).as_secs_f64();
                        assert!((30.0..303.0).contains(&time), "seed {seed}: {time}");
                        assert!(out.insert(service.0[index].id, until).is_none(), "seed {seed}: out twice");
                    }
                    Verdict::Return { index } => {
                        let until = out.remove(&service.0[index].id);
                        assert!(until.is_some_and(|until| at(second) >= until), "seed {seed}: {until:?}");
                    }
                }
            }
            let (all, most) =
                (service.0.len(), service.0.len() * usize::from(params.max_ejection_percent) / 100);
            assert!(
                out.len() <= most.max(1) && (all > 1 || out.is_empty()),
                "seed {seed}: {} of {all}",
                out.len()
            );
            assert!(
                out.values().all(|until| *until > at(second)),
                "seed {seed}: somebody is kept out too long"
            );
        }
    }
}
