//! `mesh`: how this sidecar takes part in the gossip by which sidecars find each other.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{listeners::Bound, mtls, services::MAX_WEIGHT};
use crate::{
    config::{
        Environment, codes, defaults,
        fields::{Fields, each},
        form,
        report::{Report, error, warning},
        schema,
        tree::{Content, Node},
        value,
    },
    membership::{GossipKey, GossipKeyError, Params, Profile, Seed},
};

/// The kernel's name of this machine.
pub(in crate::config) const HOST_NAME: &str = "/proc/sys/kernel/hostname";

pub(in crate::config) const PROFILES: [(&str, Profile); 3] =
    [("local", Profile::Local), ("lan", Profile::Lan), ("wan", Profile::Wan)];

/// Stands before a name that is looked up as SRV records.
pub(in crate::config) const SRV: &str = "dns+srv:";

/// `None` without the section, or if something about it is reported as wrong. `takes_requests` says whether others can
/// reach the application through this sidecar.
pub(in crate::config) fn read(
    root: &Fields<'_>,
    takes_requests: bool,
    environment: &dyn Environment,
    bound: &mut Vec<Bound>,
    report: &mut Report,
) -> Option<Params> {
    let section = root.get("mesh")?;
    let fields = Fields::open(section, &schema::MESH, report)?;
    let node = match fields.get("node") {
        Some(node) => form::node_name(node, report),
        None => host_name(&fields, environment, report),
    };
    let cluster = fields.or("cluster", Arc::from(defaults::MESH_CLUSTER), report, form::mesh_name);
    let bind = fields.or("bind", defaults::MESH_BIND, report, form::listen_address);
    let span = fields.get("bind").map_or(fields.span, |node| node.span);
    bound.push(Bound { name: "mesh.bind", address: bind, span });
    let advertise = fields.optional("advertise", report, reachable);
    let advertise_endpoint = fields.optional("advertise_endpoint", report, reachable);
    if let (Some(node), false) = (fields.get("advertise_endpoint"), takes_requests) {
        let message = "`advertise_endpoint` has no effect without `listeners.inbound`";
        report.add::<()>(warning(codes::NO_EFFECT, node.span, message).label("nobody would answer there"));
    }
    let join = fields
        .or("join", Vec::new(), report, |node, report| each(node, "addresses of members", report, seed));
    let key = gossip_key(&fields, report);
    let profile = fields
        .or("profile", Profile::default(), report, |node, report| value::word(node, &PROFILES, &[], report));
    let data_dir = data_dir(&fields, report);
    let weight = fields.or("weight", defaults::MESH_WEIGHT, report, |node, report| {
        value::number(node, 1..=u64::from(MAX_WEIGHT), report).and_then(|weight| weight.try_into().ok())
    });
    Some(Params {
        node: node?,
        cluster,
        bind,
        advertise,
        advertise_endpoint,
        join,
        key: key?,
        profile,
        data_dir,
        weight,
    })
}

/// What the machine is called, if a node may be called like this.
fn host_name(fields: &Fields<'_>, environment: &dyn Environment, report: &mut Report) -> Option<Arc<str>> {
    let name = environment.file(Path::new(HOST_NAME)).unwrap_or_default();
    let name = name.trim();
    if form::is_name(name, "") {
        return Some(name.into());
    }
    report.add(
        error(codes::MISSING_KEY, fields.span, "`node` is missing in `mesh`")
            .label("the name of this machine cannot be the name of a node")
            .help("add `node: web-1`, a name that nobody else in the mesh has")
            .of_mapping(),
    )
}

/// `ip:port` at which others reach this sidecar: neither every address nor any port.
pub(super) fn reachable(node: &Node, report: &mut Report) -> Option<SocketAddr> {
    let address = form::listen_address(node, report)?;
    let label = match address {
        _ if address.port() == 0 => "port 0 stands for any port",
        _ if address.ip().is_unspecified() => "this address stands for all addresses",
        _ => return Some(address),
    };
    report.add(
        error(codes::MALFORMED, node.span, format!("nobody can connect to `{address}`"))
            .label(label)
            .help("for example `10.0.0.9:7946`"),
    )
}

/// `ip:port`, `host:port` or `dns+srv:_service._proto.name`.
fn seed(node: &Node, report: &mut Report) -> Option<Seed> {
    let scalar = value::text_scalar(node, "an address", "10.0.0.1:7946", report)?;
    let text = scalar.text.as_str();
    let parsed = match (text.parse::<SocketAddr>(), text.strip_prefix(SRV)) {
        (Ok(address), _) => {
            let can_be = address.port() != 0 && !address.ip().is_unspecified();
            can_be.then_some(Seed::Address(address))
        }
        (Err(_), Some(name)) => {
            let is_service = form::is_host(name) && name.starts_with('_') && name.contains("._");
            is_service.then(|| Seed::Service { name: name.to_ascii_lowercase().into() })
        }
        (Err(_), None) => text.rsplit_once(':').and_then(|(name, port)| {
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let is_name = form::is_host(name) && name.contains(|c: char| c.is_ascii_alphabetic());
            is_name.then(|| Seed::Name { name: name.to_ascii_lowercase().into(), port })
        }),
    };
    parsed.or_else(|| {
        let message = format!("{} is not an address of a member", value::shown(scalar));
        report.add(
            error(codes::MALFORMED, node.span, message)
                .label("expected `ip:port`, `name:port` or `dns+srv:` and a name of SRV records")
                .help("for example `10.0.0.1:7946`, `seed.internal:7946` or `dns+srv:_mesh._tcp.internal`"),
        )
    })
}

/// The key that all members have. Messages do not show it.
fn gossip_key(fields: &Fields<'_>, report: &mut Report) -> Option<GossipKey> {
    const HELP: &str = "`outrigger keyring generate > /etc/outrigger/gossip.key` makes one, which all members need; name it as \
                        `gossip_key: ${file:/etc/outrigger/gossip.key}`";
    let Some(node) = fields.get("gossip_key") else {
        return report.add(
            error(codes::MISSING_KEY, fields.span, "`gossip_key` is missing in `mesh`")
                .label("what members tell each other is encrypted")
                .help(HELP)
                .of_mapping(),
        );
    };
    // By its digits alone, whatever YAML takes them for.
    let key = match &node.content {
        Content::Scalar(scalar) => GossipKey::parse(&scalar.text),
        Content::List(_) | Content::Map(_) => Err(GossipKeyError),
    };
    key.ok().or_else(|| {
        report.add(
            error(codes::MALFORMED, node.span, "`gossip_key` is no gossip key")
                .label("expected 64 hexadecimal digits")
                .help(HELP),
        )
    })
}

/// A directory, or `none`, which means the same as nothing but was meant.
fn data_dir(fields: &Fields<'_>, report: &mut Report) -> Option<PathBuf> {
    let Some(node) = fields.get("data_dir") else {
        report.add::<()>(
            warning(codes::FORGETFUL, fields.span, "`mesh` has no `data_dir`: each start is another member")
                .label("neither its identity nor its keyring is kept")
                .help("add `data_dir: /var/lib/outrigger/mesh`, or `data_dir: none` if that is meant")
                .of_mapping(),
        );
        return None;
    };
    match &node.content {
        Content::Scalar(scalar) if scalar.text == NO_DIR => None,
        _ => mtls::path(node, report),
    }
}

/// Stands for keeping nothing.
pub(in crate::config) const NO_DIR: &str = "none";
