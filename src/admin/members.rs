//! How the mesh is told of in JSON: its members, and how many of them there are. Pure; whoever asks brings view and time.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::API;
use crate::{
    membership::{Facts, Health, Member, MemberId, MemberState, MembershipView, Routable},
    types::Mono,
};

/// All members, by name; those whose name is not known yet come last.
#[must_use]
pub fn member_list(view: &MembershipView, now: Mono) -> Value {
    let names: BTreeMap<MemberId, &str> =
        view.members.iter().filter_map(|member| Some((member.id, &*member.facts.as_ref()?.node))).collect();
    let mut members: Vec<&Member> = view.members.iter().map(AsRef::as_ref).collect();
    members.sort_by_key(|member| (!names.contains_key(&member.id), names.get(&member.id), member.id));
    json!({
        "apiVersion": API,
        "kind": "MemberList",
        "items": members.into_iter().map(|one| member(one, &names, now)).collect::<Vec<_>>(),
        "own": view.own.map(|id| id.to_string()),
        "revision": view.revision,
        "health_score": view.health_score,
        "isolated": view.is_isolated,
    })
}

/// How many members are thought of how.
#[must_use]
pub fn member_summary(view: &MembershipView) -> Value {
    let counts = MemberState::ALL.map(|state| (state.as_str().to_owned(), view.count(state).into()));
    let mut summary: Map<String, Value> = counts.into_iter().collect();
    summary.insert("isolated".to_owned(), view.is_isolated.into());
    Value::Object(summary)
}

fn member(member: &Member, names: &BTreeMap<MemberId, &str>, now: Mono) -> Value {
    let accuser = |id: &MemberId| names.get(id).map_or_else(|| id.to_string(), |name| (*name).to_owned());
    let mut told = json!({
        "id": member.id.to_string(),
        "address": member.address.to_string(),
        "state": member.state.as_str(),
        "since_seconds": now.since(member.since).as_secs_f64(),
        "incarnation": member.incarnation,
        "generation": member.generation,
        "confirmed": member.is_confirmed,
        "routable": routable(member.routable),
        "accusers": member.accusers.iter().map(accuser).collect::<Vec<_>>(),
        "round_trip_seconds": member.round_trip.map(|took| took.as_secs_f64()),
    });
    let of_itself = facts(member.facts.as_deref());
    if let (Value::Object(told), Value::Object(of_itself)) = (&mut told, of_itself) {
        told.extend(of_itself);
    }
    told
}

/// What a member says about itself. All keys are there, whether it has said anything or not.
fn facts(facts: Option<&Facts>) -> Value {
    let tag = |(name, value): (&str, &str)| (name.to_owned(), Value::from(value));
    json!({
        "node": facts.map(|facts| &*facts.node),
        "service": facts.map(|facts| &*facts.service),
        "endpoint": facts.and_then(|facts| facts.endpoint).map(|endpoint| endpoint.to_string()),
        "zone": facts.and_then(|facts| facts.tags.zone()),
        "version": facts.map(|facts| &*facts.version),
        "tags": facts.map(|facts| facts.tags.iter().map(tag).collect::<Map<_, _>>()),
        "weight": facts.map(|facts| facts.weight),
        "health": facts.map(|facts| health(facts.health)),
        "draining": facts.map(|facts| facts.is_draining),
        "load": facts.map(|facts| facts.load),
    })
}

fn routable(routable: Routable) -> &'static str {
    match routable {
        Routable::Yes => "yes",
        Routable::Thinned => "thinned",
        Routable::LastResort => "last_resort",
        Routable::No => "no",
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Unchecked => "unchecked",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{membership::Speaks, types::Tags};

    fn named(id: u64, node: &str) -> Member {
        let tags = [("zone", "a"), ("version", "v2")];
        let facts = Facts {
            node: node.into(),
            service: "api".into(),
            endpoint: Some(([10, 0, 0, 1], 15006).into()),
            speaks: Speaks::Auto,
            secured: true,
            weight: 3,
            tags: Tags::new(tags.map(|(name, value)| (name.to_owned(), value.to_owned()))),
            health: Health::Healthy,
            store: None,
            is_draining: true,
            load: 4,
            version: "0.1.0".into(),
            keys: vec![1],
        };
        Member { facts: Some(Arc::new(facts)), ..unnamed(id) }
    }

    fn unnamed(id: u64) -> Member {
        Member {
            id: MemberId(id),
            generation: 9,
            incarnation: 2,
            address: ([10, 0, 0, 1], 7946).into(),
            state: MemberState::Alive,
            since: Mono::from_nanos(1_000_000_000),
            is_confirmed: true,
            routable: Routable::Yes,
            facts: None,
            accusers: Vec::new(),
            round_trip: None,
        }
    }

    fn view(members: Vec<Member>) -> MembershipView {
        let members = members.into_iter().map(Arc::new).collect();
        MembershipView { revision: 5, own: Some(MemberId(1)), members, health_score: 2, is_isolated: true }
    }

    #[test]
    fn a_member_is_told_with_all_that_is_known_of_it() {
        let suspected = Member {
            state: MemberState::Suspect,
            routable: Routable::Thinned,
            accusers: vec![MemberId(1), MemberId(0xabc)],
            round_trip: Some(Duration::from_micros(1_500)),
            ..named(2, "api-2")
        };
        let told = member_list(&view(vec![named(1, "api-1"), suspected]), Mono::from_nanos(3_500_000_000));
        let expected = json!({
            "id": "0000000000000002",
            "node": "api-2",
            "service": "api",
            "address": "10.0.0.1:7946",
            "endpoint": "10.0.0.1:15006",
            "state": "suspect",
            "since_seconds": 2.5,
            "incarnation": 2,
            "generation": 9,
            "confirmed": true,
            "routable": "thinned",
            "accusers": ["api-1", "0000000000000abc"],
            "round_trip_seconds": 0.0015,
            "zone": "a",
            "version": "0.1.0",
            "tags": { "version": "v2", "zone": "a" },
            "weight": 3,
            "health": "healthy",
            "draining": true,
            "load": 4,
        });
        assert_eq!(told["items"][1], expected);
        let head =
            ["apiVersion", "kind", "own", "revision", "health_score", "isolated"].map(|key| &told[key]);
        assert_eq!(json!(head), json!(["v1", "MemberList", "0000000000000001", 5, 2, true]));
    }

    #[test]
    fn members_come_by_name_and_those_without_one_last() {
        let told = member_list(&view(vec![unnamed(1), named(2, "b"), named(3, "a")]), Mono::ZERO);
        let ids: Vec<_> = (0..3).map(|at| told["items"][at]["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["0000000000000003", "0000000000000002", "0000000000000001"]);
        let silent = told["items"][2].as_object().unwrap();
        assert!(silent["node"].is_null() && silent["draining"].is_null() && silent["tags"].is_null());
        assert_eq!(silent.len(), told["items"][0].as_object().unwrap().len());
    }

    #[test]
    fn a_summary_counts_each_state() {
        let dead = Member { state: MemberState::Dead, ..unnamed(3) };
        let told = member_summary(&view(vec![unnamed(1), unnamed(2), dead]));
        assert_eq!(told, json!({ "alive": 2, "suspect": 0, "dead": 1, "left": 0, "isolated": true }));
    }
}
