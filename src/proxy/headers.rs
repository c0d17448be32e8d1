//! Cleans heads at the border: what belongs to one connection stays on it, what only the sidecar may say is taken
//! from everybody else, and there is exactly one authority. RFC 9110 §7.6.1, RFC 9113 §8.2.2 and §8.3.1.

use std::{cell::RefCell, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version,
    header::{self, Entry},
    request, response,
    uri::{Authority, PathAndQuery},
};

use http_body::Frame;

use super::{
    framing,
    params::{Normalisation, Underscores},
    path, shed,
    upgrade::Upgrade,
};
use crate::{
    policy::{authz::reads_as, deadline, fault::AskedFault},
    types::Priority,
};

/// Why a head that was well-formed is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    /// Metric label and the details of `Proxy-Status`.
    pub(crate) reason: &'static str,
}

impl Refused {
    const fn bad(reason: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }
}

/// What cleaning found out.
#[derive(Debug)]
pub(crate) struct RequestFacts {
    /// The one authority of the request, as the client wrote it.
    pub(crate) authority: HeaderValue,
    /// The client asks for another protocol.
    pub(crate) upgrade: Option<Box<Upgrade>>,
    /// `TE: trailers` was there: gRPC needs it on HTTP/2.
    pub(crate) wants_trailers: bool,
    /// Which attempt of the caller this is, from 1.
    pub(crate) attempt: u32,
    /// A sidecar says that its client spoke HTTP/1.1.
    pub(crate) carried_http1: bool,
    /// A fault that the caller asks for. Whether it may is the route's business.
    pub(crate) asked_fault: AskedFault,
    /// How much the caller says that the request matters.
    pub(crate) priority: Priority,
}

/// Fields that need attention, found in one pass over the names: most requests have none, and a pass is cheaper
/// than a look-up for each.
#[derive(Default)]
struct Found {
    connection: bool,
    keep_alive: bool,
    proxy_connection: bool,
    te: bool,
    transfer_encoding: bool,
    upgrade: bool,
    http2_settings: bool,
    expect: bool,
    reserved: bool,
}

/// Header that carries the caller's identity in Envoy's form; only a sidecar may set it.
pub(super) const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// Which attempt of the sender this is; sent from the second one on.
const ATTEMPT: HeaderName = HeaderName::from_static("x-outrigger-attempt");
/// The name of the caller's service.
const SOURCE: HeaderName = HeaderName::from_static("x-outrigger-source");
/// What the client of a request spoke that travels over HTTP/2.
const CARRIED: HeaderName = HeaderName::from_static("x-outrigger-carried");
const CARRIED_HTTP1: HeaderValue = HeaderValue::from_static("http/1.1");
/// Headers that only sidecars say.
const RESERVED_PREFIX: &str = "x-outrigger-";

fn look(headers: &HeaderMap) -> Found {
    let mut found = Found::default();
    for name in headers.keys() {
        match name.as_str() {
            "connection" => found.connection = true,
            "keep-alive" => found.keep_alive = true,
            "proxy-connection" => found.proxy_connection = true,
            "te" => found.te = true,
            "transfer-encoding" => found.transfer_encoding = true,
            "upgrade" => found.upgrade = true,
            "http2-settings" => found.http2_settings = true,
            "expect" => found.expect = true,
            other => {
                found.reserved |= other.len() >= RESERVED_PREFIX.len()
                    && matches!(other.as_bytes(), [b'x', b'-' | b'_', ..])
                    && is_reserved(other);
            }
        }
    }
    found
}

/// Whether only sidecars may set a field of this name, also for a reader who takes `_` for `-`.
fn is_reserved(name: &str) -> bool {
    let start = name.get(..RESERVED_PREFIX.len());
    start.is_some_and(|start| reads_as(start, RESERVED_PREFIX))
        || reads_as(name, FORWARDED_CLIENT_CERT.as_str())
}

