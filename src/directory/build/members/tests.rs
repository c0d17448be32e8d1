//! Who is an endpoint of what, in tables.

use std::net::SocketAddr;

use super::*;
use crate::{
    identity::external::{ExternalTlsParams, Roots, TlsVersion},
    membership::Speaks,
    policy::{balance::BalanceParams, locality::ZoneParams, retry::BudgetParams},
    snapshot::{Limits, Protocol, SubsetFallback},
    types::{Mono, Tags},
};

fn cluster(name: &str, source: EndpointSource, tls: UpstreamTlsParams) -> ClusterParams {
    let second = std::time::Duration::from_secs(1);
    ClusterParams {
        name: name.into(),
        source,
        protocol: Protocol::Auto,
        tls,
        send_proxy: None,
        balance: BalanceParams::RoundRobin,
        connect_timeout: second,
        idle_timeout: second,
        limits: Limits {
            max_requests: 1,
            max_retries: 1,
            max_connections: 1,
            max_pending_requests: 1,
            queue_timeout: second,
            max_requests_per_connection: None,
            max_connection_age: None,
        },
        retry_budget: BudgetParams { percent: 20, min_per_second: 3 },
        health_check: None,
        circuit_breaker: None,
        outlier_detection: None,
        slow_start: std::time::Duration::ZERO,
        panic_threshold_percent: 50,
        zones: ZoneParams::None,
        subset_fallback: SubsetFallback::None,
        affinity: None,
    }
}

pub(in crate::directory) fn of_mesh(name: &str) -> ClusterParams {
    cluster(name, EndpointSource::Mesh, UpstreamTlsParams::Disabled)
}

pub(in crate::directory) fn facts(service: &str, port: u16) -> Facts {
    Facts {
        node: format!("{service}-{port}").into(),
        service: service.into(),
        endpoint: Some(SocketAddr::from(([10, 0, 0, 1], port))),
        speaks: Speaks::Auto,
        secured: false,
        weight: 1,
        tags: Tags::default(),
        health: Health::Unchecked,
        store: None,
        is_draining: false,
        load: 0,
        version: "1".into(),
        keys: Vec::new(),
    }
}

pub(in crate::directory) fn member(id: u64, routable: Routable, facts: Facts) -> Member {
    Member {
        id: MemberId(id),
        generation: 1,
        incarnation: 0,
        address: SocketAddr::from(([10, 0, 0, 1], 7946)),
        state: MemberState::Alive,
        since: Mono::ZERO,
        is_confirmed: true,
        routable,
        facts: Some(Arc::new(facts)),
        accusers: Vec::new(),
        round_trip: None,
    }
}

pub(in crate::directory) fn view(members: Vec<Member>) -> MembershipView {
    let members = members.into_iter().map(Arc::new).collect();
    MembershipView { own: Some(MemberId(0)), members, ..MembershipView::default() }
}

/// Ports of the endpoints of `api`, with a letter for what is said of each: `u`nhealthy, `s`uspected.
fn api(members: Vec<Member>) -> Vec<String> {
    let gathered = gather(&[of_mesh("api")], &view(members));
    let Instances { endpoints, standings } = &gathered.instances["api"];
    let shown = |(endpoint, standing): (&EndpointParams, &Standing)| {
        let address = endpoint.address.to_string();
        let unhealthy = if standing.is_unhealthy { "u" } else { "" };
        let suspected = if standing.is_suspected { "s" } else { "" };
        format!("{}{unhealthy}{suspected}", address.rsplit(':').next().unwrap_or_default())
    };
    endpoints.iter().zip(standings).map(shown).collect()
}

#[test]
fn an_endpoint_is_who_stands_beside_the_service_and_may_be_routed_to() {
    use Routable::{LastResort, No, Thinned, Yes};
    let one = |routable, change: &dyn Fn(&mut Facts)| {
        let mut facts = facts("api", 1);
        change(&mut facts);
        api(vec![member(1, routable, facts)])
    };
    let as_it_is = |_: &mut Facts| {};
    assert_eq!(one(Yes, &as_it_is), ["1"]);
    assert_eq!(one(Thinned, &as_it_is), ["1s"]);
    assert_eq!(one(LastResort, &as_it_is), ["1"]);
    assert_eq!(one(No, &as_it_is), [""; 0]);
    for routable in [Yes, Thinned, LastResort] {
        assert_eq!(one(routable, &|facts| facts.service = "web".into()), [""; 0]);
        assert_eq!(one(routable, &|facts| facts.endpoint = None), [""; 0]);
        assert_eq!(one(routable, &|facts| facts.is_draining = true), [""; 0]);
    }
    assert_eq!(one(Yes, &|facts| facts.health = Health::Unhealthy), ["1u"]);
    assert_eq!(one(Thinned, &|facts| facts.health = Health::Unhealthy), ["1us"]);
    assert_eq!(one(Yes, &|facts| facts.health = Health::Healthy), ["1"]);
    let silent = Member { facts: None, ..member(1, Yes, facts("api", 1)) };
    assert_eq!(api(vec![silent]), [""; 0]);
}

