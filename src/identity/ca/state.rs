//! What a certificate authority remembers: its roots, what they signed, what was revoked, who may join. Plain values and
//! the questions that they answer; what changes them is in the files named after the verbs.

use std::{collections::HashSet, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Stamp,
    names::{Fingerprint, Node, Serial, TokenId},
};
use crate::types::{SpiffeId, TrustDomain};

/// Everything, in one file, so that one rename is one change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    #[serde(with = "text")]
    pub(super) trust_domain: TrustDomain,
    pub(super) leaf_ttl_s: u64,
    pub(super) root_ttl_s: u64,
    pub(super) crl_ttl_s: u64,
    /// One, or two during a rotation, the older first.
    pub(super) roots: Vec<Root>,
    /// Generation of the root that signs.
    pub(super) signing: u32,
    pub(super) crl: Crl,
    pub(super) leaves: Vec<Leaf>,
    pub(super) tokens: Vec<Token>,
}

/// A root that is trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    /// Counts from 1 over the life of the authority.
    pub(super) generation: u32,
    #[serde(with = "text")]
    pub(super) not_before: Stamp,
    #[serde(with = "text")]
    pub(super) not_after: Stamp,
    #[serde(with = "text")]
    pub(super) fingerprint: Fingerprint,
    /// The certificate in PEM.
    pub(super) certificate: String,
}

/// The lists of revoked certificates in force, and from what they were made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Crl {
    /// Grows with each list, never goes back.
    pub(super) number: u64,
    #[serde(with = "text")]
    pub(super) made_at: Stamp,
    #[serde(with = "text")]
    pub(super) next_update: Stamp,
    /// Generations of the roots that signed one each.
    pub(super) roots: Vec<u32>,
    #[serde(with = "texts")]
    pub(super) revoked: Vec<Serial>,
    /// One list for each root, in PEM, one after the other.
    pub(super) pem: String,
}

/// A certificate that the authority signed for a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// Its number.
    #[serde(with = "text")]
    pub serial: Serial,
    /// Whom it names.
    #[serde(with = "text")]
    pub identity: SpiffeId,
    /// Which instance it is for. Without a name all instances of a service count as one.
    #[serde(with = "maybe_text", skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Node>,
    /// Generation of the root that signed it.
    pub root: u32,
    /// Generation of the newest root in the bundle that was handed out with it.
    pub newest_root: u32,
    /// It was sent over the network, and nobody has used it since: it may never have arrived.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub unconfirmed: bool,
    /// When it was signed.
    #[serde(with = "text")]
    pub issued_at: Stamp,
    /// Its end.
    #[serde(with = "text")]
    pub not_after: Stamp,
    /// When and why it was revoked, if it was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revoked: Option<Revocation>,
}

impl Leaf {
    /// Whether somebody may still present it: neither expired nor revoked.
    #[must_use]
    pub fn is_live(&self, now: Stamp) -> bool {
        self.not_after > now && self.revoked.is_none()
    }

    pub(super) fn instance(&self) -> (&SpiffeId, Option<&Node>) {
        (&self.identity, self.node.as_ref())
    }
}

/// A certificate's end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// When.
    #[serde(with = "text")]
    pub at: Stamp,
    /// Why.
    #[serde(with = "text")]
    pub reason: Reason,
}

/// Why a certificate is revoked (RFC 5280 §5.3.1, without the reasons that do not concern leaves).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody said.
    Unspecified,
    /// Somebody else has the key.
    KeyCompromise,
    /// Another one took its place.
    Superseded,
    /// The service is no more.
    CessationOfOperation,
    /// The service may no longer be who it was.
    PrivilegeWithdrawn,
}

impl Reason {
    const ALL: [(Self, &str); 5] = [
        (Self::Unspecified, "unspecified"),
        (Self::KeyCompromise, "key-compromise"),
        (Self::Superseded, "superseded"),
        (Self::CessationOfOperation, "cessation-of-operation"),
        (Self::PrivilegeWithdrawn, "privilege-withdrawn"),
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(reason, _)| reason == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// No such reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reason is unspecified, key-compromise, superseded, cessation-of-operation or privilege-withdrawn")]
pub struct ReasonError;

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, ReasonError> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(reason, _)| *reason).ok_or(ReasonError)
    }
}