/// Cleans a request head in place and finds its authority. Afterwards `uri` holds only path and query, and there
/// is no `Host`: the attempt adds what its protocol needs.
///
/// # Errors
/// If the head is ambiguous or its target cannot be routed; the head is then partly cleaned and must not be used.
pub(crate) fn clean_request(
    parts: &mut request::Parts,
    how: &Normalisation,
) -> Result<RequestFacts, Refused> {
    let authority = take_authority(parts)?;
    clean_target(parts, how)?;
    if how.underscores != Underscores::Allow {
        clean_underscores(&mut parts.headers, how.underscores)?;
    }
    let found = look(&parts.headers);
    let wants_trailers = found.te && lists(&parts.headers, &header::TE, "trailers");
    let upgrade = (found.upgrade && found.connection && parts.version == Version::HTTP_11)
        .then(|| requested_upgrade(&parts.headers))
        .flatten();
    drop_hop_by_hop(&mut parts.headers, &found);
    if found.expect {
        // hyper answers 100 by itself as soon as the body is asked for; asking upstream too would be twice.
        parts.headers.remove(header::EXPECT);
    }
    let (mut attempt, mut carried_http1) = (1, false);
    let (mut asked_fault, mut priority) = (AskedFault::default(), Priority::default());
    if found.reserved {
        attempt = callers_attempt(&parts.headers);
        carried_http1 = parts.headers.get(CARRIED).is_some_and(|what| *what == CARRIED_HTTP1);
        asked_fault = super::fault::asked(&parts.headers);
        priority = shed::priority(&parts.headers);
        drop_reserved(&mut parts.headers);
    }
    Ok(RequestFacts { authority, upgrade, wants_trailers, attempt, carried_http1, asked_fault, priority })
}

/// Cleans a response head in place. `switching` keeps what a 101 needs.
pub(crate) fn clean_response(parts: &mut response::Parts, switching: bool) {
    let found = look(&parts.headers);
    if found.transfer_encoding {
        // The body was read by its chunks; a length beside them is wrong, or an attempt to fool us (RFC 9112 §6.3).
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    parts.version = Version::HTTP_11;
    let upgrade = if switching { parts.headers.get(header::UPGRADE).cloned() } else { None };
    drop_hop_by_hop(&mut parts.headers, &found);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
}

/// Drops from trailers what must not come there (RFC 9110 §6.5.1): framing, routing and authentication would
/// otherwise change after they were acted upon.
pub(crate) fn clean_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    const FORBIDDEN: [HeaderName; 14] = [
        header::AUTHORIZATION,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::HOST,
        header::SET_COOKIE,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        FORWARDED_CLIENT_CERT,
    ];
    match frame.into_trailers() {
        Ok(mut trailers) => {
            for name in FORBIDDEN {
                trailers.remove(name);
            }
            // A status is said in trailers by gRPC; nothing that sidecars say ever is.
            remove_all(&mut trailers, |name| is_reserved(name.as_str()));
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

/// The authority of the target wins over `Host` on HTTP/1 (RFC 9112 §3.2.2); on HTTP/2 both must agree.
fn take_authority(parts: &mut request::Parts) -> Result<HeaderValue, Refused> {
    let host = match parts.headers.entry(header::HOST) {
        Entry::Occupied(entry) => {
            if entry.iter().count() > 1 {
                return Err(Refused::bad("host"));
            }
            Some(entry.remove())
        }
        Entry::Vacant(_) => None,
    };
    let Some(target) = parts.uri.authority() else {
        return match host {
            // On HTTP/1 the guard has looked at it; HTTP/2 may carry a `Host` without `:authority`.
            Some(host) if framing::valid_authority(host.as_bytes()) => Ok(host),
            Some(_) => Err(Refused::bad("host")),
            // HTTP/1.0 has no Host; such a request can only match routes for any host.
            None if parts.version <= Version::HTTP_10 => Ok(HeaderValue::from_static("")),
            None => Err(Refused::bad("host")),
        };
    };
    let agrees = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes());
    if parts.version == Version::HTTP_2 && !host.as_ref().is_none_or(agrees) {
        return Err(Refused::bad("host"));
    }
    if !framing::valid_authority(target.as_str().as_bytes()) {
        return Err(Refused::bad("host"));
    }
    HeaderValue::from_str(target.as_str()).map_err(|_| Refused::bad("host"))
}

fn clean_target(parts: &mut request::Parts, how: &Normalisation) -> Result<(), Refused> {
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(Refused { status: StatusCode::METHOD_NOT_ALLOWED, reason: "method" });
    }
    // A copy is two reference counts, and the head is changed below.
    let target = parts.uri.path_and_query().cloned().ok_or(Refused::bad("target"))?;
    if target.as_str() == "*" {
        if parts.method != Method::OPTIONS {
            return Err(Refused::bad("target"));
        }
    } else {
        path::check(target.as_str()).map_err(Refused::bad)?;
        if let Some(normal) = path::normalise(target.as_str(), how).map_err(Refused::bad)? {
            let normal = PathAndQuery::from_maybe_shared(normal).map_err(|_| Refused::bad("target"))?;
            parts.uri = Uri::from(normal);
            return Ok(());
        }
    }
    if parts.uri.authority().is_some() || parts.uri.scheme().is_some() {
        parts.uri = Uri::from(target);
    }
    Ok(())
}

fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value.split(',').any(|item| {
                let item = item.split(';').next().unwrap_or_default();
                item.trim().eq_ignore_ascii_case(word)
            })
        })
    })
}

