//! What becomes of the members of a mesh: which changes make a snapshot, and which are seen without one.

use super::*;
use crate::{
    directory::{
        LocalServiceParams,
        build::members::tests::{facts, member, of_mesh, view},
    },
    membership::{Facts, Health, Member, MemberState, Routable},
    policy::{
        authz::{self, Intentions},
        balance::Candidate as _,
        concurrency::{ConcurrencyMode, ConcurrencyParams},
        traffic::TrafficParams,
    },
    snapshot::{Cluster, Protocol, SelectionId, Standing},
    types::{Tags, TrustDomain},
};

fn params(clusters: Vec<ClusterParams>) -> DirectoryParams {
    let second = Duration::from_secs(1);
    DirectoryParams {
        local: LocalServiceParams {
            name: "web".into(),
            address: "127.0.0.1:1".parse().unwrap(),
            tags: Tags::default(),
            protocol: Protocol::Auto,
            timeout: None,
            connect_timeout: second,
            idle_timeout: second,
            health_check: None,
            traffic: TrafficParams::default(),
            concurrency: ConcurrencyParams { mode: ConcurrencyMode::Off, min: 1, max: 1 },
        },
        intentions: Intentions::Absent(authz::Action::Allow),
        trust_domain: TrustDomain::default(),
        jwt: None,
        ext_authz: None,
        routes: Vec::new(),
        clusters,
        passthrough: None,
    }
}

/// A directory of one service, and the mesh in which it is found.
struct Mesh {
    directory: Directory,
    cell: SnapshotCell,
    publisher: Publisher,
    views: watch::Sender<Arc<MembershipView>>,
}

impl Mesh {
    async fn start(service: ClusterParams, members: Vec<Member>) -> Self {
        let views = watch::Sender::new(Arc::new(view(members)));
        let registry = Registry::new(100, 1);
        let resolver = Arc::new(Resolver::new().unwrap());
        let members = Some(views.subscribe());
        let params = params(vec![service]);
        let (directory, cell, publisher) =
            Directory::start(params, Vec::new(), registry, resolver, None, members, 7).await;
        Self { directory, cell, publisher, views }
    }

    /// The members are these now, and the directory has looked.
    fn now_has(&mut self, members: Vec<Member>) {
        self.views.send_replace(Arc::new(view(members)));
        self.directory.look_at_members();
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.cell.load().clusters[0])
    }

    fn addresses(&self) -> Vec<String> {
        self.cluster().endpoints.iter().map(|endpoint| endpoint.label.to_string()).collect()
    }

    /// The share that each endpoint would get at the beginning of a warm-up, or without one.
    fn ramps(&self) -> Vec<f32> {
        self.cluster().endpoints.iter().map(|endpoint| endpoint.ramp(Mono::ZERO)).collect()
    }

    fn generation(&self) -> u64 {
        self.cell.load().generation
    }
}

fn usual(port: u16) -> Member {
    member(u64::from(port), Routable::Yes, facts("api", port))
}

fn sick(port: u16) -> Member {
    member(u64::from(port), Routable::Yes, Facts { health: Health::Unhealthy, ..facts("api", port) })
}

fn dead(port: u16) -> Member {
    Member { state: MemberState::Dead, ..member(u64::from(port), Routable::No, facts("api", port)) }
}

#[tokio::test]
async fn the_first_snapshot_has_those_who_are_known_by_then() {
    let mesh = Mesh::start(of_mesh("api"), vec![usual(2), usual(1)]).await;
    assert_eq!(mesh.addresses(), ["10.0.0.1:1", "10.0.0.1:2"]);
    assert_eq!(mesh.generation(), 1);
}