/// A permission to join that was handed out. The secret itself is known to its bearer only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its name.
    #[serde(with = "text")]
    pub id: TokenId,
    /// SHA-256 over the secret. The secret is of 256 random bits, so nothing slower is needed.
    #[serde(with = "text")]
    pub(super) hash: Fingerprint,
    /// Who may be joined with it.
    #[serde(with = "text")]
    pub identity: SpiffeId,
    /// Generation of the newest root that its bearer will trust.
    pub newest_root: u32,
    /// When it was made.
    #[serde(with = "text")]
    pub created_at: Stamp,
    /// Its end.
    #[serde(with = "text")]
    pub expires_at: Stamp,
    /// When it was used, if it was.
    #[serde(with = "maybe_text", skip_serializing_if = "Option::is_none", default)]
    pub spent_at: Option<Stamp>,
}

/// How far a change of roots has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is one root.
    Steady,
    /// A second root is trusted; the old one signs.
    Trust,
    /// The new root signs; the old one is still trusted.
    Reissue,
}

impl Phase {
    /// As text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Trust => "trust",
            Self::Reissue => "reissue",
        }
    }
}

impl State {
    /// What a state of this version cannot be, whoever wrote it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let generations: Vec<u32> = self.roots.iter().map(|root| root.generation).collect();
        if !(1..=2).contains(&generations.len()) || !generations.is_sorted_by(|a, b| a < b) {
            return Err("it has not one root or two in order");
        }
        if !generations.contains(&self.signing) {
            return Err("the root that signs is not there");
        }
        Ok(())
    }

    pub(super) fn phase(&self) -> Phase {
        match (self.roots.len(), self.roots.first()) {
            (0 | 1, _) => Phase::Steady,
            (_, Some(oldest)) if oldest.generation == self.signing => Phase::Trust,
            (_, _) => Phase::Reissue,
        }
    }

    pub(super) fn newest_root(&self) -> u32 {
        self.roots.last().map_or(self.signing, |root| root.generation)
    }

    /// All trusted roots in PEM.
    pub(super) fn bundle(&self) -> String {
        self.roots.iter().map(|root| root.certificate.as_str()).collect()
    }

    pub(super) fn leaf_ttl(&self) -> Duration {
        Duration::from_secs(self.leaf_ttl_s)
    }

    /// Live leaves of the root of `generation` whose instance has no live one of a later root.
    pub(super) fn dependents(&self, generation: u32, now: Stamp) -> Vec<Leaf> {
        self.left_behind(now, |leaf| leaf.root <= generation, |leaf| leaf.root > generation)
    }

    /// Live leaves whose instance was never handed the newest root.
    pub(super) fn unaware(&self, now: Stamp) -> Vec<Leaf> {
        let newest = self.newest_root();
        self.left_behind(now, |leaf| leaf.newest_root < newest, |leaf| leaf.newest_root == newest)
    }

    fn left_behind(
        &self,
        now: Stamp,
        is_old: impl Fn(&Leaf) -> bool,
        is_new: impl Fn(&Leaf) -> bool,
    ) -> Vec<Leaf> {
        let live = || self.leaves.iter().filter(|leaf| leaf.is_live(now));
        let moved = live().filter(|leaf| is_new(leaf) && !leaf.unconfirmed);
        let moved: HashSet<_> = moved.map(Leaf::instance).collect();
        let behind = live().filter(|leaf| is_old(leaf) && !moved.contains(&leaf.instance()));
        behind.cloned().collect()
    }

    /// Forgets what has ended so long ago that no clock can still take it for valid.
    pub(super) fn prune(&mut self, now: Stamp) {
        let kept_since = now.minus(KEPT_AFTER_END);
        let generations: Vec<u32> = self.roots.iter().map(|root| root.generation).collect();
        self.leaves.retain(|leaf| leaf.not_after > kept_since && generations.contains(&leaf.root));
        self.tokens.retain(|token| token.expires_at > kept_since);
        if self.leaves.len() > CROWDED {
            self.leaves.retain(|leaf| leaf.not_after > now);
        }
    }
}

/// Half of what an authority can keep: then room for what is to come counts more than what was yesterday.
const CROWDED: usize = 50_000;
/// For whoever looks what happened yesterday.
const KEPT_AFTER_END: Duration = Duration::from_secs(24 * 3600);

/// A value as the text that it shows itself as.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The same, of what may be missing.
mod maybe_text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// The same, of a list.
mod texts {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(
        values: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}
