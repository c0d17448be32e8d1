//! Who may write: asked by the server that proposes, of the identity that the caller has proved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::raft::Node;
use crate::{
    peer::rpc::Call,
    rt::clock,
    types::{Mono, SpiffeId},
};

/// One line of the log for so long: whoever is refused may ask again at once.
const QUIET: Duration = Duration::from_secs(10);

/// One who may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The sidecars of a service.
    Service(Arc<str>),
    /// Those of all services whose names begin so.
    ServicePrefix(Arc<str>),
    /// The bearer of an identity.
    Id(SpiffeId),
}

impl Writer {
    fn is(&self, caller: &SpiffeId) -> bool {
        match self {
            Self::Service(name) => caller.service() == Some(&**name),
            Self::ServicePrefix(prefix) => caller.service().is_some_and(|name| name.starts_with(&**prefix)),
            Self::Id(id) => caller == id,
        }
    }
}

/// All who may write.
#[derive(Debug)]
pub(super) struct Writers {
    /// `None` if nobody proves who it is, or all may.
    allow: Option<Vec<Writer>>,
    told: AtomicU64,
}

impl Writers {
    /// Those of the list; with an empty one, all.
    pub(super) fn new(allow: Vec<Writer>) -> Self {
        Self { allow: Some(allow).filter(|allow| !allow.is_empty()), told: AtomicU64::new(0) }
    }

    /// Why whoever makes `call` may not write; `None` if it may. Replicas always do: each of them may lead one day, and
    /// has all of it on its disk.
    pub(super) fn refuse(&self, call: &Call, node: &Node) -> Option<String> {
        let allow = self.allow.as_ref()?;
        let caller = call.caller.as_ref();
        if caller.is_some_and(|caller| allow.iter().any(|one| one.is(caller)))
            || (caller.is_some() && node.has_replica(call.from))
        {
            return None;
        }
        let who = caller.map_or_else(|| "whoever proves no identity".to_owned(), ToString::to_string);
        let why = format!("{who} may not write to the store (store.allow of its servers)");
        self.tell(call.from, &why);
        Some(why)
    }

    fn tell(&self, from: u64, why: &str) {
        let (now, last) = (clock::now(), self.told.load(Relaxed));
        let is_quiet = last != 0 && now.since(Mono::from_nanos(last)) < QUIET;
        if !is_quiet && self.told.compare_exchange(last, now.as_nanos(), Relaxed, Relaxed).is_ok() {
            tracing::warn!(node = %format_args!("{from:016x}"), why, "a write was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_a_service_the_beginning_of_names_or_one_identity() {
        let id = |path: &str| format!("spiffe://mesh.local{path}").parse::<SpiffeId>().unwrap();
        let one = Writer::Id(id("/ns/ci/sa/deploy"));
        for (writer, path, may) in [
            (Writer::Service("web".into()), "/service/web", true),
            (Writer::Service("web".into()), "/service/web2", false),
            (Writer::Service("web".into()), "/ns/web", false),
            (Writer::ServicePrefix("batch-".into()), "/service/batch-7", true),
            (Writer::ServicePrefix("batch-".into()), "/service/web", false),
            (one.clone(), "/ns/ci/sa/deploy", true),
            (one, "/service/deploy", false),
        ] {
            assert_eq!(writer.is(&id(path)), may, "{writer:?} {path}");
        }
    }
}
