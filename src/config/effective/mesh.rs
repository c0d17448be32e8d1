//! Membership of the mesh as it is in force.

use serde_json::{Value, json};

use super::{object, put, put_list};
use crate::{
    config::{
        sections::mesh::{NO_DIR, PROFILES, SRV},
        value::word_for,
    },
    membership::{Params, Seed},
};

/// With the key: whoever shows it masks it.
pub(super) fn section(params: &Params) -> Value {
    let Params { node, cluster, bind, advertise, advertise_endpoint, join, key, profile, data_dir, weight } =
        params;
    let data_dir = data_dir.as_ref().map_or_else(|| NO_DIR.to_owned(), |dir| dir.display().to_string());
    let mut fields = object(json!({
        "node": &**node,
        "cluster": &**cluster,
        "bind": bind.to_string(),
        "gossip_key": key.expose(),
        "profile": word_for(profile, &PROFILES),
        "data_dir": data_dir,
        "weight": weight,
    }));
    put(&mut fields, "advertise", advertise.map(|address| address.to_string()));
    put(&mut fields, "advertise_endpoint", advertise_endpoint.map(|address| address.to_string()));
    put_list(&mut fields, "join", join.iter().map(seed));
    Value::Object(fields)
}

fn seed(seed: &Seed) -> String {
    match seed {
        Seed::Address(address) => address.to_string(),
        Seed::Name { name, port } => format!("{name}:{port}"),
        Seed::Service { name } => format!("{SRV}{name}"),
    }
}
