//! Decides whether a token is good: whose it is, whether that issuer signed it, for whom, and for when. Time is an
//! argument, keys are in cells that others fill.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::{
    KeySource, Token, TokenError,
    cache::Cache,
    keys::{IssuerKeys, sha256},
};
use crate::{
    telemetry::metrics::{JwtMetrics, JwtResult, Registry},
    types::Claims,
};

/// Whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtParams {
    /// Each with another name.
    pub issuers: Vec<IssuerParams>,
}

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerParams {
    /// What its tokens have as `iss`, byte by byte.
    pub issuer: Arc<str>,
    /// A token must be for one of these; empty takes tokens for anybody.
    pub audiences: Vec<Box<str>>,
    /// Where its keys come from.
    pub source: KeySource,
    /// Requests without a token are refused.
    pub required: bool,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// Longest token, in bytes.
    pub max_token: usize,
    /// Claims that the application gets, each in a header.
    pub forward_claims: Vec<(Box<str>, HeaderName)>,
    /// Whether the application gets the token itself.
    pub forward_token: bool,
}

/// Why a token is refused. The message goes to the log and to nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none, and there must be one.
    #[error("there is no token")]
    Missing,
    /// Longer than is read.
    #[error("the token is too long")]
    TooLarge,
    /// It cannot be read, or says what it cannot mean.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// No issuer that is known.
    #[error("the issuer is not known")]
    Issuer,
    /// An algorithm that its key is not for, or that nobody may use.
    #[error("the algorithm is not one of its key")]
    Algorithm,
    /// A key that the issuer does not have, or no key where it has several.
    #[error("the issuer has no such key")]
    UnknownKey,
    /// The key did not sign it.
    #[error("the signature is wrong")]
    Signature,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
}

impl Refusal {
    /// As it is counted.
    #[must_use]
    pub const fn result(self) -> JwtResult {
        match self {
            Self::Missing => JwtResult::Missing,
            Self::TooLarge => JwtResult::TooLarge,
            Self::Malformed(_) => JwtResult::Malformed,
            Self::Issuer => JwtResult::Issuer,
            Self::Algorithm => JwtResult::Algorithm,
            Self::UnknownKey => JwtResult::UnknownKey,
            Self::Signature => JwtResult::Signature,
            Self::Audience => JwtResult::Audience,
            Self::Expired => JwtResult::Expired,
            Self::NotYetValid => JwtResult::NotYetValid,
        }
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Malformed(reason) => Self::Malformed(reason),
            TokenError::Algorithm => Self::Algorithm,
        }
    }
}

/// A token that is good.
#[derive(Debug)]
pub struct Verified {
    /// What it says of its bearer.
    pub claims: Arc<Claims>,
    /// What the application is told of it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the application gets the token itself.
    pub forward_token: bool,
    /// Place of its issuer.
    issuer: usize,
    /// Seconds since the epoch, leeway included.
    from: u64,
    until: u64,
}

impl Verified {
    pub(super) fn is_good_at(&self, now: u64) -> bool {
        (self.from..self.until).contains(&now)
    }
}

/// An issuer with its keys.
#[derive(Debug)]
pub struct Issuer {
    /// As configured.
    pub params: IssuerParams,
    /// Its keys at any moment.
    pub keys: Arc<IssuerKeys>,
    metrics: Arc<JwtMetrics>,
}

/// Verifies tokens of several issuers. Shared by all workers; waits for nothing.
#[derive(Debug)]
pub struct Verifier {
    issuers: Vec<Issuer>,
    /// Headers that say what a token says: whoever sends them claims it.
    reserved: Vec<HeaderName>,
    required: bool,
    max_token: usize,
    /// Of tokens that are of no issuer.
    unknown: Arc<JwtMetrics>,
    cache: Cache,
    /// Second of the last line in the log.
    told: AtomicU64,
}

impl Verifier {
    /// The verifier for `params`; `keys` gives the cell of each issuer's keys.
    #[must_use]
    pub fn new(
        params: &JwtParams,
        registry: &Registry,
        mut keys: impl FnMut(&Arc<str>) -> Arc<IssuerKeys>,
    ) -> Self {
        let issuer = |params: &IssuerParams| Issuer {
            keys: keys(&params.issuer),
            metrics: JwtMetrics::resolve(registry, Some(&params.issuer)),
            params: params.clone(),
        };
        let issuers: Vec<Issuer> = params.issuers.iter().map(issuer).collect();
        let mut reserved: Vec<HeaderName> = Vec::new();
        for (_, header) in issuers.iter().flat_map(|issuer| &issuer.params.forward_claims) {
            if !reserved.contains(header) {
                reserved.push(header.clone());
            }
        }
        Self {
            reserved,
            required: params.issuers.iter().any(|issuer| issuer.required),
            max_token: params.issuers.iter().map(|issuer| issuer.max_token).max().unwrap_or_default(),
            unknown: JwtMetrics::resolve(registry, None),
            issuers,
            cache: Cache::default(),
            told: AtomicU64::new(0),
        }
    }