#[tokio::test]
async fn a_snapshot_is_published_for_other_endpoints_and_for_nothing_else() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1)]).await;
    mesh.now_has(vec![usual(1), usual(2)]);
    assert_eq!((mesh.addresses().len(), mesh.generation()), (2, 2));
    // What people are shown changes all the time.
    let round_trip = Some(Duration::from_millis(3));
    mesh.now_has(vec![usual(2), Member { round_trip, incarnation: 7, ..usual(1) }]);
    let busy = Facts { load: 5, ..facts("api", 1) };
    mesh.now_has(vec![usual(2), member(1, Routable::Yes, busy)]);
    mesh.now_has(vec![usual(2), usual(1), member(9, Routable::Yes, facts("other", 9))]);
    assert_eq!(mesh.generation(), 2);
    let heavier = Facts { weight: 3, ..facts("api", 1) };
    mesh.now_has(vec![usual(2), member(1, Routable::Yes, heavier)]);
    assert_eq!((mesh.cluster().endpoints[0].weight, mesh.generation()), (3, 3));
    mesh.now_has(vec![usual(2)]);
    assert_eq!((mesh.addresses(), mesh.generation()), (vec!["10.0.0.1:2".to_owned()], 4));
}

#[tokio::test]
async fn what_is_thought_of_an_endpoint_is_seen_without_a_snapshot() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1), usual(2), usual(3)]).await;
    let cluster = mesh.cluster();
    mesh.now_has(vec![usual(1), sick(2), usual(3)]);
    let eligible = || cluster.endpoints.iter().map(|one| one.eligible(Mono::ZERO)).collect::<Vec<_>>();
    assert_eq!(eligible(), [true, false, true]);
    let reason = cluster.endpoints[1].live.verdict().reason;
    assert_eq!(reason.as_deref(), Some("its own sidecar finds it unhealthy"));

    mesh.now_has(vec![usual(1), usual(2), member(3, Routable::Thinned, facts("api", 3))]);
    assert_eq!(eligible(), [true; 3]);
    let ramp = || cluster.endpoints[2].ramp(Mono::ZERO);
    assert_eq!(ramp(), 0.1);
    mesh.now_has(vec![usual(1), usual(2), usual(3)]);
    assert_eq!(ramp(), 1.0, "a short suspicion is followed by no warm-up");
    assert_eq!(mesh.generation(), 1);
}

#[tokio::test]
async fn if_most_are_unhealthy_all_are_used() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1), usual(2), usual(3)]).await;
    mesh.now_has(vec![usual(1), sick(2), sick(3)]);
    assert!(mesh.cluster().live.in_panic());
    assert!(mesh.cluster().endpoints.iter().all(|endpoint| endpoint.eligible(Mono::ZERO)));
}

#[tokio::test]
async fn checks_of_both_sidecars_must_find_an_endpoint_well() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1), usual(2), usual(3)]).await;
    let live = Arc::clone(&mesh.cluster().endpoints[0].live);
    mesh.now_has(vec![sick(1), usual(2), usual(3)]);
    live.judge(true, None, clock::wall());
    assert!(live.passes_checks() && !live.is_healthy());
    live.judge(false, Some("status 500".to_owned()), clock::wall());
    mesh.now_has(vec![usual(1), usual(2), usual(3)]);
    assert!(!live.is_healthy());
    assert_eq!(live.verdict().reason.as_deref(), Some("status 500"));
    live.judge(true, None, clock::wall());
    assert!(live.is_healthy());
}

#[tokio::test]
async fn who_comes_later_warms_up_and_is_known_to_be_sick_before_its_first_request() {
    let slow_start = Duration::from_secs(3600);
    let service = ClusterParams { slow_start, ..of_mesh("api") };
    let mut mesh = Mesh::start(service, vec![usual(1)]).await;
    mesh.now_has(vec![usual(1), sick(2)]);
    let cluster = mesh.cluster();
    assert!(cluster.endpoints[0].ramp(clock::now()) > 0.99);
    assert!(cluster.endpoints[1].ramp(clock::now()) < 0.2);
    assert!(!cluster.endpoints[1].live.is_healthy());
}

