//! The part in the store as it is in force.

use serde_json::{Map, Value, json};

use super::{object, put, put_list};
use crate::{
    config::{
        sections::{keyspaces::LEVELS, mesh::NO_DIR, store::MODES},
        value::{show_duration, word_for},
    },
    store::{Backend, EtcdParams, Keyspace, Mode, Params, Writer},
};

/// With the keys: whoever shows it masks them.
pub(super) fn section(params: &Params) -> Value {
    let Params {
        backend,
        mode,
        bind,
        advertise,
        data_dir,
        bootstrap_expect,
        timing,
        patience,
        keys,
        allow,
        keyspaces,
    } = params;
    let kept = data_dir.as_ref().map(|directory| directory.display().to_string());
    if let Backend::Etcd(etcd) = backend {
        let mut fields = object(json!({ "backend": "etcd", "etcd": in_etcd(etcd) }));
        put(&mut fields, "data_dir", kept);
        return Value::Object(fields);
    }
    let mut fields = object(json!({
        "mode": word_for(mode, &MODES),
        "bind": bind.to_string(),
        "bootstrap_expect": bootstrap_expect,
        "heartbeat": show_duration(timing.heartbeat),
        "election_timeout": show_duration(timing.election_timeout),
        "dead_after": show_duration(patience.dead_after),
        "stable_after": show_duration(patience.stable_after),
    }));
    let kept = kept.or_else(|| (*mode == Mode::Server).then(|| NO_DIR.to_owned()));
    put(&mut fields, "data_dir", kept);
    put(&mut fields, "advertise", advertise.map(|address| address.to_string()));
    let mut shown = keys.keys.iter().map(|key| key.expose().to_owned());
    put(&mut fields, "encryption_key", shown.next());
    let plain = keys.reads_plain.then(|| NO_DIR.to_owned());
    put_list(&mut fields, "older_encryption_keys", shown.chain(plain));
    put_list(
        &mut fields,
        "allow",
        allow.iter().map(|writer| match writer {
            Writer::Service(name) => name.as_ref().to_owned(),
            Writer::ServicePrefix(prefix) => format!("{prefix}*"),
            Writer::Id(id) => id.to_string(),
        }),
    );
    let spaces: Map<String, Value> =
        keyspaces.iter().map(|(name, space)| (name.to_owned(), keyspace(space))).collect();
    put(&mut fields, "keyspaces", (!spaces.is_empty()).then_some(spaces));
    Value::Object(fields)
}

fn in_etcd(params: &EtcdParams) -> Value {
    let EtcdParams { endpoints, prefix, login, tls, timeout } = params;
    let endpoints: Vec<&str> = endpoints.iter().map(|endpoint| &**endpoint).collect();
    let mut fields = object(json!({
        "endpoints": endpoints,
        "prefix": &**prefix,
        "timeout": show_duration(*timeout),
    }));
    put(&mut fields, "username", login.as_ref().map(|login| login.user.to_string()));
    put(&mut fields, "password", login.as_ref().map(|login| login.password.expose().to_owned()));
    if let Some(tls) = tls {
        let mut files = object(json!({ "ca": tls.ca.display().to_string() }));
        put(&mut files, "cert", tls.own.as_ref().map(|own| own.cert.display().to_string()));
        put(&mut files, "key", tls.own.as_ref().map(|own| own.key.display().to_string()));
        put(&mut files, "server_name", tls.server_name.as_ref().map(ToString::to_string));
        fields.insert("tls".to_owned(), Value::Object(files));
    }
    Value::Object(fields)
}

fn keyspace(Keyspace { level, spec }: Keyspace) -> Value {
    json!({
        "level": word_for(&level, &LEVELS),
        "replicas": spec.replicas,
        "quorum_reads": spec.reads,
        "quorum_writes": spec.writes,
        "read_timeout": show_duration(spec.read_timeout),
        "write_timeout": show_duration(spec.write_timeout),
    })
}