/// The protocol to switch to, if the request really asks for one. `h2c` is not passed on: who wants HTTP/2 uses
/// it from the first byte (RFC 9113 §3.1 dropped the upgrade).
fn requested_upgrade(headers: &HeaderMap) -> Option<Box<Upgrade>> {
    if !lists(headers, &header::CONNECTION, "upgrade") {
        return None;
    }
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let protocol = protocols.next()?;
    let single = protocols.next().is_none() && !protocol.as_bytes().contains(&b',');
    (single && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))
        .then(|| Upgrade::of_connection(protocol.clone(), headers))
}

fn drop_hop_by_hop(headers: &mut HeaderMap, found: &Found) {
    if found.connection {
        drop_connection(headers);
    }
    if found.keep_alive {
        headers.remove(KEEP_ALIVE);
    }
    if found.proxy_connection {
        headers.remove(PROXY_CONNECTION);
    }
    if found.te {
        headers.remove(header::TE);
    }
    if found.transfer_encoding {
        headers.remove(header::TRANSFER_ENCODING);
    }
    if found.upgrade {
        headers.remove(header::UPGRADE);
    }
    if found.http2_settings {
        headers.remove(HTTP2_SETTINGS);
    }
}

/// Removes `Connection` and what it names, except fields whose removal would change what the message means or
/// who sent it: a client must not be able to take them away from us.
fn drop_connection(headers: &mut HeaderMap) {
    let Entry::Occupied(entry) = headers.entry(header::CONNECTION) else { return };
    let (_, values) = entry.remove_entry_mult();
    let values: Vec<HeaderValue> = values.collect();
    for value in &values {
        let Ok(value) = value.to_str() else { continue };
        for word in value.split(',').map(str::trim) {
            if word.eq_ignore_ascii_case("close") || word.eq_ignore_ascii_case("keep-alive") {
                continue;
            }
            let Ok(name) = HeaderName::try_from(word) else { continue };
            if !is_end_to_end(&name) {
                headers.remove(name);
            }
        }
    }
}

fn is_end_to_end(name: &HeaderName) -> bool {
    const KEPT: [HeaderName; 8] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        header::COOKIE,
        header::CACHE_CONTROL,
        header::FORWARDED,
        FORWARDED_CLIENT_CERT,
    ];
    KEPT.contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with(RESERVED_PREFIX)
}

/// The attempt that the request says it is; 1 if it says nothing.
fn callers_attempt(headers: &HeaderMap) -> u32 {
    let said = headers.get(ATTEMPT).and_then(|value| value.to_str().ok()?.parse().ok());
    said.unwrap_or(1)
}

/// Tells the next hop which attempt this is, so that it does not repeat it on its own.
pub(crate) fn announce_attempt(headers: &mut HeaderMap, attempt: u32) {
    let _ = headers.try_insert(ATTEMPT, HeaderValue::from(attempt));
}

/// Tells the next sidecar that the client of this request spoke HTTP/1.1.
pub(crate) fn announce_http1(headers: &mut HeaderMap) {
    let _ = headers.try_insert(CARRIED, CARRIED_HTTP1);
}

/// Tells the application who calls: in Envoy's form, and the plain name of the caller's service. To be called once
/// everything that others claimed was dropped.
pub(crate) fn announce_caller(headers: &mut HeaderMap, forwarded: &HeaderValue, source: &HeaderValue) {
    let _ = headers.try_insert(FORWARDED_CLIENT_CERT, forwarded.clone());
    let _ = headers.try_insert(SOURCE, source.clone());
}