#[tokio::test]
async fn a_member_that_died_and_is_back_warms_up_and_a_new_one_does_not_unless_it_is_configured() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1), usual(2)]).await;
    mesh.now_has(vec![usual(1), dead(2)]);
    assert_eq!(mesh.ramps(), [1.0]);
    mesh.now_has(vec![usual(1), usual(2), usual(3)]);
    assert_eq!(mesh.ramps(), [1.0, 0.1, 1.0]);
    // The same endpoints in another snapshot: it is not back once more.
    let warm = clock::now().after(Duration::from_secs(10));
    assert!(mesh.cluster().endpoints.iter().all(|endpoint| endpoint.ramp(warm) == 1.0));
    mesh.now_has(vec![usual(1), usual(2), usual(3), usual(4)]);
    assert_eq!(mesh.ramps(), [1.0; 4]);
}

#[tokio::test]
async fn a_member_that_is_back_takes_the_configured_time_to_warm_up() {
    let slow_start = Duration::from_secs(3600);
    let service = ClusterParams { slow_start, ..of_mesh("api") };
    let mut mesh = Mesh::start(service, vec![usual(1), usual(2)]).await;
    mesh.now_has(vec![usual(1), dead(2)]);
    mesh.now_has(vec![usual(1), usual(2)]);
    let ramp = mesh.cluster().endpoints[1].ramp(clock::now().after(slow_start / 2));
    assert!((0.4..0.9).contains(&ramp), "{ramp}");
}

#[tokio::test]
async fn a_member_that_is_back_and_not_well_yet_warms_up_when_it_is() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1), usual(2), usual(3)]).await;
    mesh.now_has(vec![usual(1), dead(2), usual(3)]);
    mesh.now_has(vec![usual(1), sick(2), usual(3)]);
    assert_eq!(mesh.ramps(), [1.0; 3]);
    mesh.now_has(vec![usual(1), usual(2), usual(3)]);
    assert_eq!(mesh.ramps(), [1.0, 0.1, 1.0]);
}

#[tokio::test]
async fn nobody_is_back_who_left_or_was_gone_before_this_process_looked() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1), dead(2), usual(3)]).await;
    assert_eq!(mesh.ramps(), [1.0; 2]);
    mesh.now_has(vec![usual(1), usual(2), usual(3)]);
    assert_eq!(mesh.ramps(), [1.0; 3]);
    mesh.now_has(vec![usual(1), usual(2), Member { state: MemberState::Left, ..dead(3) }]);
    mesh.now_has(vec![usual(1), usual(2), usual(3)]);
    assert_eq!(mesh.ramps(), [1.0; 3]);
}

#[tokio::test]
async fn an_endpoint_that_its_own_sidecar_finds_well_again_warms_up_and_one_that_was_never_well_does_not() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1), usual(2), usual(3)]).await;
    mesh.now_has(vec![usual(1), sick(2), usual(3), sick(4), usual(5)]);
    mesh.now_has(vec![usual(1), usual(2), usual(3), usual(4), usual(5)]);
    assert_eq!(mesh.ramps(), [1.0, 0.1, 1.0, 1.0, 1.0]);
}

#[tokio::test]
async fn an_endpoint_that_passes_active_checks_again_or_is_checked_no_more_warms_up() {
    let mesh = Mesh::start(of_mesh("api"), (1..=5).map(usual).collect()).await;
    let cluster = mesh.cluster();
    let judge = |index: usize, healthy| {
        cluster.endpoints[index].live.judge(healthy, None, clock::wall());
        cluster.recount(clock::now());
    };
    judge(0, true);
    judge(1, false);
    judge(2, false);
    assert_eq!(mesh.ramps(), [1.0; 5]);
    judge(1, true);
    cluster.endpoints[2].live.trust();
    cluster.recount(clock::now());
    assert_eq!(mesh.ramps(), [1.0, 0.1, 0.1, 1.0, 1.0]);
}

