//! What is counted of the membership: who is thought of how, packets and their bytes, probes, what became of suspicions.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge};

use super::{
    HotHistogram, Registry,
    family::{self, Family, Kind},
};

static MEMBERS: Family = Family {
    name: "outrigger_gossip_members",
    kind: Kind::Gauge,
    help: "Members of the mesh by what this node thinks of them, itself included.",
};
static MESSAGES: Family = Family {
    name: "outrigger_gossip_messages_total",
    kind: Kind::Counter,
    help: "Messages of the gossip: udp packets, and push_pull exchanges over TCP.",
};
static BYTES: Family = Family {
    name: "outrigger_gossip_bytes_total",
    kind: Kind::Counter,
    help: "Bytes of the messages of the gossip, sealed, without the headers of UDP and TCP.",
};
static DROPPED: Family = Family {
    name: "outrigger_gossip_dropped_total",
    kind: Kind::Counter,
    help: "Messages of the gossip that were dropped unanswered. key: sealed with a key that is not in the keyring; seal: \
           changed on the way, or of another mesh that has the same key; replay: here before, or too old to tell; limit: \
           too many at a time.",
};
static PROBES: Family = Family {
    name: "outrigger_gossip_probe_duration_seconds",
    kind: Kind::Histogram(family::CONNECT),
    help: "Time from a direct probe of a member to its answer.",
};
static SUSPICIONS: Family = Family {
    name: "outrigger_gossip_suspicions_total",
    kind: Kind::Counter,
    help: "Members that began to be suspected, by whomever.",
};
static REFUTATIONS: Family = Family {
    name: "outrigger_gossip_refutations_total",
    kind: Kind::Counter,
    help: "Times that this node had to say that it is alive.",
};
static HEALTH_SCORE: Family = Family {
    name: "outrigger_gossip_health_score",
    kind: Kind::Gauge,
    help: "How far this node distrusts itself, 0 to 8: its probes are slower and its accusations later by that much.",
};
static CONVERGENCE: Family = Family {
    name: "outrigger_gossip_convergence_seconds",
    kind: Kind::Histogram(CONVERGENCE_BOUNDS),
    help: "Time from a change at the member that it is about to this node's knowing it; the clocks of both are in it.",
};
static PUSH_PULLS: Family = Family {
    name: "outrigger_gossip_push_pulls_total",
    kind: Kind::Counter,
    help: "Exchanges of all that is known with another member that this node asked for, by how they ended.",
};
static ISOLATED: Family = Family {
    name: "outrigger_gossip_isolated",
    kind: Kind::Gauge,
    help: "1 while most members are lost at once, which says more about this node than about them.",
};
static JOINS: Family = Family {
    name: "outrigger_gossip_joins_total",
    kind: Kind::Counter,
    help: "Attempts to get into the mesh by the seeds, by how they ended.",
};
static CONFLICTS: Family = Family {
    name: "outrigger_gossip_conflicts_total",
    kind: Kind::Counter,
    help: "Times that two members were seen with one name.",
};

/// Families that the recorder renders.
pub(super) static RECORDED: [&Family; 11] = [
    &MEMBERS,
    &MESSAGES,
    &BYTES,
    &DROPPED,
    &SUSPICIONS,
    &REFUTATIONS,
    &HEALTH_SCORE,
    &PUSH_PULLS,
    &ISOLATED,
    &JOINS,
    &CONFLICTS,
];

/// How many members are thought of how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberCounts {
    /// They answer.
    pub alive: usize,
    /// They did not answer, and have some time to speak up.
    pub suspect: usize,
    /// They did not speak up.
    pub dead: usize,
    /// They said that they would go.
    pub left: usize,
}

/// By what a message of the gossip travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GossipKind {
    /// A packet.
    Udp,
    /// An exchange of all that is known, over TCP.
    PushPull,
}

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GossipSide {
    /// From this node.
    Sent,
    /// To this node.
    Received,
}

/// Why a message is dropped; nobody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GossipDrop {
    /// It is too short or too long.
    Size,
    /// It has a form of another version.
    Version,
    /// It is for another mesh.
    Cluster,
    /// It is sealed with a key that is not in the keyring.
    Key,
    /// It was not sealed with that key, or was changed on its way.
    Seal,
    /// It was here before, or is too old to tell.
    Replay,
    /// What was sealed makes no sense.
    Decode,
    /// There are too many at a time.
    Limit,
}

/// How an exchange with another member ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushPullResult {
    /// Each knows what the other knew.
    Ok,
    /// Nobody took the connection.
    Unreachable,
    /// It was not over in time.
    Timeout,
    /// The other said no: it is full, or of another mesh.
    Refused,
    /// What came could not be opened or read.
    Malformed,
}

/// How an attempt to get into the mesh ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinResult {
    /// This node is in.
    Ok,
    /// The names of the seeds have no addresses.
    Unresolved,
    /// No seed answered.
    Unreachable,
    /// A seed answered, and said no.
    Refused,
    /// Somebody else has the name of this node.
    Conflict,
}