    /// All issuers.
    #[must_use]
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Whether every request must have a token.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Headers that nobody but us may set.
    #[must_use]
    pub fn reserved(&self) -> &[HeaderName] {
        &self.reserved
    }

    /// Verifies `token` as it is at `now`, or finds that there must be one. Counts what comes of it, and tells the log
    /// of a refusal, at most once a second.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn verify(
        &self,
        token: Result<Option<&[u8]>, Refusal>,
        now: SystemTime,
    ) -> Result<Option<Arc<Verified>>, Refusal> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let found = match token {
            Ok(Some(token)) => self.look(token, now),
            Ok(None) if self.required => Err((Refusal::Missing, None)),
            Ok(None) => return Ok(None),
            Err(refusal) => Err((refusal, None)),
        };
        match found {
            Ok(verified) => {
                if let Some(issuer) = self.issuers.get(verified.issuer) {
                    issuer.metrics.verified(JwtResult::Accepted);
                }
                Ok(Some(verified))
            }
            Err((refusal, issuer)) => {
                issuer.map_or(&self.unknown, |issuer| &issuer.metrics).verified(refusal.result());
                self.tell(refusal, issuer, now);
                Err(refusal)
            }
        }
    }

    /// The token, from memory or verified; with a refusal, the issuer that it is counted for.
    fn look(&self, text: &[u8], now: u64) -> Result<Arc<Verified>, (Refusal, Option<&Issuer>)> {
        let nobodys = |refusal: Refusal| (refusal, None::<&Issuer>);
        if text.len() > self.max_token {
            return Err(nobodys(Refusal::TooLarge));
        }
        let digest = sha256(text);
        let is_current = |verified: &Verified, keys| {
            self.issuers.get(verified.issuer).is_some_and(|issuer| issuer.keys.is_version(keys))
        };
        if let Some(known) = self.cache.find(&digest, now, is_current) {
            return Ok(known);
        }
        let token = Token::read(text).map_err(|error| nobodys(error.into()))?;
        let named = token.issuer();
        let found = self.issuers.iter().enumerate().find(|(_, issuer)| named == Some(&*issuer.params.issuer));
        let (place, issuer) = found.ok_or(nobodys(Refusal::Issuer))?;
        let (verified, keys) =
            issuer.verify(&token, text.len(), place, now).map_err(|refusal| (refusal, Some(issuer)))?;
        let verified = Arc::new(verified);
        self.cache.insert(digest, &verified, keys, now);
        Ok(verified)
    }

    /// A client can send as many bad tokens as it likes, and must not fill the log with them.
    fn tell(&self, refusal: Refusal, issuer: Option<&Issuer>, now: u64) {
        if self.told.swap(now, Relaxed) != now {
            let issuer = issuer.map_or("none", |issuer| &*issuer.params.issuer);
            tracing::warn!(issuer, reason = %refusal, "a request is refused for its token");
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.cache.len()
    }
}

impl Issuer {
    /// The token, if it is good, and the version of the keys that say so. The signature comes first: what is not signed
    /// says nothing, neither of audiences nor of times.
    fn verify(
        &self,
        token: &Token<'_>,
        length: usize,
        place: usize,
        now: u64,
    ) -> Result<(Verified, u64), Refusal> {
        let params = &self.params;
        if length > params.max_token {
            return Err(Refusal::TooLarge);
        }
        let keys = self.keys.load();
        let key = keys.find(token.key_id.as_deref(), token.algorithm).inspect_err(|refusal| {
            if *refusal == Refusal::UnknownKey {
                self.keys.want();
            }
        })?;
        let signed = jsonwebtoken::crypto::verify(
            token.signature,
            token.message.as_bytes(),
            &key.verifying,
            token.algorithm,
        );
        // An error is one of the key: no signature can be verified with it.
        if !signed.unwrap_or(false) {
            return Err(Refusal::Signature);
        }
        if !params.audiences.is_empty() && !is_for(&token.payload, &params.audiences)? {
            return Err(Refusal::Audience);
        }
        let (from, until) = lifetime(&token.payload, params.leeway.as_secs(), now)?;
        let claims = flatten(&token.payload)?;
        let mut headers = Vec::new();
        for (name, header) in &params.forward_claims {
            let values = claims.values(name);
            if !values.is_empty() {
                headers.push((header.clone(), header_value(values)?));
            }
        }
        let forward_token = params.forward_token;
        let verified =
            Verified { claims: Arc::new(claims), headers, forward_token, issuer: place, from, until };
        Ok((verified, keys.version))
    }
}