#[tokio::test]
async fn an_endpoint_that_panic_kept_in_use_does_not_warm_up_afterwards() {
    let mut mesh = Mesh::start(of_mesh("api"), vec![usual(1), usual(2), usual(3)]).await;
    mesh.now_has(vec![usual(1), sick(2), sick(3)]);
    mesh.now_has(vec![usual(1), usual(2), usual(3)]);
    assert!(!mesh.cluster().live.in_panic());
    assert_eq!(mesh.ramps(), [1.0; 3]);
}

#[tokio::test]
async fn an_endpoint_warms_up_after_a_suspicion_that_lasted_and_not_after_a_short_one() {
    let mesh = Mesh::start(of_mesh("api"), vec![usual(1), usual(2)]).await;
    let cluster = mesh.cluster();
    let start = clock::now();
    let suspect = |is_suspected, seconds| {
        let standing = Standing { is_suspected, is_unhealthy: false };
        let _ = cluster.endpoints[1].live.heed(standing, clock::wall());
        cluster.recount(start.after(Duration::from_secs(seconds)));
    };
    suspect(true, 1);
    suspect(false, 2);
    assert_eq!(mesh.ramps(), [1.0, 1.0]);
    suspect(true, 3);
    suspect(false, 20);
    assert_eq!(mesh.ramps(), [1.0, 0.1]);
}

#[tokio::test]
async fn if_all_endpoints_come_back_at_once_they_share_as_they_always_do() {
    for count in 1..=2 {
        let ports = 1..=count;
        let all: Vec<Member> = ports.clone().map(usual).collect();
        let mut mesh = Mesh::start(of_mesh("api"), all.clone()).await;
        mesh.now_has(ports.map(dead).collect());
        assert!(mesh.addresses().is_empty());
        mesh.now_has(all);
        let cluster = mesh.cluster();
        assert_eq!(mesh.ramps(), vec![0.1_f32; usize::from(count)]);
        let mut rng = fastrand::Rng::with_seed(7);
        let picks: Vec<usize> = (0..1000)
            .filter_map(|_| cluster.pick(SelectionId::ALL, &[], None, Mono::ZERO, &mut rng))
            .collect();
        assert_eq!(picks.len(), 1000, "each request finds somebody");
        let first = picks.iter().filter(|index| **index == 0).count();
        let fair = 1000 / usize::from(count);
        assert!(first.abs_diff(fair) <= 100, "{first} of 1000 for one of {count}");
    }
}

#[tokio::test]
async fn a_service_of_a_new_configuration_finds_its_members_and_keeps_them_when_nobody_tells_any_more() {
    let Mesh { directory, cell, publisher, views } =
        Mesh::start(of_mesh("api"), vec![usual(1), member(9, Routable::Yes, facts("other", 9))]).await;
    let drain = crate::rt::Drain::default();
    let running = tokio::spawn(directory.run(drain.watch()));
    let limit = Duration::from_secs(30);
    let mut published = publisher.published.clone();
    views.send_replace(Arc::new(view(vec![usual(1), usual(2), member(9, Routable::Yes, facts("other", 9))])));
    tokio::time::timeout(limit, published.changed()).await.unwrap().unwrap();
    assert_eq!(cell.load().clusters[0].endpoints.len(), 2);
    drop(views);
    let wanted = params(vec![of_mesh("api"), of_mesh("other")]);
    let configured = publisher.configure(wanted, Vec::new(), clock::now());
    assert_eq!(tokio::time::timeout(limit, configured).await.unwrap(), Some(3));
    let counts: Vec<usize> = cell.load().clusters.iter().map(|one| one.endpoints.len()).collect();
    assert_eq!(counts, [2, 1]);
    drain.advance(Phase::Stopped);
    tokio::time::timeout(limit, running).await.unwrap().unwrap();
}
