//! Reads a token without believing it: three parts, two of them bounded JSON. Verifies nothing.

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{base64url, json, keys};

/// A token that was read. Nothing in it is true until its signature is verified.
#[derive(Debug)]
pub struct Token<'t> {
    /// What is signed.
    pub(super) message: &'t str,
    /// Base64 of the signature.
    pub(super) signature: &'t str,
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<Box<str>>,
    pub(super) payload: Map<String, Value>,
}

/// Why a text is no token that could be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// It cannot be read, or asks for what is not understood.
    Malformed(&'static str),
    /// Its algorithm is `none`, or another one that nobody may use.
    Algorithm,
}

impl<'t> Token<'t> {
    /// Reads `text`, which is as short as the caller allows. Costs memory in proportion to its length.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn read(text: &'t [u8]) -> Result<Self, TokenError> {
        let malformed = TokenError::Malformed;
        let text = std::str::from_utf8(text).map_err(|_| malformed("it is not text"))?;
        let (message, signature) = text.rsplit_once('.').ok_or(malformed("it has no three parts"))?;
        let (header, payload) = message.split_once('.').ok_or(malformed("it has no three parts"))?;
        if payload.contains('.') {
            // Five parts are an encrypted token (RFC 7516).
            return Err(malformed("it has no three parts"));
        }
        if base64url::decode(signature.as_bytes()).is_none() {
            return Err(malformed("its signature is not base64"));
        }
        let (algorithm, key_id) = read_header(&object(header)?)?;
        Ok(Self { message, signature, algorithm, key_id, payload: object(payload)? })
    }

    /// Who says to have issued it.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.payload.get("iss").and_then(Value::as_str)
    }
}

fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = base64url::decode(part.as_bytes()).ok_or(TokenError::Malformed("a part is not base64"))?;
    match json::read(&bytes, BOUNDS).map_err(TokenError::Malformed)? {
        Value::Object(object) => Ok(object),
        _ => Err(TokenError::Malformed("a part is no object")),
    }
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<Box<str>>), TokenError> {
    for (name, reason) in REFUSED_FIELDS {
        if header.contains_key(name) {
            return Err(TokenError::Malformed(reason));
        }
    }
    let algorithm = match header.get("alg") {
        Some(Value::String(name)) => keys::algorithm(name).ok_or(TokenError::Algorithm)?,
        _ => return Err(TokenError::Malformed("its header has no `alg`")),
    };
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.as_str().into()),
        Some(_) => return Err(TokenError::Malformed("its `kid` is no text")),
    };
    Ok((algorithm, key_id))
}

/// `crit` demands that whoever does not understand an extension refuses the token (RFC 7515 §4.1.11), and no extension
/// is understood: `b64` (RFC 7797) would change what is signed, `zip` and `enc` are of encrypted tokens. Keys that a
/// token brings along (`jwk`, `jku`, `x5c`, `x5u`) are ignored: whoever made it could have made them too.
const REFUSED_FIELDS: [(&str, &str); 4] = [
    ("crit", "its header demands an extension"),
    ("b64", "its header demands an extension"),
    ("zip", "its header is one of an encrypted token"),
    ("enc", "its header is one of an encrypted token"),
];

/// Claims of the well-known issuers are three deep; a few hundred groups are usual in large companies.
const BOUNDS: json::Bounds = json::Bounds { depth: 8, values: 1024 };
