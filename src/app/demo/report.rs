//! What the demo prints: plain lines, top to bottom, for any terminal or file. Pure: text from numbers.

use std::{fmt::Write as _, time::Duration};

use super::{
    fleet::{CLIENTS, NAMES, OTHER, SPARE},
    rotation::Turn,
    sidecar::{ROUTE, SECOND},
    store::StoreTurn,
    tally::{Latencies, Tally},
};

/// Something that happened, for the closing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happening {
    /// Since the beginning of the load.
    pub(super) at: Duration,
    /// What.
    pub(super) what: String,
}

impl Happening {
    /// The line that announces it.
    pub(super) fn line(&self) -> String {
        format!("{:>5.1}s  ** {}", self.at.as_secs_f64(), self.what)
    }
}

/// What has happened to the member called `node`, as the client's sidecar sees it. `since_killed` is how long ago it was
/// killed, if it was.
pub(super) fn turn(node: &str, turn: &Turn, since_killed: Option<Duration>) -> String {
    match turn {
        Turn::Joined => format!("{node} joined the mesh"),
        Turn::Suspected(accusers) => {
            format!("{node} is suspected: it does not answer {}", accusers.join(", "))
        }
        Turn::SpokeUp => format!("{node} was suspected, and has said that it is there"),
        Turn::Died => {
            let after = since_killed.map_or_else(String::new, |after| {
                format!(", {:.1} s after it was killed", after.as_secs_f64())
            });
            format!("{node} is dead: the mesh has noticed{after}")
        }
        Turn::Left => format!("{node} left the mesh"),
        Turn::OutOfRotation(reason) => format!("{node} left rotation: {reason}"),
        Turn::InRotation => format!("{node} returned to rotation"),
    }
}

/// What has happened to the store. `since_started` is how long ago the last sidecar had started, `pid` the process of who leads.
pub(super) fn store_turn(turn: &StoreTurn, since_started: Duration, pid: Option<u32>) -> String {
    match turn {
        StoreTurn::Founded(voters) => format!(
            "the store is founded, {:.1} s after the last sidecar had started: {} keep it; nobody told them to",
            since_started.as_secs_f64(),
            voters.join(", ")
        ),
        StoreTurn::Leads(leader) => {
            let hint = pid.map_or_else(String::new, |pid| format!(" (kill -9 {pid} ends its sidecar)"));
            format!("{} leads the store, term {}{hint}", leader.node, leader.term)
        }
        StoreTurn::Leaderless => {
            "nobody leads the store: no writes, and everybody serves by what it has".to_owned()
        }
        StoreTurn::Route(client, revision) => {
            let client = CLIENTS.get(*client).copied().unwrap_or_default();
            match revision {
                Some(revision) => {
                    format!("{client} serves by the route `{ROUTE}` of the store, revision {revision}")
                }
                None => format!("{client} serves by the route `{ROUTE}` of its file"),
            }
        }
    }
}

/// One line about the last second, and all failures so far.
pub(super) fn second(at: Duration, tally: &Tally, failures_so_far: u64, leader: Option<&str>) -> String {
    let mut line = format!(
        "{:>5.0}s  {:>3} req/s  {failures_so_far} failed  p50 {}  p99 {}",
        at.as_secs_f64(),
        tally.requests,
        millis(&tally.latencies, 50),
        millis(&tally.latencies, 99),
    );
    for (name, answers) in shown(tally) {
        // Writing to a string cannot fail.
        let _ = write!(line, "  {name} {answers:>3}");
    }
    let _ = write!(line, "  to {SECOND}:");
    for (sender, client) in CLIENTS.iter().enumerate() {
        let percent = percent(tally.share(sender, OTHER).per_mille());
        let _ = write!(line, " {client} {percent:>2} %");
    }
    let _ = write!(line, "  leader {}", leader.unwrap_or("-"));
    line
}

fn percent(per_mille: u64) -> u64 {
    (per_mille + 5) / 10
}

/// The instances with their answers; one that may never be started only once it has answered.
fn shown(tally: &Tally) -> impl Iterator<Item = (&str, u64)> {
    let all = NAMES.iter().enumerate().map(|(index, name)| (index, *name, tally.answers(index)));
    all.filter(|(index, _, answers)| *index != SPARE || *answers > 0)
        .map(|(_, name, answers)| (name, answers))
}

