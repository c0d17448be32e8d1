//! The keys of an issuer: read from a JWKS (RFC 7517) or a secret, each for the algorithms of its kind, and the cell
//! in which they are replaced. Fetches nothing.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::digest;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::{Refusal, base64url, json};
use crate::{
    identity::{
        FileError,
        bounded_file::{self, Readers},
        external::ExternalTlsParams,
    },
    types::Live,
};

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A JWKS file; changes are noticed.
    File(PathBuf),
    /// A file whose content, without its last line break, is the secret of HS256. Must not be readable by others.
    Secret(PathBuf),
    /// A JWKS behind a URL.
    Url(Arc<UrlSource>),
}

/// A JWKS behind a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlSource {
    /// Name or address of the server.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// Path and query.
    pub target: Box<str>,
    /// How it proves who it is; `None` is plain HTTP.
    pub tls: Option<ExternalTlsParams>,
    /// Time between two looks.
    pub refresh: Duration,
}

impl UrlSource {
    /// Host and port as they stand in a URL: an IPv6 address in brackets, no port where it is the usual one.
    #[must_use]
    pub fn authority(&self) -> String {
        let usual = if self.tls.is_some() { 443 } else { 80 };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for UrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

/// Why there are no keys. The message is what is wrong, without any of the content.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// No JWKS.
    #[error("no key set: {0}")]
    Malformed(&'static str),
    /// None of its keys can verify a signature.
    #[error("none of its {0} keys can be used")]
    NothingUsable(usize),
    /// HS256 wants as many bits as its hash has (RFC 7518 §3.2).
    #[error("a secret of {0} bytes is too short, it must have at least 32")]
    ShortSecret(usize),
}

/// The keys of one issuer at one moment.
pub struct KeySet {
    keys: Vec<Key>,
    /// What it was read from.
    digest: Option<[u8; 32]>,
    /// Tells it from every other set of this process.
    pub(super) version: u64,
}

impl fmt::Debug for KeySet {
    /// Without the digest, which for a secret is more than anybody should see; a `DecodingKey` shows nothing of itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("keys", &self.keys)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Key {
    id: KeyId,
    algorithms: Vec<Algorithm>,
    pub(super) verifying: DecodingKey,
}

#[derive(Debug, PartialEq, Eq)]
enum KeyId {
    Named(Box<str>),
    Unnamed,
    /// The only key of its issuer, whatever tokens call it.
    Any,
}

impl KeySet {
    /// No keys: every token is refused.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Vec::new(), None)
    }

    fn new(keys: Vec<Key>, digest: Option<[u8; 32]>) -> Self {
        static VERSIONS: AtomicU64 = AtomicU64::new(1);
        Self { keys, digest, version: VERSIONS.fetch_add(1, Relaxed) }
    }

    /// The keys of a JWKS. Those of other kinds, for encryption, or with private parts are left out (RFC 7517 §5).
    /// Symmetric keys are left out too: whoever can read the set could sign with them.
    ///
    /// # Errors
    /// If it is none, or has no key that is of use.
    pub fn from_jwks(text: &[u8]) -> Result<Self, KeySetError> {
        let value = json::read(text, JWKS_BOUNDS).map_err(KeySetError::Malformed)?;
        let Some(Value::Array(items)) = value.get("keys") else {
            return Err(KeySetError::Malformed("it has no list of `keys`"));
        };
        if items.len() > MAX_KEYS {
            return Err(KeySetError::Malformed("it has too many keys"));
        }
        let keys: Vec<Key> = items.iter().filter_map(|item| Key::of(item.as_object()?)).collect();
        if keys.is_empty() {
            return Err(KeySetError::NothingUsable(items.len()));
        }
        Ok(Self::new(keys, Some(sha256(text))))
    }

    /// The secret of HS256.
    ///
    /// # Errors
    /// If it is too short to be one.
    pub fn from_secret(text: &[u8]) -> Result<Self, KeySetError> {
        let secret = text.strip_suffix(b"\n").unwrap_or(text);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < MIN_SECRET {
            return Err(KeySetError::ShortSecret(secret.len()));
        }
        let verifying =
            DecodingKey::from_secret(secret).map_err(|_| KeySetError::ShortSecret(secret.len()))?;
        let key = Key { id: KeyId::Any, algorithms: vec![Algorithm::HS256], verifying };
        Ok(Self::new(vec![key], Some(sha256(text))))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key that a token names by `id` and that is for `algorithm`. A token that names none can only mean the one
    /// key that is for its algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Key, Refusal> {
        let named = |key: &&Key| match (&key.id, id) {
            (KeyId::Any, _) | (_, None) => true,
            (KeyId::Named(name), Some(id)) => **name == *id,
            (KeyId::Unnamed, Some(_)) => false,
        };
        let mut meant = self.keys.iter().filter(named).peekable();
        if meant.peek().is_none() {
            return Err(Refusal::UnknownKey);
        }
        let mut fitting = meant.filter(|key| key.algorithms.contains(&algorithm));
        match (fitting.next(), fitting.next(), id) {
            (None, _, _) => Err(Refusal::Algorithm),
            (Some(_), Some(_), None) => Err(Refusal::UnknownKey),
            (Some(key), _, _) => Ok(key),
        }
    }
}

impl Key {
    fn of(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if jwk.contains_key("d") || text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if let Some(operations) = jwk.get("key_ops") {
            let operations = operations.as_array()?;
            if !operations.iter().any(|one| one.as_str() == Some("verify")) {
                return None;
            }
        }
        let bytes = |name: &str| base64url::decode(text(name)?.as_bytes());
        let (kind, verifying): (&[Algorithm], DecodingKey) = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let (modulus, exponent) = (bytes("n")?, bytes("e")?);
                if !(MIN_RSA_BYTES..=MAX_RSA_BYTES).contains(&modulus.len()) || exponent.len() > 8 {
                    return None;
                }
                (&RSA, DecodingKey::from_rsa_raw_components(&modulus, &exponent))
            }
            ("EC", Some("P-256")) => (&[Algorithm::ES256], point(&bytes("x")?, &bytes("y")?, 32)?),
            ("EC", Some("P-384")) => (&[Algorithm::ES384], point(&bytes("x")?, &bytes("y")?, 48)?),
            ("OKP", Some("Ed25519")) => {
                let key = bytes("x").filter(|key| key.len() == 32)?;
                (&[Algorithm::EdDSA], DecodingKey::from_ed_der(&key))
            }
            _ => return None,
        };
        let algorithms = match jwk.get("alg") {
            None => kind.to_vec(),
            Some(only) => {
                let only = algorithm(only.as_str()?)?;
                kind.contains(&only).then(|| vec![only])?
            }
        };
        let id = match jwk.get("kid") {
            None => KeyId::Unnamed,
            Some(id) => KeyId::Named(id.as_str()?.into()),
        };
        Some(Self { id, algorithms, verifying })
    }
}