/// Tells the next hop, and in the end the application, how much time is left. Rounded down.
pub(crate) fn announce_deadline(headers: &mut HeaderMap, left: Duration, grpc: bool) {
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    if grpc {
        if let Ok(value) = HeaderValue::try_from(deadline::grpc_timeout(millis)) {
            let _ = headers.try_insert(deadline::GRPC_TIMEOUT, value);
        }
        return;
    }
    // With one limit for most requests, the same text is needed again and again.
    thread_local! {
        static LATEST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static("0"))) };
    }
    let value = LATEST.with_borrow_mut(|latest| {
        if latest.0 != millis {
            *latest = (millis, HeaderValue::from(millis));
        }
        latest.1.clone()
    });
    let _ = headers.try_insert(deadline::REQUEST_TIMEOUT_MS, value);
}

/// Nobody outside may claim an identity, and nobody but a sidecar speaks in Outrigger's name.
fn drop_reserved(headers: &mut HeaderMap) {
    let ours = |name: &&HeaderName| is_reserved(name.as_str()) && **name != shed::PRIORITY;
    remove_all(headers, ours);
}

/// Takes away what only we may say, also under a name that some read as one of `names`.
pub(super) fn remove_alike(headers: &mut HeaderMap, names: &[HeaderName]) {
    remove_all(headers, |name| names.iter().any(|one| reads_as(name.as_str(), one.as_str())));
}

fn remove_all(headers: &mut HeaderMap, which: impl FnMut(&&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(which).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Does what is configured of fields with `_` in their name.
fn clean_underscores(headers: &mut HeaderMap, what: Underscores) -> Result<(), Refused> {
    let has_one = |name: &&HeaderName| memchr::memchr(b'_', name.as_str().as_bytes()).is_some();
    match what {
        Underscores::Allow => {}
        Underscores::Drop => remove_all(headers, has_one),
        Underscores::Reject => {
            if headers.keys().any(|name| has_one(&name)) {
                return Err(Refused::bad("underscore"));
            }
        }
    }
    Ok(())
}

/// What an attempt over HTTP/1 needs: target in origin form and `Host`, which is `fallback` for a client of HTTP/1.0
/// that sent none: an empty one, though allowed, is refused by many servers, and by us.
pub(crate) fn address_http1(
    parts: &mut request::Parts,
    authority: &HeaderValue,
    fallback: &str,
    upgrade: Option<&Upgrade>,
    wants_trailers: bool,
) {
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    parts.version = Version::HTTP_11;
    let named = if authority.is_empty() { HeaderValue::from_str(fallback).ok() } else { None };
    parts.headers.insert(header::HOST, named.unwrap_or_else(|| authority.clone()));
    if let Some(upgrade) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade.protocol.clone());
    } else if wants_trailers {
        // Many servers send trailers only to whom asks; TE is hop-by-hop and must be named (RFC 9110 §10.1.4).
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// HTTP/2 may split the cookie into several fields; HTTP/1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let mut joined = first.as_bytes().to_vec();
    let mut several = false;
    for crumb in crumbs {
        several = true;
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if several && let Ok(cookie) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// Frames a body of unknown length. hyper does so by itself only for methods that usually have one.
pub(crate) fn frame_http1(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Tells an HTTP/1 client that its connection ends with this response. Not on a 101, after which there is no HTTP.
pub(crate) fn announce_close(response: &mut http::Response<super::body::ResponseBody>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// What an attempt over HTTP/2 needs: scheme and authority in the target, no `Host`.
///
/// # Errors
/// If `authority` is not one that a URI can hold.
pub(crate) fn address_http2(
    parts: &mut request::Parts,
    authority: &HeaderValue,
    fallback: &str,
    wants_trailers: bool,
) -> Result<(), http::Error> {
    parts.version = Version::HTTP_2;
    // HTTP/2 has no request without an authority; HTTP/1.0 clients send none.
    let authority = if authority.is_empty() {
        Authority::try_from(fallback)?
    } else {
        Authority::try_from(authority.as_bytes())?
    };
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = Some(authority);
    parts.uri = Uri::from_parts(uri)?;
    if wants_trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}