/// The closing table.
pub(super) fn table(length: Duration, total: &Tally, happenings: &[Happening]) -> String {
    let seconds = length.as_secs_f64();
    let mut text = format!("{seconds:.1} s, {} requests, {} failed\n\n", total.requests, total.failures);
    let rows = [
        ("requests", total.requests.to_string()),
        ("failed", total.failures.to_string()),
        ("p50", millis(&total.latencies, 50)),
        ("p99", millis(&total.latencies, 99)),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<10} {value:>10}");
    }
    let answered = (total.requests - total.failures).max(1);
    for (name, answers) in shown(total) {
        let percent = (answers * 100 + answered / 2) / answered;
        let _ = writeln!(text, "  {name:<10} {answers:>10}  {percent:>3} %");
    }
    for (sender, client) in CLIENTS.iter().enumerate() {
        let share = total.share(sender, OTHER);
        let percent = percent(share.per_mille());
        let _ = writeln!(text, "  {client:<10} {:>10}  {percent:>3} % of it to {SECOND}", share.whole);
    }
    if !happenings.is_empty() {
        text.push('\n');
    }
    for happening in happenings {
        let _ = writeln!(text, "{}", happening.line());
    }
    text
}

fn millis(latencies: &Latencies, percent: u8) -> String {
    let shown = latencies.percentile(percent).map(|latency| format!("{:.1} ms", latency.as_secs_f64() * 1e3));
    shown.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::store::Leader, *};

    fn tally() -> Tally {
        let mut tally = Tally::new(CLIENTS.len(), NAMES.len());
        for (sender, instance) in [(0, 0), (1, 1), (0, OTHER), (0, 0)] {
            tally.count(sender, Some(instance), Duration::from_millis(2));
        }
        tally
    }

    #[test]
    fn a_second_is_one_line() {
        let line = second(Duration::from_secs(12), &tally(), 0, Some("api-2"));
        assert_eq!(
            line,
            "   12s    4 req/s  0 failed  p50 2.0 ms  p99 2.0 ms  api-1   2  api-2   1  api-3   0  api-v2   1  \
             to v2: client-1 33 % client-2  0 %  leader api-2"
        );
        assert!(second(Duration::ZERO, &tally(), 0, None).ends_with("  leader -"));
    }

    #[test]
    fn the_table_has_totals_shares_and_what_happened() {
        let mut total = tally();
        total.count(0, None, Duration::ZERO);
        let left = Happening { at: Duration::from_millis(7_420), what: "api-2 left rotation".to_owned() };
        let expected = "\
20.0 s, 5 requests, 1 failed

  requests            5
  failed              1
  p50            2.0 ms
  p99            2.0 ms
  api-1               2   50 %
  api-2               1   25 %
  api-3               0    0 %
  api-v2              1   25 %
  client-1            3   33 % of it to v2
  client-2            1    0 % of it to v2

  7.4s  ** api-2 left rotation
";
        assert_eq!(table(Duration::from_secs(20), &total, &[left]), expected);
    }

    #[test]
    fn what_happens_to_the_store_is_told_with_how_to_make_more_happen() {
        let told = |turn: &StoreTurn| store_turn(turn, Duration::from_millis(2_140), Some(42));
        let voters = ["api-1", "api-2", "api-3"].map(str::to_owned).to_vec();
        assert_eq!(
            told(&StoreTurn::Founded(voters)),
            "the store is founded, 2.1 s after the last sidecar had started: api-1, api-2, api-3 keep it; nobody told them to"
        );
        let leads = StoreTurn::Leads(Leader { node: "api-2".to_owned(), term: 3 });
        assert_eq!(told(&leads), "api-2 leads the store, term 3 (kill -9 42 ends its sidecar)");
        assert_eq!(
            told(&StoreTurn::Route(1, Some(4))),
            "client-2 serves by the route `api` of the store, revision 4"
        );
    }

    #[test]
    fn an_instance_that_somebody_adds_has_its_column_once_it_answers() {
        let mut tally = tally();
        assert!(!second(Duration::ZERO, &tally, 0, None).contains("api-4"));
        tally.count(0, Some(SPARE), Duration::from_millis(2));
        assert!(second(Duration::ZERO, &tally, 0, None).contains("  api-4   1"));
    }

    #[test]
    fn without_an_answer_there_is_no_latency() {
        let text = table(Duration::ZERO, &Tally::new(CLIENTS.len(), NAMES.len()), &[]);
        assert!(text.starts_with("0.0 s, 0 requests, 0 failed\n") && text.contains("p99                 -"));
    }
}
