//! Looks at the store through the admin API of the sidecars: who keeps it, who leads, and by which route clients send.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{client::Connection, sidecar::ROUTE};

/// How often the admin APIs are asked.
const INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(1);

/// A leader that has heard from no majority for so long leads nobody: several times as long as an election takes.
const UNHEARD: u64 = 2_000;

/// What the sidecars say of the store at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StoreLook {
    /// The names of those who vote, as soon as there is a store.
    pub(super) voters: Vec<String>,
    /// Who says that it leads, and its term, if anybody does and is heard by a majority.
    pub(super) leader: Option<Leader>,
    /// At which revision of the store each client took over its route; `None` if it is the one of its file.
    pub(super) routes: Vec<Option<u64>>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    /// Its name.
    pub(super) node: String,
    /// Since which election.
    pub(super) term: u64,
}

/// Something about the store has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreTurn {
    /// It is there, and these vote.
    Founded(Vec<String>),
    /// Somebody else leads.
    Leads(Leader),
    /// Nobody does.
    Leaderless,
    /// The client with this index takes its route from the store, as of this revision, or from its file.
    Route(usize, Option<u64>),
}

impl StoreLook {
    /// What is different from `before`.
    pub(super) fn turns(&self, before: &Self) -> Vec<StoreTurn> {
        let mut turns = Vec::new();
        if before.voters.is_empty() && !self.voters.is_empty() {
            turns.push(StoreTurn::Founded(self.voters.clone()));
        }
        match (&before.leader, &self.leader) {
            (before, now) if before == now => {}
            (_, Some(leader)) => turns.push(StoreTurn::Leads(leader.clone())),
            (_, None) => turns.push(StoreTurn::Leaderless),
        }
        for (client, revision) in self.routes.iter().enumerate() {
            if before.routes.get(client).copied().flatten() != *revision {
                turns.push(StoreTurn::Route(client, *revision));
            }
        }
        turns
    }

    /// `said` is what those who keep it say; what is not known now stays as it was `before`.
    fn read(said: &[Value], routes: &[Option<Value>], before: &Self) -> Self {
        let has_store = |said: &&Value| said["store"].is_string();
        let newest = said.iter().filter(has_store).max_by_key(|said| said["term"].as_u64());
        let voters = newest.map(voters).filter(|voters| !voters.is_empty());
        let leader = said.iter().filter_map(leader).max_by_key(|leader| leader.term);
        let known = |client: usize| before.routes.get(client).copied().flatten();
        let route = |(client, told): (usize, &Option<Value>)| told.as_ref().map_or(known(client), taken_over);
        Self {
            voters: voters.unwrap_or_else(|| before.voters.clone()),
            leader,
            routes: routes.iter().enumerate().map(route).collect(),
        }
    }
}

fn voters(said: &Value) -> Vec<String> {
    let voters = said["voters"].as_array().into_iter().flatten();
    let mut names: Vec<_> = voters.filter_map(|voter| voter["node"].as_str()).map(str::to_owned).collect();
    names.sort_unstable();
    names
}

/// Who says this, if it leads.
fn leader(said: &Value) -> Option<Leader> {
    let is_heard = said["quorum_heard_ms"].as_u64().is_some_and(|heard| heard < UNHEARD);
    if said["role"] != "leader" || !is_heard {
        return None;
    }
    let own = said["voters"].as_array()?.iter().find(|voter| voter["id"] == said["id"])?;
    Some(Leader { node: own["node"].as_str()?.to_owned(), term: said["term"].as_u64()? })
}

/// The revision of the route, if it is from the store, in the list of routes of a sidecar.
pub(super) fn taken_over(routes: &Value) -> Option<u64> {
    let items = routes["items"].as_array()?;
    items.iter().find(|item| item["name"] == ROUTE && item["from"] == "store")?["revision"].as_u64()
}

/// The document at `path`, if it comes.
pub(super) async fn ask(admin: &mut Connection, path: &str) -> Option<Value> {
    let answer = admin.get(path, LIMIT).await.ok().filter(|answer| answer.status == 200)?;
    serde_json::from_slice(&answer.body).ok()
}

/// Asks `servers` and `clients` again and again and sends on what they say, until the receiver is gone.
pub(super) async fn follow(
    mut servers: watch::Receiver<Vec<SocketAddr>>,
    clients: Vec<SocketAddr>,
    report: mpsc::Sender<StoreLook>,
) {
    let connect = |all: &[SocketAddr]| all.iter().copied().map(Connection::new).collect::<Vec<_>>();
    let (mut keepers, mut clients) = (connect(&servers.borrow_and_update()), connect(&clients));
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = StoreLook::default();
    loop {
        ticks.tick().await;
        if servers.has_changed().unwrap_or(false) {
            keepers = connect(&servers.borrow_and_update());
        }
        let mut said = Vec::with_capacity(keepers.len());
        for server in &mut keepers {
            said.extend(ask(server, "/v1/raft").await);
        }
        let mut routes = Vec::with_capacity(clients.len());
        for client in &mut clients {
            routes.push(ask(client, "/v1/routes").await);
        }
        last = StoreLook::read(&said, &routes, &last);
        if report.send(last.clone()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(id: &str, role: &str, term: u64, heard: Option<u64>) -> Value {
        let voters = ["b", "a"].map(|id| json!({ "id": id, "node": format!("api-{id}") }));
        json!({ "id": id, "role": role, "store": "17", "term": term, "quorum_heard_ms": heard, "voters": voters })
    }

    fn look(said: &[Value]) -> StoreLook {
        StoreLook::read(said, &[], &StoreLook::default())
    }

    #[test]
    fn nobody_keeps_a_store_that_is_not_founded() {
        let searching = json!({ "id": "a", "role": "searching", "store": null, "term": 0, "voters": [] });
        assert_eq!(look(&[searching]), StoreLook::default());
        assert_eq!(look(&[]), StoreLook::default());
    }

    #[test]
    fn of_two_who_say_that_they_lead_the_later_one_does() {
        let both = [said("a", "leader", 2, Some(900)), said("b", "leader", 3, Some(4))];
        let found = look(&both);
        assert_eq!(found.leader, Some(Leader { node: "api-b".to_owned(), term: 3 }));
        assert_eq!(found.voters, ["api-a", "api-b"]);
    }

    #[test]
    fn who_hears_no_majority_leads_nobody() {
        assert_eq!(look(&[said("a", "leader", 2, Some(UNHEARD))]).leader, None);
        assert_eq!(look(&[said("a", "leader", 2, None), said("b", "follower", 2, None)]).leader, None);
    }

    #[test]
    fn each_change_is_told_once_and_silence_is_no_change() {
        let route = json!({ "items": [{ "name": "api", "from": "store", "revision": 7 }] });
        let first = StoreLook::read(
            &[said("a", "leader", 1, Some(1))],
            &[Some(route), Some(json!({ "items": [{ "name": "api", "from": "file" }] }))],
            &StoreLook::default(),
        );
        let leads = StoreTurn::Leads(Leader { node: "api-a".to_owned(), term: 1 });
        let founded = StoreTurn::Founded(vec!["api-a".to_owned(), "api-b".to_owned()]);
        assert_eq!(first.turns(&StoreLook::default()), [founded, leads, StoreTurn::Route(0, Some(7))]);
        assert_eq!(first.turns(&first), []);
        let silent = StoreLook::read(&[], &[None, None], &first);
        assert_eq!(silent.turns(&first), [StoreTurn::Leaderless]);
    }
}