/// A point of a curve, as it stands in certificates: uncompressed. Whether it lies on the curve is seen when it is used.
fn point(x: &[u8], y: &[u8], size: usize) -> Option<DecodingKey> {
    (x.len() == size && y.len() == size).then(|| DecodingKey::from_ec_der(&[&[4], x, y].concat()))
}

/// The algorithms that may be used at all. `none` is none of them, and neither is what no key here is for.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        "HS256" => Algorithm::HS256,
        _ => return None,
    })
}

/// What an update of the keys came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// There are other keys now.
    Changed,
    /// It is the set that there was.
    Unchanged,
}

/// The keys of one issuer, as they are replaced. Outlives snapshots.
#[derive(Debug)]
pub struct IssuerKeys {
    set: Live<KeySet>,
    wanted: Notify,
}

impl Default for IssuerKeys {
    fn default() -> Self {
        Self { set: Live::new(Arc::new(KeySet::empty())), wanted: Notify::new() }
    }
}

impl IssuerKeys {
    /// The keys of this moment.
    #[must_use]
    pub fn load(&self) -> Arc<KeySet> {
        self.set.load()
    }

    /// Whether `version` is that of the keys of this moment.
    pub(super) fn is_version(&self, version: u64) -> bool {
        self.set.peek().version == version
    }

    /// Takes `set` as a whole, unless it was read from what the present one was read from.
    pub fn update(&self, set: KeySet) -> Update {
        if set.digest.is_some() && self.set.peek().digest == set.digest {
            return Update::Unchanged;
        }
        drop(self.set.swap(Arc::new(set)));
        Update::Changed
    }

    /// A token named a key that is not there. Whoever fetches keys decides whether it is worth another look.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a key was asked for that is not there. Cancel-safe.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

/// The keys in a file; `None` for a source that is none. Blocks.
///
/// # Errors
/// See [`KeySetError`].
pub fn read_keys(source: &KeySource) -> Option<Result<KeySet, KeySetError>> {
    let read = |path: &Path, readers| bounded_file::read(path, readers).map_err(KeySetError::from);
    match source {
        KeySource::File(path) => Some(read(path, Readers::Anybody).and_then(|text| KeySet::from_jwks(&text))),
        KeySource::Secret(path) => {
            Some(read(path, Readers::OwnerAndGroup).and_then(|text| KeySet::from_secret(&text)))
        }
        KeySource::Url(_) => None,
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    digest
}

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
/// 2048 and 8192 bits: shorter ones are no protection, longer ones are work for whoever verifies.
const MIN_RSA_BYTES: usize = 256;
const MAX_RSA_BYTES: usize = 1024;
const MIN_SECRET: usize = 32;
/// Issuers have two or three, while they replace one by another.
const MAX_KEYS: usize = 64;
/// A key is an object in a list in an object; some carry a chain of certificates.
const JWKS_BOUNDS: json::Bounds = json::Bounds { depth: 8, values: 4096 };