#[test]
fn a_node_is_an_endpoint_for_itself() {
    assert_eq!(api(vec![member(0, Routable::Yes, facts("api", 1))]), ["1"]);
}

#[test]
fn the_last_resort_counts_only_where_there_is_nobody_else() {
    let last = |port| member(u64::from(port), Routable::LastResort, facts("api", port));
    assert_eq!(api(vec![last(1), last(2)]), ["1", "2"]);
    assert_eq!(api(vec![last(1), member(3, Routable::Thinned, facts("api", 3))]), ["3s"]);
    // Somebody else who cannot be spoken to is nobody.
    let secured = Facts { secured: true, ..facts("api", 3) };
    assert_eq!(api(vec![last(1), member(3, Routable::Yes, secured)]), ["1"]);
}

#[test]
fn endpoints_are_in_the_order_of_their_addresses_whoever_tells_of_them_first() {
    let members = |ports: &[u16]| {
        ports.iter().map(|port| member(u64::from(90 - *port), Routable::Yes, facts("api", *port))).collect()
    };
    assert_eq!(api(members(&[7, 3, 5])), ["3", "5", "7"]);
    assert_eq!(api(members(&[5, 7, 3])), ["3", "5", "7"]);
}

#[test]
fn of_several_lives_at_one_address_the_best_counts() {
    let unwell = || Facts { health: Health::Unhealthy, ..facts("api", 1) };
    let life = |id, generation, routable, facts| Member { generation, ..member(id, routable, facts) };
    let suspected = life(1, 1, Routable::Thinned, facts("api", 1));
    let again = life(2, 1, Routable::Yes, unwell());
    assert_eq!(api(vec![suspected.clone(), again.clone()]), ["1u"]);
    assert_eq!(api(vec![again, suspected]), ["1u"]);
    // Of equals the one that began last.
    let (first, second) = (life(1, 1, Routable::Yes, facts("api", 1)), life(1, 2, Routable::Yes, unwell()));
    assert_eq!(api(vec![first, second]), ["1u"]);
}

#[test]
fn weight_and_tags_are_those_that_the_member_says() {
    let tags = Tags::new([("zone".to_owned(), "eu-1".to_owned())]);
    let gathered = gather(
        &[of_mesh("api")],
        &view(vec![
            member(1, Routable::Yes, Facts { weight: 7, tags: tags.clone(), ..facts("api", 1) }),
            member(2, Routable::Yes, Facts { weight: 0, ..facts("api", 2) }),
            member(3, Routable::Yes, Facts { weight: 60_000, ..facts("api", 3) }),
        ]),
    );
    let endpoints = &gathered.instances["api"].endpoints;
    assert_eq!(endpoints.iter().map(|one| one.weight).collect::<Vec<_>>(), [7, 1, 1000]);
    assert_eq!((&endpoints[0].tags, endpoints[0].priority), (&tags, 0));
}

#[test]
fn who_does_not_speak_what_the_service_speaks_is_left_out_and_told_of() {
    let outside = UpstreamTlsParams::External(ExternalTlsParams {
        server_name: None,
        roots: Roots::System,
        client: None,
        min_version: TlsVersion::default(),
    });
    for (tls, secured, fits) in [
        (UpstreamTlsParams::Mesh, true, true),
        (UpstreamTlsParams::Mesh, false, false),
        (UpstreamTlsParams::Disabled, false, true),
        (UpstreamTlsParams::Disabled, true, false),
        (outside, true, false),
    ] {
        let facts = Facts { secured, ..facts("api", 1) };
        let view = view(vec![member(1, Routable::Yes, facts)]);
        let gathered = gather(&[cluster("api", EndpointSource::Mesh, tls.clone())], &view);
        assert_eq!(gathered.instances["api"].endpoints.len(), usize::from(fits), "{tls:?} {secured}");
        let told = gathered.mismatches.iter().map(|one| (one.member, one.is_secured)).collect::<Vec<_>>();
        assert_eq!(told, if fits { vec![] } else { vec![(MemberId(1), secured)] }, "{tls:?} {secured}");
    }
}