/// The numbers of the membership. All methods are a few atomic operations.
#[derive(Clone, Debug)]
pub struct GossipMetrics {
    members: [Gauge; 4],
    messages: [[Counter; 2]; 2],
    bytes: [[Counter; 2]; 2],
    dropped: [Counter; GossipDrop::ALL.len()],
    probes: Arc<HotHistogram>,
    suspicions: Counter,
    refutations: Counter,
    health_score: Gauge,
    convergence: Arc<HotHistogram>,
    push_pulls: [Counter; PushPullResult::ALL.len()],
    isolated: Gauge,
    joins: [Counter; JoinResult::ALL.len()],
    conflicts: Counter,
}

impl GossipMetrics {
    /// The handle; any number of them count into the same series, all of which exist from now on.
    #[must_use]
    pub fn resolve(registry: &Arc<Registry>) -> Self {
        let by_way = |family: &'static Family| {
            GossipKind::ALL.map(|kind| {
                GossipSide::ALL
                    .map(|side| registry.counter(family, &[("kind", kind.as_str()), ("side", side.as_str())]))
            })
        };
        Self {
            members: ["alive", "suspect", "dead", "left"]
                .map(|state| registry.gauge(&MEMBERS, &[("state", state)])),
            messages: by_way(&MESSAGES),
            bytes: by_way(&BYTES),
            dropped: GossipDrop::ALL.map(|why| registry.counter(&DROPPED, &[("reason", why.as_str())])),
            probes: registry.histogram(&PROBES, &[]),
            suspicions: registry.counter(&SUSPICIONS, &[]),
            refutations: registry.counter(&REFUTATIONS, &[]),
            health_score: registry.gauge(&HEALTH_SCORE, &[]),
            convergence: registry.histogram(&CONVERGENCE, &[]),
            push_pulls: PushPullResult::ALL
                .map(|result| registry.counter(&PUSH_PULLS, &[("result", result.as_str())])),
            isolated: registry.gauge(&ISOLATED, &[]),
            joins: JoinResult::ALL.map(|result| registry.counter(&JOINS, &[("result", result.as_str())])),
            conflicts: registry.counter(&CONFLICTS, &[]),
        }
    }

    /// Tells how many members there are.
    pub fn set_members(&self, counts: MemberCounts) {
        let MemberCounts { alive, suspect, dead, left } = counts;
        for (gauge, count) in self.members.iter().zip([alive, suspect, dead, left]) {
            gauge.set(count as f64);
        }
    }

    /// Counts a message of `bytes` bytes.
    pub fn message(&self, kind: GossipKind, side: GossipSide, bytes: usize) {
        self.messages[kind as usize][side as usize].increment(1);
        self.bytes[kind as usize][side as usize].increment(bytes as u64);
    }

    /// Counts a message that is dropped. It has been counted as received before.
    pub fn dropped(&self, why: GossipDrop) {
        self.dropped[why as usize].increment(1);
    }

    /// Observes how long a member took to answer a direct probe.
    pub fn probed(&self, round_trip: Duration) {
        self.probes.observe(round_trip);
    }

    /// Counts members of whom this node has just learned that they are suspected.
    pub fn suspected(&self, members: u64) {
        self.suspicions.increment(members);
    }

    /// Counts that this node said that it is alive, since somebody suspects it.
    pub fn refuted(&self) {
        self.refutations.increment(1);
    }

    /// Tells how far this node distrusts itself.
    pub fn set_health_score(&self, score: u8) {
        self.health_score.set(f64::from(score));
    }

    /// Observes how long a change took to reach this node.
    pub fn converged(&self, took: Duration) {
        self.convergence.observe(took);
    }

    /// Counts an exchange that this node asked for.
    pub fn push_pulled(&self, result: PushPullResult) {
        self.push_pulls[result as usize].increment(1);
    }

    /// Tells whether this node takes itself for cut off.
    pub fn set_isolated(&self, is_isolated: bool) {
        self.isolated.set(f64::from(u8::from(is_isolated)));
    }

    /// Counts an attempt to get in.
    pub fn joined(&self, result: JoinResult) {
        self.joins[result as usize].increment(1);
    }

    /// Counts that somebody has a name that another has too.
    pub fn conflicted(&self) {
        self.conflicts.increment(1);
    }
}

impl GossipKind {
    const ALL: [Self; 2] = [Self::Udp, Self::PushPull];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::PushPull => "push_pull",
        }
    }
}

impl GossipSide {
    const ALL: [Self; 2] = [Self::Sent, Self::Received];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

impl GossipDrop {
    const ALL: [Self; 8] = [
        Self::Size,
        Self::Version,
        Self::Cluster,
        Self::Key,
        Self::Seal,
        Self::Replay,
        Self::Decode,
        Self::Limit,
    ];

    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Version => "version",
            Self::Cluster => "cluster",
            Self::Key => "key",
            Self::Seal => "seal",
            Self::Replay => "replay",
            Self::Decode => "decode",
            Self::Limit => "limit",
        }
    }
}

