//! Looks at the mesh through the admin API of a sidecar: who is a member of it, and which instances are in rotation.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::client::Connection;

/// How often the admin API is asked.
const INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for its answer.
const LIMIT: Duration = Duration::from_secs(2);

/// What a sidecar says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    members: Vec<Member>,
    endpoints: Vec<Endpoint>,
}

/// What the sidecar says of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    node: String,
    standing: Standing,
    /// Where it takes requests, if it does.
    endpoint: Option<String>,
    accusers: Vec<String>,
    /// Rises with each start.
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Alive,
    Suspect,
    Dead,
    Left,
}

/// What the sidecar says of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    address: String,
    is_healthy: bool,
    reason: Option<String>,
}

/// Something about a member has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is there, for the first time or again.
    Joined,
    /// It does not answer these others.
    Suspected(Vec<String>),
    /// It was suspected, and has said that it is there.
    SpokeUp,
    /// It is taken for dead.
    Died,
    /// It has said goodbye.
    Left,
    /// It gets no more traffic, for this reason that the sidecar gives.
    OutOfRotation(String),
    /// It gets traffic again.
    InRotation,
}

impl Look {
    /// Asks for it; `None` if no answer comes that can be understood.
    pub(super) async fn take(admin: &mut Connection) -> Option<Self> {
        let members = ask(admin, "/v1/members").await?;
        let services = ask(admin, "/v1/services").await?;
        Some(Self { members: read_members(&members), endpoints: read_endpoints(&services) })
    }

    /// How many members are well.
    pub(super) fn alive(&self) -> usize {
        self.members.iter().filter(|member| member.standing == Standing::Alive).count()
    }

    /// How many members are in rotation.
    pub(super) fn in_rotation(&self) -> usize {
        self.members.iter().filter(|member| self.endpoint(member).is_some_and(|one| one.is_healthy)).count()
    }

    fn endpoint(&self, member: &Member) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| Some(&endpoint.address) == member.endpoint.as_ref())
    }
}

async fn ask(admin: &mut Connection, path: &str) -> Option<Value> {
    let answer = admin.get(path, LIMIT).await.ok()?;
    serde_json::from_slice(&answer.body).ok()
}

/// What was seen last of each member.
#[derive(Debug, Default)]
pub(super) struct Rotation(BTreeMap<String, Seen>);

#[derive(Debug)]
struct Seen {
    standing: Standing,
    generation: u64,
    is_in_rotation: bool,
}

impl Rotation {
    /// What changed since the look before, with the name of the member. At first nobody is there.
    pub(super) fn observe(&mut self, look: &Look) -> Vec<(String, Turn)> {
        let mut turns = Vec::new();
        for member in &look.members {
            let seen = self.0.get(&member.node);
            turns.extend(turn(seen, member).map(|turn| (member.node.clone(), turn)));
            // One that is not in the list of endpoints is none, which is told of by what it is as a member.
            let endpoint = look.endpoint(member);
            let was_in_rotation = seen.is_none_or(|seen| seen.is_in_rotation);
            let is_in_rotation = endpoint.map_or(was_in_rotation, |endpoint| endpoint.is_healthy);
            match (was_in_rotation, is_in_rotation) {
                (true, false) => {
                    let reason = endpoint.and_then(|endpoint| endpoint.reason.clone()).unwrap_or_default();
                    turns.push((member.node.clone(), Turn::OutOfRotation(reason)));
                }
                (false, true) => turns.push((member.node.clone(), Turn::InRotation)),
                (true, true) | (false, false) => {}
            }
            let Member { standing, generation, .. } = *member;
            self.0.insert(member.node.clone(), Seen { standing, generation, is_in_rotation });
        }
        turns
    }
}

fn turn(seen: Option<&Seen>, now: &Member) -> Option<Turn> {
    // As if it had never been there: whoever begins anew is somebody else than who died.
    let before = seen.filter(|seen| seen.generation == now.generation).map(|seen| seen.standing);
    if before == Some(now.standing) {
        return None;
    }
    match (now.standing, before) {
        (Standing::Alive, Some(Standing::Suspect)) => Some(Turn::SpokeUp),
        (Standing::Alive, _) => Some(Turn::Joined),
        (Standing::Suspect, _) => Some(Turn::Suspected(now.accusers.clone())),
        (Standing::Dead, _) => Some(Turn::Died),
        (Standing::Left, _) => Some(Turn::Left),
    }
}

