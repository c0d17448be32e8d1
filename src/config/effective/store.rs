//! The part in the store as it is in force.

use serde_json::{Value, json};

use super::{object, put, put_list};
use crate::{
    config::{
        sections::{mesh::NO_DIR, store::MODES},
        value::{show_duration, word_for},
    },
    store::{Mode, Params},
};

/// With the keys: whoever shows it masks them.
pub(super) fn section(params: &Params) -> Value {
    let Params { mode, bind, advertise, data_dir, bootstrap_expect, timing, patience, keys } = params;
    let mut fields = object(json!({
        "mode": word_for(mode, &MODES),
        "bind": bind.to_string(),
        "bootstrap_expect": bootstrap_expect,
        "heartbeat": show_duration(timing.heartbeat),
        "election_timeout": show_duration(timing.election_timeout),
        "dead_after": show_duration(patience.dead_after),
        "stable_after": show_duration(patience.stable_after),
    }));
    let kept = data_dir.as_ref().map(|directory| directory.display().to_string());
    let kept = kept.or_else(|| (*mode == Mode::Server).then(|| NO_DIR.to_owned()));
    put(&mut fields, "data_dir", kept);
    put(&mut fields, "advertise", advertise.map(|address| address.to_string()));
    let mut shown = keys.keys.iter().map(|key| key.expose().to_owned());
    put(&mut fields, "encryption_key", shown.next());
    let plain = keys.reads_plain.then(|| NO_DIR.to_owned());
    put_list(&mut fields, "older_encryption_keys", shown.chain(plain));
    Value::Object(fields)
}