impl PushPullResult {
    const ALL: [Self; 5] = [Self::Ok, Self::Unreachable, Self::Timeout, Self::Refused, Self::Malformed];

    /// The value of the metric label `result`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
        }
    }
}

impl JoinResult {
    const ALL: [Self; 5] = [Self::Ok, Self::Unresolved, Self::Unreachable, Self::Refused, Self::Conflict];

    /// The value of the metric label `result`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unresolved => "unresolved",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
        }
    }
}

const MS: u64 = 1_000_000;
/// A packet takes a millisecond, a mesh of a thousand a second or two, a partition as long as it lasts.
const CONVERGENCE_BOUNDS: &[u64] = &[
    MS,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    1_000 * MS,
    2_500 * MS,
    5_000 * MS,
    10_000 * MS,
    30_000 * MS,
    60_000 * MS,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Mono;

    fn rendered(told: impl FnOnce(&GossipMetrics)) -> String {
        let registry = Registry::new(2000, 1);
        told(&GossipMetrics::resolve(&registry));
        registry.render(Mono::ZERO)
    }

    fn assert_has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no line {line:?} in:\n{text}");
        }
    }

    #[test]
    fn every_series_exists_before_anything_happens() {
        let text = rendered(|_| ());
        let series = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
        for (name, count) in [
            ("outrigger_gossip_members", 4),
            ("outrigger_gossip_messages_total", 4),
            ("outrigger_gossip_bytes_total", 4),
            ("outrigger_gossip_dropped_total", 8),
            ("outrigger_gossip_push_pulls_total", 5),
            ("outrigger_gossip_joins_total", 5),
        ] {
            assert_eq!(series(name), count, "{name}");
        }
        assert_has(
            &text,
            &[
                "outrigger_gossip_suspicions_total 0",
                "outrigger_gossip_refutations_total 0",
                "outrigger_gossip_health_score 0",
                "outrigger_gossip_isolated 0",
                "outrigger_gossip_conflicts_total 0",
                "outrigger_gossip_probe_duration_seconds_count 0",
                "outrigger_gossip_convergence_seconds_count 0",
            ],
        );
    }

    #[test]
    fn what_is_told_is_shown_under_its_labels() {
        let text = rendered(|metrics| {
            metrics.set_members(MemberCounts { alive: 5, suspect: 1, dead: 2, left: 3 });
            metrics.message(GossipKind::PushPull, GossipSide::Received, 700);
            metrics.message(GossipKind::Udp, GossipSide::Sent, 40);
            metrics.message(GossipKind::Udp, GossipSide::Sent, 2);
            metrics.dropped(GossipDrop::Limit);
            metrics.push_pulled(PushPullResult::Malformed);
            metrics.joined(JoinResult::Conflict);
            metrics.suspected(2);
            metrics.refuted();
            metrics.conflicted();
            metrics.set_health_score(7);
            metrics.set_isolated(true);
            metrics.probed(Duration::from_millis(2));
            metrics.converged(Duration::from_secs(20));
        });
        assert_has(
            &text,
            &[
                "outrigger_gossip_members{state=\"alive\"} 5",
                "outrigger_gossip_members{state=\"left\"} 3",
                "outrigger_gossip_messages_total{kind=\"push_pull\",side=\"received\"} 1",
                "outrigger_gossip_messages_total{kind=\"udp\",side=\"sent\"} 2",
                "outrigger_gossip_bytes_total{kind=\"push_pull\",side=\"received\"} 700",
                "outrigger_gossip_bytes_total{kind=\"udp\",side=\"sent\"} 42",
                "outrigger_gossip_bytes_total{kind=\"udp\",side=\"received\"} 0",
                "outrigger_gossip_dropped_total{reason=\"limit\"} 1",
                "outrigger_gossip_push_pulls_total{result=\"malformed\"} 1",
                "outrigger_gossip_joins_total{result=\"conflict\"} 1",
                "outrigger_gossip_suspicions_total 2",
                "outrigger_gossip_refutations_total 1",
                "outrigger_gossip_conflicts_total 1",
                "outrigger_gossip_health_score 7",
                "outrigger_gossip_isolated 1",
                "outrigger_gossip_probe_duration_seconds_bucket{le=\"0.0025\"} 1",
                "outrigger_gossip_convergence_seconds_bucket{le=\"10\"} 0",
                "outrigger_gossip_convergence_seconds_bucket{le=\"30\"} 1",
            ],
        );
        for name in ["members", "messages_total", "convergence_seconds", "probe_duration_seconds"] {
            assert!(text.contains(&format!("# HELP outrigger_gossip_{name} ")), "{name} has no help");
        }
    }
}