/// Asks the admin API again and again and sends on what it says, until the receiver is gone. An answer that does
/// not come is skipped: the next question follows at once.
pub(super) async fn watch(admin: SocketAddr, report: mpsc::Sender<Look>) {
    let mut connection = Connection::new(admin);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(look) = Look::take(&mut connection).await else { continue };
        if report.send(look).await.is_err() {
            return;
        }
    }
}

/// The members that have told their name.
fn read_members(list: &Value) -> Vec<Member> {
    let items = list["items"].as_array().into_iter().flatten();
    items
        .filter_map(|item| {
            let accusers = item["accusers"].as_array().into_iter().flatten();
            Some(Member {
                node: item["node"].as_str()?.to_owned(),
                standing: match item["state"].as_str()? {
                    "alive" => Standing::Alive,
                    "suspect" => Standing::Suspect,
                    "dead" => Standing::Dead,
                    "left" => Standing::Left,
                    _ => return None,
                },
                endpoint: item["endpoint"].as_str().map(str::to_owned),
                accusers: accusers.filter_map(Value::as_str).map(str::to_owned).collect(),
                generation: item["generation"].as_u64()?,
            })
        })
        .collect()
}

/// The endpoints of all services, among them the sidecar's own application.
fn read_endpoints(services: &Value) -> Vec<Endpoint> {
    let items = services["items"].as_array().into_iter().flatten();
    let endpoints = items.filter_map(|service| service["endpoints"].as_array()).flatten();
    endpoints
        .filter_map(|endpoint| {
            Some(Endpoint {
                address: endpoint["address"].as_str()?.to_owned(),
                is_healthy: endpoint["state"].as_str()? == "healthy",
                reason: endpoint["reason"].as_str().map(str::to_owned),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look(state: &str, generation: u64, endpoints: &Value) -> Look {
        let members = json!({ "items": [
            { "node": "api-2", "state": state, "endpoint": "127.0.0.1:2", "generation": generation, "accusers": ["client"] },
            { "node": null, "state": "alive", "endpoint": null, "generation": 1, "accusers": [] },
        ] });
        let services = json!({ "items": [{ "name": "api", "endpoints": endpoints }] });
        Look { members: read_members(&members), endpoints: read_endpoints(&services) }
    }

    fn observe(rotation: &mut Rotation, state: &str, generation: u64, endpoint: &str) -> Vec<Turn> {
        let endpoints = json!([{ "address": "127.0.0.1:2", "state": endpoint, "reason": "why" }]);
        rotation.observe(&look(state, generation, &endpoints)).into_iter().map(|(_, turn)| turn).collect()
    }

    #[test]
    fn the_application_of_the_sidecar_itself_is_no_member_in_rotation() {
        let endpoint = |port: u16| json!({ "address": format!("127.0.0.1:{port}"), "state": "healthy" });
        let look = |ports: [u16; 2]| look("alive", 1, &ports.map(endpoint).into());
        assert_eq!((look([2, 9]).in_rotation(), look([8, 9]).in_rotation()), (1, 0));
        assert_eq!(look([2, 9]).alive(), 1);
    }

    #[test]
    fn each_change_is_told_once() {
        let mut rotation = Rotation::default();
        assert_eq!(observe(&mut rotation, "alive", 1, "healthy"), [Turn::Joined]);
        assert_eq!(observe(&mut rotation, "alive", 1, "healthy"), []);
        assert_eq!(observe(&mut rotation, "alive", 1, "open"), [Turn::OutOfRotation("why".to_owned())]);
        assert_eq!(
            observe(&mut rotation, "suspect", 1, "open"),
            [Turn::Suspected(vec!["client".to_owned()])]
        );
        assert_eq!(observe(&mut rotation, "alive", 1, "healthy"), [Turn::SpokeUp, Turn::InRotation]);
        assert_eq!(observe(&mut rotation, "left", 1, "healthy"), [Turn::Left]);
    }

    #[test]
    fn one_that_dies_is_no_endpoint_and_comes_back_as_somebody_new() {
        let mut rotation = Rotation::default();
        observe(&mut rotation, "alive", 1, "open");
        let gone = rotation.observe(&look("dead", 1, &json!([])));
        assert_eq!(gone, [("api-2".to_owned(), Turn::Died)]);
        assert_eq!(observe(&mut rotation, "alive", 2, "healthy"), [Turn::Joined, Turn::InRotation]);
        // Also if it was back before anybody took it for dead.
        assert_eq!(observe(&mut rotation, "alive", 3, "healthy"), [Turn::Joined]);
    }
}
