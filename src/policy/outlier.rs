//! Finds endpoints that do worse than their peers, and says for how long they are put out. Fed by whoever keeps the
//! counts; putting out is done by whoever asks. One [`OutlierDetector`] per service. Semantics: ADR 0008.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::classify::Outcome;
use crate::types::{EjectionCause, Mono};

/// What counts as an outlier, and what is done with one. The names are Envoy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierParams {
    /// What is found at once, by each attempt.
    pub consecutive: ConsecutiveParams,
    /// Time between two comparisons of all endpoints.
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th in a row lasts n times as long.
    pub base_ejection_time: Duration,
    /// Longest ejection, before the jitter.
    pub max_ejection_time: Duration,
    /// Up to this much is added to an ejection, so that endpoints do not come back together.
    pub max_ejection_time_jitter: Duration,
    /// At most this share of the endpoints is out at any time, but one of several always may be. Percent.
    pub max_ejection_percent: u8,
    /// Compares each endpoint with the mean of all; `None` does not.
    pub success_rate: Option<SuccessRateParams>,
    /// Puts out whoever fails too often by itself; `None` does not.
    pub failure_percentage: Option<FailurePercentageParams>,
}

/// Failures in a row that put an endpoint out; 0 does not count them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsecutiveParams {
    /// Answers with any 5xx.
    pub any_5xx: u32,
    /// Answers with 502, 503 or 504.
    pub gateway_failure: u32,
    /// Attempts without an answer.
    pub local_origin_failure: u32,
}

/// An endpoint is an outlier if its rate is below `mean - stdev * factor / 1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRateParams {
    /// Fewer endpoints with enough requests are not compared.
    pub minimum_hosts: u32,
    /// Requests in the interval below which an endpoint is not judged.
    pub request_volume: u32,
    /// In thousandths.
    pub stdev_factor: u32,
}

/// An endpoint is an outlier if at least `threshold` percent of its attempts fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentageParams {
    /// Percent.
    pub threshold: u32,
    /// With fewer endpoints that have enough requests nobody is judged.
    pub minimum_hosts: u32,
    /// Requests in the interval below which an endpoint is not judged.
    pub request_volume: u32,
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Stays the same as long as the endpoint does.
    pub id: u64,
    /// Attempts since the endpoint is known, by [`Outcome`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// It failed so often in a row since the last look that it is to be put out at once.
    pub accused: Option<EjectionCause>,
}

/// What is to be done with one of the endpoints that were looked at, by its place among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Put it out.
    Eject {
        /// Which one.
        index: usize,
        /// Why.
        cause: EjectionCause,
        /// Until when.
        until: Mono,
    },
    /// Its time is over.
    Return {
        /// Which one.
        index: usize,
    },
}

/// The outlier detection of one service.
#[derive(Debug, Default)]
pub struct OutlierDetector {
    hosts: FxHashMap<u64, Host>,
    /// When the endpoints are compared next; `None` before the first look.
    due: Option<Mono>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Host {
    /// As they were at the last comparison.
    outcomes: [u64; Outcome::ALL.len()],
    ejected_until: Option<Mono>,
    /// Ejections in a row: goes up with each, and down with each interval that went well.
    times: u32,
    /// It came back, or came new, since the last comparison: the interval is not whole.
    is_back: bool,
}

/// Which failures a rate is about. They are never mixed: an endpoint that cannot be reached from here may be well.
#[derive(Clone, Copy)]
enum Origin {
    External,
    Local,
}

impl OutlierDetector {
    /// Looks at all endpoints of the service. Call it often: what is due by time happens at the next call.
    pub fn look(
        &mut self,
        params: &OutlierParams,
        seen: &[Observation],
        now: Mono,
        rng: &mut fastrand::Rng,
    ) -> Vec<Verdict> {
        self.follow(seen);
        let mut verdicts = self.returning(seen, now);
        let mut court = Court { params, seen, now, rng, verdicts: &mut verdicts, hosts: &mut self.hosts };
        for (index, one) in seen.iter().enumerate() {
            if let Some(cause) = one.accused {
                court.eject(index, cause);
            }
        }
        match self.due {
            None => self.due = Some(now.after(params.interval)),
            Some(due) if now >= due => {
                court.compare();
                self.close_interval(seen);
                self.due = Some(now.after(params.interval));
            }
            Some(_) => {}
        }
        verdicts
    }

    /// Takes up who is new, and forgets who is gone.
    fn follow(&mut self, seen: &[Observation]) {
        for one in seen {
            self.hosts.entry(one.id).or_insert_with(|| Host { outcomes: one.outcomes, ..Host::default() });
        }
        if self.hosts.len() > seen.len() {
            self.hosts.retain(|id, _| seen.iter().any(|one| one.id == *id));
        }
    }

    fn returning(&mut self, seen: &[Observation], now: Mono) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for (index, one) in seen.iter().enumerate() {
            let Some(host) = self.hosts.get_mut(&one.id) else { continue };
            if host.ejected_until.is_some_and(|until| now >= until) {
                // What it did before, and what was still on its way then, is paid for.
                *host = Host { outcomes: one.outcomes, ejected_until: None, is_back: true, ..*host };
                verdicts.push(Verdict::Return { index });
            }
        }
        verdicts
    }