/// RFC 7519 §4.1.3: one text, or a list of them.
fn is_for(payload: &Map<String, Value>, audiences: &[Box<str>]) -> Result<bool, Refusal> {
    let is_ours = |value: &Value| value.as_str().is_some_and(|one| audiences.iter().any(|our| **our == *one));
    match payload.get("aud") {
        None => Ok(false),
        Some(one @ Value::String(_)) => Ok(is_ours(one)),
        Some(Value::Array(list)) => Ok(list.iter().any(is_ours)),
        Some(_) => Err(Refusal::Malformed("its `aud` is no text")),
    }
}

/// From when until when it is good, in seconds, leeway included.
fn lifetime(payload: &Map<String, Value>, leeway: u64, now: u64) -> Result<(u64, u64), Refusal> {
    let expires = seconds(payload, "exp")?.ok_or(Refusal::Malformed("it has no `exp`"))?;
    let not_before = seconds(payload, "nbf")?.unwrap_or_default();
    let issued = seconds(payload, "iat")?.unwrap_or_default();
    let from = not_before.max(issued).saturating_sub(leeway);
    let until = expires.saturating_add(leeway);
    if now >= until {
        return Err(Refusal::Expired);
    }
    if now < from {
        return Err(Refusal::NotYetValid);
    }
    Ok((from, until))
}

/// A time of RFC 7519 §2, which may have a fraction: that much earlier makes no difference to a leeway in seconds.
fn seconds(payload: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    /// Beyond it neighbours of a float are no seconds; it is in the year 285 million.
    const LATEST: f64 = 9_007_199_254_740_992.0;
    let Some(value) = payload.get(name) else { return Ok(None) };
    let time = value.as_f64().filter(|time| (0.0..=LATEST).contains(time));
    match (value, time) {
        (Value::Number(_), Some(time)) => Ok(Some(time as u64)),
        _ => Err(Refusal::Malformed("a time of it is no number of seconds")),
    }
}

/// Claims by their names, those inside of objects with dots between. One name is one claim: `{"a.b": 1, "a": {"b": 2}}`
/// would let one of the two be taken for the other.
fn flatten(payload: &Map<String, Value>) -> Result<Claims, Refusal> {
    let mut by_name: BTreeMap<String, Vec<Box<str>>> = BTreeMap::new();
    let mut left: Vec<(String, &Value)> = payload.iter().map(|(name, value)| (name.clone(), value)).collect();
    let mut bytes = 0_usize;
    while let Some((name, value)) = left.pop() {
        // Names repeat what is above them; a deep tree of long names must not become many times its size.
        bytes += name.len();
        if bytes > MAX_NAMES {
            return Err(Refusal::Malformed("its claims have names that are too long"));
        }
        let values = match value {
            Value::Object(members) => {
                left.extend(members.iter().map(|(member, value)| (format!("{name}.{member}"), value)));
                continue;
            }
            // What is in lists of lists, or objects in lists, has no name.
            Value::Array(items) => items.iter().filter_map(scalar).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                scalar(value).into_iter().collect()
            }
        };
        if by_name.insert(name, values).is_some() {
            return Err(Refusal::Malformed("two claims of it have the same name"));
        }
    }
    let named = |(name, values): (String, Vec<Box<str>>)| {
        let name: Box<str> = name.into();
        values.into_iter().map(move |value| (name.clone(), value))
    };
    Ok(by_name.into_iter().flat_map(named).collect())
}

fn scalar(value: &Value) -> Option<Box<str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Visible ASCII, with spaces inside; several values with commas between, so that none of them may have one.
fn header_value(values: &[Box<str>]) -> Result<HeaderValue, Refusal> {
    const REASON: Refusal = Refusal::Malformed("a claim of it cannot be a header");
    let visible = |value: &str| {
        value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && value.trim() == value
    };
    let one = values.len() == 1;
    if !values.iter().all(|value| visible(value) && (one || !value.contains(','))) {
        return Err(REASON);
    }
    HeaderValue::try_from(values.join(",")).map_err(|_| REASON)
}

/// All names together, in bytes.
const MAX_NAMES: usize = 64 * 1024;
