//! `store`: how this sidecar takes part in the replicated store of its mesh.

use std::path::PathBuf;

use super::{
    etcd,
    intentions::Identities,
    keyspaces,
    listeners::Bound,
    mesh::{NO_DIR, reachable},
    mtls,
};
use crate::{
    config::{
        codes, defaults,
        fields::{Fields, each},
        form,
        report::{Report, error, warning},
        schema,
        tree::{Content, Node},
        value,
    },
    membership,
    store::{
        Backend, Keyspaces, Mode, Params, StoreKey, StoreKeys, Timing, Writer, core::autopilot::Patience,
    },
};

pub(in crate::config) const MODES: [(&str, Mode); 2] = [("server", Mode::Server), ("client", Mode::Client)];

/// Who keeps the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeper {
    Embedded,
    Etcd,
}

const BACKENDS: [(&str, Keeper); 2] = [("embedded", Keeper::Embedded), ("etcd", Keeper::Etcd)];

/// What only a store of the sidecars has.
const OF_SIDECARS: [&str; 9] = [
    "mode",
    "bind",
    "advertise",
    "bootstrap_expect",
    "encryption_key",
    "older_encryption_keys",
    "heartbeat",
    "election_timeout",
    "keyspaces",
];

/// Heartbeats that a voter misses at least before it asks to lead: fewer would make one lost packet an election.
const LEAST_RATIO: u32 = 3;

/// `None` without the section, or if something about it is reported as wrong.
pub(in crate::config) fn read(
    root: &Fields<'_>,
    mesh: Option<&membership::Params>,
    bound: &mut Vec<Bound>,
    report: &mut Report,
) -> Option<Params> {
    let section = root.get("store")?;
    let fields = Fields::open(section, &schema::STORE, report)?;
    let keeper = fields
        .or("backend", Keeper::Embedded, report, |node, report| value::word(node, &BACKENDS, &[], report));
    if keeper == Keeper::Etcd {
        return in_etcd(&fields, mesh, report);
    }
    if let Some(node) = fields.get("etcd") {
        report.add::<()>(
            error(codes::CHOICE, node.span, "`etcd` is for `backend: etcd`")
                .label("the sidecars keep this store among themselves")
                .help("add `backend: etcd`, or remove this"),
        );
    }
    if root.get("mesh").is_none() {
        report.add::<()>(
            error(codes::MISSING_KEY, fields.span, "`store` needs `mesh`")
                .label("those who share a store find each other as members of a mesh")
                .help("add `mesh: { join: [\"10.0.0.1:7946\"], gossip_key: ${file:/etc/outrigger/gossip.key} }`")
                .of_mapping(),
        );
    }
    let mode =
        fields.or("mode", Mode::default(), report, |node, report| value::word(node, &MODES, &[], report));
    let bind = fields.or("bind", defaults::STORE_BIND, report, form::listen_address);
    let span = fields.get("bind").map_or(fields.span, |node| node.span);
    bound.push(Bound { name: "store.bind", address: bind, span });
    let advertise = fields.optional("advertise", report, reachable);
    let expect = fields.or("bootstrap_expect", defaults::STORE_EXPECT, report, |node, report| {
        let count = value::number(node, 1..=5, report)?;
        if count % 2 == 0 {
            return report.add(
                error(
                    codes::MALFORMED,
                    node.span,
                    format!("{count} voters bear no more than {} do", count - 1),
                )
                .label("expected 1, 3 or 5")
                .help("3 bear the loss of one, 5 of two; 1 is for development"),
            );
        }
        usize::try_from(count).ok()
    });
    let data_dir = data_dir(&fields, mode, report);
    let timing = timing(&fields, report);
    let patience = patience(&fields, report);
    let keys = keys(&fields, report);
    let allow = fields.or("allow", Vec::new(), report, |node, report| {
        let writers = each(node, "services", report, writer)?;
        match &node.content {
            Content::List(items) if items.is_empty() => report.add(
                error(codes::MISSING_KEY, node.span, "the list of those who may write is empty")
                    .label("needs at least one")
                    .help("leave the key out if every member of the mesh may write"),
            ),
            _ => Some(writers),
        }
    });
    let keyspaces = fields.or("keyspaces", Keyspaces::default(), report, keyspaces::read);
    let backend = Backend::Embedded;
    Some(Params {
        backend,
        mode,
        bind,
        advertise,
        data_dir,
        bootstrap_expect: expect,
        timing,
        patience,
        keys,
        allow,
        keyspaces,
    })
}