#[test]
fn only_services_that_are_discovered_in_the_mesh_are_looked_for() {
    let listed = cluster("listed", EndpointSource::Static(Vec::new()), UpstreamTlsParams::Disabled);
    let view = view(vec![member(1, Routable::Yes, facts("listed", 1))]);
    let gathered = gather(&[listed, of_mesh("api")], &view);
    assert_eq!(gathered.instances.keys().map(|name| &**name).collect::<Vec<_>>(), ["api"]);
    assert_eq!(gathered.instances["api"], Instances::default());
}

fn dead(port: u16) -> Member {
    Member { state: MemberState::Dead, ..member(u64::from(port), Routable::No, facts("api", port)) }
}

/// Where instances of `api` died, if that is what was known `before` and these are the members now.
fn fell(members: Vec<Member>, before: &Fallen) -> Fallen {
    let view = view(members);
    fallen(&view, &gather(&[of_mesh("api")], &view).instances, before)
}

/// The same as text, of `api`.
fn shown(fallen: &Fallen) -> Vec<String> {
    let mut addresses: Vec<String> =
        fallen.get("api").into_iter().flatten().map(ToString::to_string).collect();
    addresses.sort();
    addresses
}

#[test]
fn where_a_member_died_is_remembered_until_somebody_takes_requests_there_again() {
    let usual = |port| member(u64::from(port), Routable::Yes, facts("api", port));
    let nowhere = Fallen::default();
    let one = fell(vec![dead(1), usual(2)], &nowhere);
    assert_eq!(shown(&one), ["10.0.0.1:1"]);
    // It lives, and has not proved who it is.
    let unproved = member(1, Routable::No, facts("api", 1));
    let still = fell(vec![unproved.clone(), usual(2)], &one);
    assert_eq!(shown(&still), ["10.0.0.1:1"]);
    assert!(fell(vec![usual(1), usual(2)], &still).is_empty());
    // Without a directory it is another member, and the old one stays dead beside it.
    let again = Member { since: Mono::from_nanos(1), ..member(9, Routable::Yes, facts("api", 1)) };
    assert!(fell(vec![dead(1), again], &still).is_empty());
    // Who was not seen dead is new.
    assert!(fell(vec![unproved], &nowhere).is_empty());
}

#[test]
fn who_said_goodbye_did_not_fall() {
    let gone = |state, facts| Member { state, ..member(1, Routable::No, facts) };
    let before = fell(vec![dead(1)], &Fallen::default());
    assert!(fell(vec![gone(MemberState::Left, facts("api", 1))], &before).is_empty());
    let draining = Facts { is_draining: true, ..facts("api", 1) };
    assert!(fell(vec![gone(MemberState::Dead, draining)], &before).is_empty());
    // Another one at the same address was there since, and left.
    let left = Member { state: MemberState::Left, ..member(9, Routable::No, facts("api", 1)) };
    let later = Member { since: Mono::from_nanos(1), ..left };
    assert!(fell(vec![dead(1), later.clone()], &before).is_empty());
    assert!(fell(vec![later, dead(1)], &before).is_empty());
}

#[test]
fn only_what_the_members_still_say_is_remembered_of_the_dead() {
    let before = fell(vec![dead(1), dead(2)], &Fallen::default());
    assert_eq!(shown(&before), ["10.0.0.1:1", "10.0.0.1:2"]);
    assert_eq!(shown(&fell(vec![dead(2)], &before)), ["10.0.0.1:2"]);
    assert!(fell(Vec::new(), &before).is_empty());
    let other = Member { state: MemberState::Dead, ..member(3, Routable::No, facts("other", 3)) };
    assert!(fell(vec![other], &before).is_empty(), "nobody looks for the service");
}

#[test]
fn the_last_resort_has_not_fallen_as_long_as_it_is_used() {
    let last = |port| Member { routable: Routable::LastResort, ..dead(port) };
    let nowhere = Fallen::default();
    assert!(fell(vec![last(1), last(2)], &nowhere).is_empty());
    let usual = member(3, Routable::Yes, facts("api", 3));
    assert_eq!(shown(&fell(vec![last(1), usual], &nowhere)), ["10.0.0.1:1"]);
}

#[test]
fn what_is_said_of_an_endpoint_is_found_by_its_address() {
    let unwell = Facts { health: Health::Unhealthy, ..facts("api", 2) };
    let view = view(vec![member(1, Routable::Thinned, facts("api", 1)), member(2, Routable::Yes, unwell)]);
    let instances = &gather(&[of_mesh("api")], &view).instances["api"];
    let of = |text: &str| instances.standing(&text.parse().unwrap());
    assert_eq!(of("10.0.0.1:1"), Standing { is_unhealthy: false, is_suspected: true });
    assert_eq!(of("10.0.0.1:2"), Standing { is_unhealthy: true, is_suspected: false });
    assert_eq!(of("10.0.0.1:3"), Standing::default());
}