    /// Counts begin anew; who was in for all of the interval, and still is, has one ejection less to answer for.
    fn close_interval(&mut self, seen: &[Observation]) {
        for one in seen {
            let Some(host) = self.hosts.get_mut(&one.id) else { continue };
            if host.ejected_until.is_none() && !host.is_back {
                host.times = host.times.saturating_sub(1);
            }
            host.is_back = false;
            host.outcomes = one.outcomes;
        }
    }
}

/// One look at the endpoints, with everything that a verdict needs.
struct Court<'a> {
    params: &'a OutlierParams,
    seen: &'a [Observation],
    now: Mono,
    rng: &'a mut fastrand::Rng,
    verdicts: &'a mut Vec<Verdict>,
    hosts: &'a mut FxHashMap<u64, Host>,
}

impl Court<'_> {
    fn compare(&mut self) {
        for origin in [Origin::External, Origin::Local] {
            if let Some(params) = self.params.success_rate {
                self.compare_with_peers(params, origin);
            }
            if let Some(params) = self.params.failure_percentage {
                self.judge_alone(params, origin);
            }
        }
    }

    fn compare_with_peers(&mut self, params: SuccessRateParams, origin: Origin) {
        let rates = self.rates(origin, params.request_volume);
        if rates.is_empty() || (rates.len() as u64) < u64::from(params.minimum_hosts) {
            return;
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
        let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
        let threshold = mean - variance.sqrt() * f64::from(params.stdev_factor) / 1000.0;
        let cause = match origin {
            Origin::External => EjectionCause::SuccessRate,
            Origin::Local => EjectionCause::LocalOriginSuccessRate,
        };
        rates.iter().filter(|(_, rate)| *rate < threshold).for_each(|(index, _)| self.eject(*index, cause));
    }

    fn judge_alone(&mut self, params: FailurePercentageParams, origin: Origin) {
        let rates = self.rates(origin, params.request_volume);
        if (rates.len() as u64) < u64::from(params.minimum_hosts) {
            return;
        }
        let cause = match origin {
            Origin::External => EjectionCause::FailurePercentage,
            Origin::Local => EjectionCause::LocalOriginFailurePercentage,
        };
        let fails = |rate: f64| 100.0 - rate >= f64::from(params.threshold);
        rates.iter().filter(|(_, rate)| fails(*rate)).for_each(|(index, _)| self.eject(*index, cause));
    }

    /// Place and success rate in percent of those who are in and had at least `volume` requests in the interval;
    /// the worst first, since not all of them may be put out.
    fn rates(&self, origin: Origin, volume: u32) -> Vec<(usize, f64)> {
        let mut rates: Vec<(usize, f64)> = self
            .seen
            .iter()
            .enumerate()
            .filter_map(|(index, one)| {
                let host = self.hosts.get(&one.id).filter(|host| host.ejected_until.is_none())?;
                let count = |outcome: Outcome| {
                    one.outcomes[outcome as usize].saturating_sub(host.outcomes[outcome as usize])
                };
                let bad = count(Outcome::ServerError) + count(Outcome::GatewayError);
                let (good, bad) = match origin {
                    // Who has too much to do is not worse than its peers: throttled requests do not count.
                    Origin::External => (count(Outcome::Success), bad),
                    Origin::Local => (
                        count(Outcome::Success) + count(Outcome::Throttled) + bad,
                        count(Outcome::LocalOrigin),
                    ),
                };
                let total = good + bad;
                (total > 0 && total >= u64::from(volume)).then(|| (index, good as f64 * 100.0 / total as f64))
            })
            .collect();
        rates.sort_by(|one, other| one.1.total_cmp(&other.1));
        rates
    }

    /// Puts the endpoint out, if it is not out already and not too many are.
    fn eject(&mut self, index: usize, cause: EjectionCause) {
        let out = self.hosts.values().filter(|host| host.ejected_until.is_some()).count();
        if !may_eject(out, self.seen.len(), self.params.max_ejection_percent) {
            return;
        }
        let Some(host) = self.seen.get(index).and_then(|one| self.hosts.get_mut(&one.id)) else { return };
        if host.ejected_until.is_some() {
            return;
        }
        host.times = host.times.saturating_add(1);
        let OutlierParams { base_ejection_time: base, max_ejection_time, max_ejection_time_jitter, .. } =
            *self.params;
        let time = base.saturating_mul(host.times).min(max_ejection_time.max(base));
        let until = self.now.after(time + max_ejection_time_jitter.mul_f64(self.rng.f64()));
        host.ejected_until = Some(until);
        self.verdicts.push(Verdict::Eject { index, cause, until });
    }
}

/// Whether one more of `all` may be out, when `out` of them are: up to the share, but always one of several. With a
/// share alone a small service could never put out anybody (ADR 0008).
#[must_use]
pub const fn may_eject(out: usize, all: usize, max_percent: u8) -> bool {
    let share = all * max_percent as usize / 100;
    let most = if share > 1 { share } else { 1 };
    all > 1 && out < most
}

#[cfg(test)]
mod tests;