/// A store that an etcd keeps. It needs no mesh: its members are named.
fn in_etcd(fields: &Fields<'_>, mesh: Option<&membership::Params>, report: &mut Report) -> Option<Params> {
    if let (false, Some(node)) = (Backend::HAS_ETCD, fields.get("backend")) {
        return report.add(
            error(codes::NOT_BUILT, node.span, "this binary was built without etcd")
                .label("needs the cargo feature `etcd`")
                .help("build it with `cargo build --release --features etcd`, which needs protoc"),
        );
    }
    for (key, node) in OF_SIDECARS.iter().filter_map(|key| fields.get(key).map(|node| (key, node))) {
        let message = format!("`{key}` has no effect with `backend: etcd`");
        report.add::<()>(warning(codes::NO_EFFECT, node.span, message).label("etcd keeps the store"));
    }
    let cluster = mesh.map_or(defaults::MESH_CLUSTER, |mesh| &mesh.cluster);
    let node = fields.require("etcd", "etcd: { endpoints: [\"http://10.0.0.1:2379\"] }", report);
    let etcd = node.and_then(|node| etcd::read(node, cluster, report));
    // Where it is kept what was served last.
    let data_dir = fields.get("data_dir").and_then(|node| directory(node, report));
    Some(Params {
        backend: Backend::Etcd(etcd?),
        mode: Mode::Client,
        bind: defaults::STORE_BIND,
        advertise: None,
        data_dir,
        bootstrap_expect: defaults::STORE_EXPECT,
        timing: defaults::STORE_TIMING,
        patience: Patience::USUAL,
        keys: StoreKeys::default(),
        allow: Vec::new(),
        keyspaces: Keyspaces::default(),
    })
}

/// What the section means together with others.
pub(in crate::config) fn check(
    root: &Fields<'_>,
    mesh: Option<&membership::Params>,
    store: Option<&Params>,
    identities: Identities,
    report: &mut Report,
) {
    let (Some(store), Some(section)) = (store, root.get("store")) else { return };
    // What a voter has promised is bound to who it is: it must not forget one of the two alone.
    let forgets_half = mesh.is_some_and(|mesh| mesh.data_dir.is_some() != store.data_dir.is_some());
    if store.mode == Mode::Server && forgets_half {
        report.add::<()>(
            error(codes::FORGETS_HALF, section.span, "`mesh.data_dir` and `store.data_dir` belong together")
                .label(
                    "a server that forgot its log and not its name could vote twice, or the other way round",
                )
                .help("name a directory for both, or write `none` for both")
                .of_mapping(),
        );
    }
    if identities == Identities::None && !store.allow.is_empty() {
        report.add::<()>(
            error(codes::STORE_EXPOSED, section.span, "`store.allow` needs mTLS")
                .label("without it nobody proves which service it is of")
                .help("switch `mtls` on, or leave `allow` out")
                .of_mapping(),
        );
    }
    // Clients listen as well, but have nothing to change.
    if store.mode == Mode::Server && identities == Identities::None && !store.bind.ip().is_loopback() {
        report.add::<()>(
            error(
                codes::STORE_EXPOSED,
                section.span,
                "without mTLS everybody could change what is in the store",
            )
            .label(format!("whoever reaches `{}` would be believed", store.bind))
            .help("switch `mtls` on, or use `bind: \"127.0.0.1:7947\"`")
            .of_mapping(),
        );
    }
}

fn timing(fields: &Fields<'_>, report: &mut Report) -> Timing {
    let default = defaults::STORE_TIMING;
    let heartbeat = fields.or("heartbeat", default.heartbeat, report, |node, report| {
        value::duration_from(node, defaults::STORE_SHORTEST_HEARTBEAT, report)
    });
    let election_timeout = fields.or(
        "election_timeout",
        default.election_timeout.max(heartbeat * LEAST_RATIO),
        report,
        |node, report| {
            let timeout = value::duration(node, report)?;
            if timeout >= heartbeat * LEAST_RATIO {
                return Some(timeout);
            }
            let least = value::show_duration(heartbeat * LEAST_RATIO);
            report.add(
                error(codes::MALFORMED, node.span, "`election_timeout` is shorter than three heartbeats")
                    .label("a lost packet would be an election")
                    .help(format!("at least {least}, or a shorter `heartbeat`")),
            )
        },
    );
    Timing { heartbeat, election_timeout }
}

