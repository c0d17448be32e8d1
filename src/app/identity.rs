//! What the admin API tells of the sidecar's identity: who it is, until when, whom it trusts, and what is wrong with the
//! certificates. Keys are not told; following the files is done in `certificates`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::backend::rfc3339;
use crate::{
    admin::API,
    identity::{Facts, MeshTls, ca::Fingerprint, certificate_pem},
    proxy::MtlsMode,
};

/// What was wrong with the certificates that came last, until better ones come. Shared by whoever follows the files and
/// whoever tells of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastProblem(Arc<Mutex<Option<(SystemTime, String)>>>);

impl LastProblem {
    /// Notes a problem; says whether it is another one than before.
    pub(crate) fn note(&self, problem: &str, now: SystemTime) -> bool {
        // Replaced as a whole; a panic in between leaves the old one.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|(_, known)| known == problem) {
            return false;
        }
        *last = Some((now, problem.to_owned()));
        true
    }

    /// There is none any more.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn told(&self) -> Option<Value> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(at, text)| json!({ "at": rfc3339(*at), "text": text }))
    }
}

/// Who the sidecar is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) mesh: Arc<MeshTls>,
    pub(crate) problem: LastProblem,
}

impl Identity {
    /// Why nobody believes the certificate at `now`; `None` if they do.
    pub(crate) fn invalidity(&self, now: SystemTime) -> Option<String> {
        let Facts { not_before, not_after, .. } = self.mesh.material().leaf.facts;
        if now > not_after {
            return Some(format!("the certificate expired at {}", rfc3339(not_after)));
        }
        (now < not_before).then(|| format!("the certificate is not valid before {}", rfc3339(not_before)))
    }

    /// For the status.
    pub(crate) fn status(&self, mode: MtlsMode, now: SystemTime) -> Value {
        let material = self.mesh.material();
        let facts = &material.leaf.facts;
        let roots: Vec<String> = material.roots().map(|der| Fingerprint::of(der).to_string()).collect();
        json!({
            "spiffe_id": facts.id.as_str(),
            "trust_domain": self.mesh.domain().as_str(),
            "mode": word(mode),
            "serial": facts.serial,
            "not_before": rfc3339(facts.not_before),
            "not_after": rfc3339(facts.not_after),
            "remaining_seconds": facts.not_after.duration_since(now).unwrap_or(Duration::ZERO).as_secs(),
            "roots": roots.len(),
            "root_fingerprints_sha256": roots,
            "trust_epoch": self.mesh.epoch(),
            "problem": self.problem.told(),
        })
    }

    /// What it presents and trusts, without the key.
    pub(crate) fn certificates(&self) -> Value {
        let material = self.mesh.material();
        let chain: String = material.leaf.chain().map(certificate_pem).collect();
        let roots: String = material.roots().map(certificate_pem).collect();
        json!({
            "apiVersion": API,
            "kind": "Certificates",
            "spiffe_id": material.leaf.facts.id.as_str(),
            "chain_pem": chain,
            "roots_pem": roots,
        })
    }
}

fn word(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Disabled => "disabled",
        MtlsMode::Permissive => "permissive",
        MtlsMode::Strict => "strict",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_new_once_and_told_until_it_is_gone() {
        let (problem, at) = (LastProblem::default(), SystemTime::UNIX_EPOCH);
        let elsewhere = problem.clone();
        assert!(problem.note("half a file", at) && !problem.note("half a file", at + Duration::from_secs(9)));
        let told = elsewhere.told().unwrap();
        assert_eq!(told, json!({ "at": "1970-01-01T00:00:00Z", "text": "half a file" }));
        assert!(problem.note("another key", at));
        problem.clear();
        assert_eq!(elsewhere.told(), None);
    }
}
