//! What a member says about itself: nobody else may, so there is never a conflict to settle.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::types::Tags;

/// Longest name of a node, a service or a tag, and longest value of a tag, in bytes.
pub const MAX_NAME: usize = 64;
/// Most tags of a member.
const MAX_TAGS: usize = 16;
/// Most keys of a member's keyring.
pub const MAX_KEYS: usize = 8;

/// What one member says about itself. Whatever changes it is told to everybody with the next number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Facts {
    /// Name of the node; nobody else in the mesh may have it. `[a-zA-Z0-9._-]{1,64}`.
    pub node: Arc<str>,
    /// Name of the service that it stands beside, which is also whose identity it proves. `[a-zA-Z0-9._-]{1,64}`.
    pub service: Arc<str>,
    /// Where others reach the inbound listener of its sidecar; `None` if it takes no requests.
    pub endpoint: Option<SocketAddr>,
    /// What the application speaks.
    pub speaks: Speaks,
    /// Whether mutual TLS is spoken at `endpoint`.
    pub secured: bool,
    /// Its share beside other endpoints of the service, 1 to 1000.
    pub weight: u16,
    /// What it is called beside its name; `zone` and `version` among them.
    pub tags: Tags,
    /// What the check of its own application says.
    pub health: Health,
    /// It is about to leave: what is being answered is finished, nothing new should come.
    pub is_draining: bool,
    /// Requests that it is answering, as a power of two: 0 for none, else 1 + ⌊log₂⌋. Told now and then, not at each change.
    pub load: u8,
    /// Version of its program.
    pub version: Arc<str>,
    /// Its part in the store of the mesh; `None` if it has none.
    pub store: Option<StorePlace>,
    /// Marks of the gossip keys that it has; the first is the one that it seals with.
    pub keys: Vec<u32>,
}

/// The part of a member in the store of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorePlace {
    /// Where others reach it.
    pub address: SocketAddr,
    /// Whether it may become a voter.
    pub is_server: bool,
    /// The store that it has a part in; `None` as long as it has found none.
    pub founded: Option<u64>,
    /// Stands for what it keeps by quorum, and how: the same on all members, if they are configured alike.
    pub keyspaces: u32,
}

/// What an application speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speaks {
    /// HTTP/1.1 and HTTP/2, whatever is asked.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything: bytes.
    Tcp,
}

/// What the check of an application by its own sidecar says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// There is no check: it is trusted.
    #[default]
    Unchecked,
    /// It answers as it should.
    Healthy,
    /// It does not.
    Unhealthy,
}

/// The form in which facts are sent.
#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    node: String,
    service: String,
    endpoint: Option<SocketAddr>,
    speaks: Speaks,
    secured: bool,
    weight: u16,
    tags: Vec<(String, String)>,
    health: Health,
    is_draining: bool,
    load: u8,
    version: String,
    store: Option<StorePlace>,
    keys: Vec<u32>,
}

/// Facts that nobody would say about itself.
#[derive(Debug, thiserror::Error)]
#[error("a member says something about itself that cannot be: {0}")]
struct Implausible(&'static str);

impl TryFrom<Wire> for Facts {
    type Error = Implausible;

    fn try_from(wire: Wire) -> Result<Self, Implausible> {
        let name = |text: &str, what| if is_name(text) { Ok(text.into()) } else { Err(Implausible(what)) };
        if wire.tags.len() > MAX_TAGS || wire.keys.len() > MAX_KEYS {
            return Err(Implausible("too much"));
        }
        let is_printed = |text: &str| text.len() <= MAX_NAME && !text.chars().any(char::is_control);
        if !wire.tags.iter().all(|(name, value)| is_printed(name) && is_printed(value)) {
            return Err(Implausible("tags"));
        }
        let is_reachable = |address: SocketAddr| address.port() != 0 && !address.ip().is_unspecified();
        if !wire.endpoint.is_none_or(is_reachable) {
            return Err(Implausible("endpoint"));
        }
        if !wire.store.is_none_or(|store| is_reachable(store.address)) {
            return Err(Implausible("store"));
        }
        Ok(Self {
            node: name(&wire.node, "node")?,
            service: name(&wire.service, "service")?,
            endpoint: wire.endpoint,
            speaks: wire.speaks,
            secured: wire.secured,
            weight: wire.weight.clamp(1, 1000),
            tags: Tags::new(wire.tags),
            health: wire.health,
            is_draining: wire.is_draining,
            load: wire.load,
            version: name(&wire.version, "version")?,
            store: wire.store,
            keys: wire.keys,
        })
    }
}

impl From<Facts> for Wire {
    fn from(facts: Facts) -> Self {
        Self {
            node: facts.node.as_ref().to_owned(),
            service: facts.service.as_ref().to_owned(),
            endpoint: facts.endpoint,
            speaks: facts.speaks,
            secured: facts.secured,
            weight: facts.weight,
            tags: facts.tags.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            health: facts.health,
            is_draining: facts.is_draining,
            load: facts.load,
            version: facts.version.as_ref().to_owned(),
            store: facts.store,
            keys: facts.keys,
        }
    }
}

/// Whether `text` can be the name of a node or a service.
fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_part)
}

/// The load of `requests` that are being answered, as it is told.
#[must_use]
pub fn load(requests: u64) -> u8 {
    (u64::BITS - requests.leading_zeros()) as u8
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::membership::core) fn facts(node: &str) -> Facts {
        Facts {
            node: node.into(),
            service: "api".into(),
            endpoint: Some(([10, 0, 0, 1], 15006).into()),
            speaks: Speaks::Http1,
            secured: true,
            weight: 1,
            tags: Tags::new([("zone".to_owned(), "a".to_owned())]),
            health: Health::Healthy,
            is_draining: false,
            load: 0,
            version: "0.1.0".into(),
            store: Some(StorePlace {
                address: ([10, 0, 0, 1], 7947).into(),
                is_server: true,
                founded: Some(u64::MAX),
                keyspaces: u32::MAX,
            }),
            keys: vec![1],
        }
    }

    #[test]
    fn facts_read_back_as_they_were_written() {
        let facts = facts("web-1");
        let bytes = postcard::to_allocvec(&facts).unwrap();
        assert!(bytes.len() < 96, "{}", bytes.len());
        assert_eq!(postcard::from_bytes::<Facts>(&bytes).unwrap(), facts);
    }

    #[test]
    fn what_nobody_says_about_itself_is_refused() {
        let spoilt: [fn(&mut Facts); 8] = [
            |facts| facts.node = "".into(),
            |facts| facts.node = "a b".into(),
            |facts| facts.service = "x".repeat(65).into(),
            |facts| facts.tags = Tags::new([("zone".to_owned(), "a\nb".to_owned())]),
            |facts| facts.tags = Tags::new((0..17).map(|number| (number.to_string(), String::new()))),
            |facts| facts.endpoint = Some(([0, 0, 0, 0], 80).into()),
            |facts| facts.store.as_mut().unwrap().address = ([0, 0, 0, 0], 80).into(),
            |facts| facts.keys = vec![0; 9],
        ];
        for (at, spoil) in spoilt.iter().enumerate() {
            let mut facts = facts("web-1");
            spoil(&mut facts);
            let bytes = postcard::to_allocvec(&facts).unwrap();
            assert!(postcard::from_bytes::<Facts>(&bytes).is_err(), "{at}");
        }
    }

    #[test]
    fn load_is_told_in_powers_of_two() {
        assert_eq!([0, 1, 2, 3, 4, 1000].map(load), [0, 1, 2, 2, 3, 10]);
    }
}