fn patience(fields: &Fields<'_>, report: &mut Report) -> Patience {
    let usual = Patience::USUAL;
    let mut wait = |key, usual, least| {
        fields.or(key, usual, report, |node, report| {
            let wait = value::duration_from(node, least, report)?;
            if wait <= defaults::STORE_LONGEST_PATIENCE {
                return Some(wait);
            }
            let most = value::show_duration(defaults::STORE_LONGEST_PATIENCE);
            report.add(
                error(codes::OUT_OF_RANGE, node.span, format!("must be at most {most}")).label("too long"),
            )
        })
    };
    Patience {
        dead_after: wait("dead_after", usual.dead_after, defaults::STORE_LEAST_DEAD_AFTER),
        stable_after: wait("stable_after", usual.stable_after, defaults::STORE_LEAST_STABLE_AFTER),
    }
}

/// A directory; servers must say whether they keep anything.
fn data_dir(fields: &Fields<'_>, mode: Mode, report: &mut Report) -> Option<PathBuf> {
    let Some(node) = fields.get("data_dir") else {
        if mode == Mode::Server {
            report.add::<()>(
                error(codes::MISSING_KEY, fields.span, "`data_dir` is missing in `store`")
                    .label("a server keeps what the mesh shares")
                    .help("add `data_dir: /var/lib/outrigger/store`, or `data_dir: none` to keep it in memory only")
                    .of_mapping(),
            );
        }
        return None;
    };
    if mode == Mode::Client {
        let message = "`data_dir` has no effect for a client of the store";
        report.add::<()>(warning(codes::NO_EFFECT, node.span, message).label("only servers keep the log"));
    }
    directory(node, report)
}

fn directory(node: &Node, report: &mut Report) -> Option<PathBuf> {
    match &node.content {
        Content::Scalar(scalar) if scalar.text == NO_DIR => None,
        _ => mtls::path(node, report),
    }
}

/// The keys of its files; one that is older may be `none`, for what was not encrypted.
fn keys(fields: &Fields<'_>, report: &mut Report) -> StoreKeys {
    let newest = fields.optional("encryption_key", report, key);
    let older = fields.or("older_encryption_keys", Vec::new(), report, |node, report| {
        each(node, "keys", report, |node, report| match &node.content {
            Content::Scalar(scalar) if scalar.text == NO_DIR => Some(None),
            _ => key(node, report).map(Some),
        })
    });
    if let (None, Some(node)) = (&newest, fields.get("older_encryption_keys")) {
        let message = "`older_encryption_keys` has no effect without `encryption_key`";
        report.add::<()>(warning(codes::NO_EFFECT, node.span, message).label("nothing is encrypted"));
        return StoreKeys::default();
    }
    let reads_plain = older.contains(&None);
    let keys: Vec<StoreKey> = newest.into_iter().chain(older.into_iter().flatten()).collect();
    let mut ids: Vec<u8> = keys.iter().map(StoreKey::id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        let span = fields.get("older_encryption_keys").map_or(fields.span, |node| node.span);
        report.add::<()>(
            error(codes::MALFORMED, span, "two encryption keys cannot be told apart")
                .label("records call both by the same byte")
                .help("make another key; the older ones have to stay as they are"),
        );
    }
    StoreKeys { keys, reads_plain }
}

/// One who may write.
fn writer(node: &Node, report: &mut Report) -> Option<Writer> {
    let text = value::text(node, report)?;
    let service = text.strip_suffix('*');
    match service {
        Some(prefix) if form::is_name(prefix, "") => return Some(Writer::ServicePrefix(prefix.into())),
        None if form::is_name(text, "") => return Some(Writer::Service(text.into())),
        _ => {}
    }
    if let Ok(id) = text.parse() {
        return Some(Writer::Id(id));
    }
    report.add(
        error(codes::MALFORMED, node.span, "this is nobody who could write")
            .label("neither a service nor an identity")
            .help("`web`, `batch-*`, or `spiffe://mesh.example/service/web`"),
    )
}

/// By its digits alone, whatever YAML takes them for.
fn key(node: &Node, report: &mut Report) -> Option<StoreKey> {
    let key = match &node.content {
        Content::Scalar(scalar) => StoreKey::parse(&scalar.text),
        Content::List(_) | Content::Map(_) => None,
    };
    key.or_else(|| {
        report.add(
            error(codes::MALFORMED, node.span, "this is no encryption key")
                .label("expected 64 hexadecimal digits")
                .help("`outrigger keyring generate > /etc/outrigger/store.key` makes one; name it as `${file:/etc/outrigger/store.key}`"),
        )
    })
}
