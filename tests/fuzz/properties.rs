//! What must hold for any input of each parser that reads bytes from outside. The fuzz targets search for an input for
//! which it does not; `tests/process/seeds.rs` tries the seeds, and variations of them, with every `cargo test`.

#[path = "gossip.rs"]
mod gossip;
#[path = "quorum.rs"]
mod quorum;
#[path = "store.rs"]
mod store;

use std::{io, path::Path, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger::{
    config,
    identity::jwt::{KeySet, Token},
    net::proxy_protocol::{self, MAX_HEADER, Parsed},
    policy::{
        affinity::{AffinityParams, SessionId},
        balance::{HashOn, hash_key},
        deadline, fault,
        retry::{self, LONGEST_RETRY_AFTER},
        route::RequestView,
    },
    proxy::{
        EscapedSlashes, Normalisation,
        framing::{
            BodyFraming, ChunkScanner, FrameWatch, H2_PREFACE, HeadLimits, HeadParser, RequestScanner, Rest,
            Role, Sniff, sniff, validate_head,
        },
        path,
        tcp::client_hello::HelloReader,
    },
    telemetry::{Propagation, request_id, trace},
    types::{EndpointAddress, Mono, Priority, ProxyVersion},
};

use self::gossip::changed;
pub(crate) use self::{
    gossip::{gossip_envelope, gossip_message, gossip_packet},
    quorum::{store_quorum, store_quorum_disk},
    store::{rpc_head, store_bodies, store_commands, store_founding, store_image, store_record},
};

/// One property with the name of its target.
pub(crate) type Property = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const ALL: [Property; 23] = [
    ("h1_head", h1_head),
    ("h1_chunked", h1_chunked),
    ("h1_guard", h1_guard),
    ("h2_frames", h2_frames),
    ("detect", detect),
    ("client_hello", client_hello),
    ("proxy_protocol", proxy_protocol),
    ("path", path),
    ("trace", trace),
    ("fields", fields),
    ("configuration", configuration),
    ("jwt", jwt),
    ("gossip_envelope", gossip_envelope),
    ("gossip_packet", gossip_packet),
    ("gossip_message", gossip_message),
    ("rpc_head", rpc_head),
    ("store_bodies", store_bodies),
    ("store_commands", store_commands),
    ("store_founding", store_founding),
    ("store_image", store_image),
    ("store_record", store_record),
    ("store_quorum", store_quorum),
    ("store_quorum_disk", store_quorum_disk),
];

/// The first byte decides how the others are cut.
fn pieces(input: &[u8]) -> (usize, &[u8]) {
    input.split_first().map_or((1, input), |(size, rest)| (usize::from(*size).max(1), rest))
}

/// One head, whole and byte by byte, against `httparse` as a second opinion.
pub(crate) fn h1_head(head: &[u8]) {
    const LIMITS: HeadLimits = HeadLimits { max_bytes: 4096, max_headers: 100 };
    let whole = validate_head(head, &LIMITS);
    let mut parser = HeadParser::default();
    let piecewise = (0..=head.len())
        .map(|end| parser.advance(&head[..end], &LIMITS))
        .find(|result| !matches!(result, Ok(None)))
        .unwrap_or(Ok(None));
    assert_eq!(whole, piecewise);

    let Ok(Some(framing)) = whole else { return };
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(head).expect("a head that passed is a head to everybody");
    assert_eq!(parsed, httparse::Status::Complete(framing.head_len));

    let values = |name: &str| {
        let of_name = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        of_name.map(|field| field.value).collect::<Vec<_>>()
    };
    match framing.body {
        BodyFraming::Chunked => assert!(values("content-length").is_empty()),
        BodyFraming::Length(length) => {
            let text = values("content-length");
            assert_eq!(std::str::from_utf8(text[0]).expect("digits").parse(), Ok(length));
            assert!(text.len() == 1 && values("transfer-encoding").is_empty());
        }
        BodyFraming::None => assert!(values("transfer-encoding").is_empty()),
    }
}

/// One chunked body, whole and in pieces, against a reader that goes from chunk to chunk.
pub(crate) fn h1_chunked(input: &[u8]) {
    let (size, body) = pieces(input);
    let (end, done, failed) = scan_chunks(&[body]);
    let cut: Vec<&[u8]> = body.chunks(size).collect();
    let (cut_end, cut_done, cut_failed) = scan_chunks(&cut);
    assert_eq!((done, failed), (cut_done, cut_failed));
    if done {
        assert_eq!(end, cut_end);
        let data = end_of_data(body).expect("a body that passed is one to everybody");
        assert!(data < end && body[..end].ends_with(b"\r\n"));
    }
}

/// How far the body reaches, and whether it is complete; an error keeps what preceded it.
fn scan_chunks(pieces: &[&[u8]]) -> (usize, bool, bool) {
    let mut scanner = ChunkScanner::default();
    let mut total = 0;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match scanner.scan(rest) {
                Ok(progress) => {
                    total += progress.consumed;
                    rest = &rest[progress.consumed..];
                    if progress.done {
                        return (total, true, false);
                    }
                }
                Err(_) => return (total, false, true),
            }
        }
    }
    (total, false, false)
}

/// The end of the last chunk's size line by `httparse`, if all chunks are there.
fn end_of_data(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(&body[at..]).ok()? else {
            return None;
        };
        at += line;
        if size == 0 {
            return Some(at);
        }
        at = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
        if at > body.len() {
            return None;
        }
    }
}

/// A stream of messages, whole and in pieces: what passes is the same, and each head in it reads alike.
pub(crate) fn h1_guard(input: &[u8]) {
    let (size, stream) = pieces(input);
    let (passed, heads, rest) = scan_requests(stream, stream.len().max(1));
    let (cut_passed, cut_heads, cut_rest) = scan_requests(stream, size);
    assert_eq!(heads, cut_heads);
    assert!(stream.starts_with(&passed) && stream.starts_with(&cut_passed));
    match (rest, cut_rest) {
        // The faulty line of a body may be passed in part, never a byte after it.
        (Rest::BrokenBody(one), Rest::BrokenBody(other)) => assert_eq!(one, other),
        // The end of the last message and bytes after it may fall into one piece or two.
        (Rest::Ignored, _) | (_, Rest::Ignored) => assert_eq!(passed, cut_passed),
        _ => assert_eq!((passed, rest), (cut_passed, cut_rest)),
    }
}

/// Feeds `stream` in pieces as the guard does; the bytes passed, the number of heads, and the final verdict.
fn scan_requests(stream: &[u8], piece: usize) -> (Vec<u8>, u64, Rest) {
    const LIMITS: HeadLimits = HeadLimits { max_bytes: 1024, max_headers: 20 };
    let mut scanner = RequestScanner::default();
    let (mut passed, mut held, mut heads) = (Vec::new(), Vec::new(), 0);
    let mut rest = Rest::Incomplete;
    for piece in stream.chunks(piece) {
        held.extend_from_slice(piece);
        let scan = scanner.scan(&held, &LIMITS);
        assert!(scan.pass <= held.len());
        passed.extend(held.drain(..scan.pass));
        heads += scan.heads;
        rest = scan.rest;
        match rest {
            Rest::Incomplete => assert!(held.len() < LIMITS.max_bytes),
            Rest::Held => {}
            Rest::Ignored | Rest::RefusedHead(_) | Rest::BrokenBody(_) => break,
        }
    }
    (passed, heads, rest)
}

/// Frames of HTTP/2 in both directions: the verdict does not depend on how they are cut, and a farewell is written
/// between two frames only.
pub(crate) fn h2_frames(input: &[u8]) {
    let (size, stream) = pieces(input);
    for role in [Role::Server, Role::Client] {
        let watch = |size: usize| {
            let mut watch = FrameWatch::new(role, Mono::ZERO);
            let (mut received, mut sent) = (Ok(()), Ok(()));
            for piece in stream.chunks(size) {
                received = received.and(watch.received(piece, Mono::ZERO));
            }
            for piece in stream.chunks(size) {
                sent = sent.and(watch.sent(piece, Mono::ZERO));
            }
            (received, sent, watch.farewell())
        };
        assert_eq!(watch(stream.len().max(1)), watch(size), "{role:?}");
    }
}

/// The first bytes of a connection: once it is decided, more bytes change nothing.
pub(crate) fn detect(bytes: &[u8]) {
    let mut decided = Sniff::Undecided;
    for end in 0..=bytes.len() {
        let now = sniff(&bytes[..end]);
        assert!(decided == Sniff::Undecided || decided == now, "{decided:?} became {now:?}");
        decided = now;
    }
    assert_eq!(decided == Sniff::Http2, bytes.starts_with(H2_PREFACE));
}

/// A ClientHello, whole and byte by byte; a name is a name.
pub(crate) fn client_hello(bytes: &[u8]) {
    let whole = HelloReader::default().push(bytes);
    let mut reader = HelloReader::default();
    let piecewise = bytes.iter().map(|byte| reader.push(&[*byte])).find(|found| !matches!(found, Ok(None)));
    assert_eq!(whole, piecewise.unwrap_or(Ok(None)));
    if let Ok(Some(hello)) = whole
        && let Some(name) = hello.server_name
    {
        let odd = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_control();
        assert!(name.len() <= 253 && !name.bytes().any(odd), "{name:?}");
    }
}

/// A PROXY header, whole and byte by byte; what passes can be written again and reads the same.
pub(crate) fn proxy_protocol(bytes: &[u8]) {
    let whole = proxy_protocol::parse(bytes);
    let cut = (0..=bytes.len()).map(|end| proxy_protocol::parse(&bytes[..end]));
    let first = cut.into_iter().find(|found| *found != Ok(Parsed::Incomplete));
    assert_eq!(whole, first.unwrap_or(Ok(Parsed::Incomplete)));
    let Ok(Parsed::Complete { length, addresses }) = whole else { return };
    assert!(length <= MAX_HEADER && length <= bytes.len());
    let Some(addresses) = addresses else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = proxy_protocol::write(version, addresses);
        let read = proxy_protocol::parse(&header).expect("what we write can be read");
        let Parsed::Complete { length, addresses: Some(found) } = read else { unreachable!("{read:?}") };
        assert_eq!(length, header.len());
        assert_eq!(found.source.ip().to_canonical(), addresses.source.ip().to_canonical());
        assert_eq!(found.destination.ip().to_canonical(), addresses.destination.ip().to_canonical());
    }
}

/// A path: whatever passes has no parent segment in it for any reader that decodes once, and is normal.
pub(crate) fn path(input: &[u8]) {
    let Some((flags, target)) = input.split_first() else { return };
    let Ok(target) = std::str::from_utf8(target) else { return };
    if path::check(target).is_err() {
        return;
    }
    let slashes = [EscapedSlashes::Keep, EscapedSlashes::Unescape, EscapedSlashes::Reject];
    let how = Normalisation {
        escaped_slashes: slashes[usize::from(flags % 3)],
        merge_slashes: flags & 4 != 0,
        ..Normalisation::default()
    };
    let Ok(normal) = path::normalise(target, &how) else { return };
    let normal =
        normal.map_or_else(|| target.to_owned(), |normal| String::from_utf8(normal.to_vec()).expect("text"));
    assert_eq!(path::check(&normal), Ok(()), "{normal:?}");
    assert_eq!(path::normalise(&normal, &how), Ok(None), "{normal:?} changes again");
    let (before, after) = (target.split_once('?'), normal.split_once('?'));
    assert_eq!(before.map(|(_, query)| query), after.map(|(_, query)| query), "the query stays");

    let seen = normal.split('?').next().unwrap_or_default();
    for reader in [decoded(seen), decoded(seen).replace('\\', "/")] {
        let parent = |segment: &str| segment.split(';').next() == Some("..");
        assert!(!reader.split('/').any(parent), "{target:?} became {normal:?}, read as {reader:?}");
    }
    assert!(!how.merge_slashes || !seen.contains("//"), "{normal:?}");
}

fn decoded(path: &str) -> String {
    let (mut text, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let hex = |digit: u8| char::from(digit).to_digit(16);
        if let (b'%', [high, low, tail @ ..]) = (byte, after)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            text.push(u8::try_from(high * 16 + low).expect("two digits"));
            rest = tail;
        } else {
            text.push(*byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Lines `name: value` with the names of trace headers: what goes on is valid, and goes on unchanged from there.
pub(crate) fn trace(input: &[u8]) {
    let formats = [Propagation::TraceContext, Propagation::B3];
    let mut headers = read_fields(input);
    let mut rng = fastrand::Rng::with_seed(1);
    let id = trace::propagate(&mut headers, &formats, &mut rng);
    let found = trace::TraceContext::extract(&headers, &formats).map(|context| context.trace_id);
    if id.is_some() {
        assert_eq!(found, id, "what is told can be read: {headers:?}");
    }
    let before = headers.clone();
    assert_eq!(trace::propagate(&mut headers, &formats, &mut rng), id);
    assert_eq!(headers, before, "the next hop changes nothing");
    let made = request_id::ensure(&mut headers, std::time::UNIX_EPOCH, &mut rng);
    assert!((1..=128).contains(&made.as_bytes().len()));
    assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
}

fn read_fields(input: &[u8]) -> HeaderMap {
    let lines = input.split(|byte| *byte == b'\n').take(50);
    let fields = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    });
    let mut headers = HeaderMap::new();
    fields.for_each(|(name, value)| {
        headers.append(name, value);
    });
    headers
}

/// The value of a field that the proxy acts upon: whatever it is, what comes of it is within bounds.
pub(crate) fn fields(value: &[u8]) {
    let mut rng = fastrand::Rng::with_seed(1);
    let now = Mono::from_nanos(1_000_000_000);
    for left in [deadline::parse_timeout_ms(value), deadline::parse_grpc_timeout(value)].into_iter().flatten()
    {
        assert!(now.after(left) >= now, "{left:?}");
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let again =
            deadline::parse_grpc_timeout(deadline::grpc_timeout(millis).as_bytes()).expect("what we write");
        assert!(again <= left, "a deadline never grows: {left:?} became {again:?}");
    }
    if let Some(wait) = retry::retry_after(value, &mut rng) {
        assert!(wait <= LONGEST_RETRY_AFTER.mul_f64(1.5));
    }
    assert!(retry::pushback(value).is_none_or(|wait| wait <= LONGEST_RETRY_AFTER));
    assert!(fault::parse_delay(value).is_none_or(|delay| delay < Duration::from_secs(1_000_000_000)));
    assert!(
        fault::parse_abort(value).is_none_or(|status| status.is_client_error() || status.is_server_error())
    );
    let priority = Priority::parse(value);
    assert_eq!(Priority::parse(priority.as_str().as_bytes()), priority);
    if let Ok(text) = std::str::from_utf8(value)
        && let Ok(address) = text.parse::<EndpointAddress>()
    {
        assert_eq!(address.to_string().parse::<EndpointAddress>().ok(), Some(address));
    }
    let Ok(cookie) = HeaderValue::from_bytes(value) else { return };
    let mut headers = HeaderMap::new();
    headers.insert("cookie", cookie);
    let affinity = AffinityParams { cookie: "sid".into(), ttl: None, path: "/".into() };
    if let Some(session) = affinity.asked_for(&headers) {
        let set = affinity.set_cookie(session).expect("hexadecimal digits");
        headers.insert("cookie", set);
        assert_eq!(affinity.asked_for(&headers), Some(session));
    }
    assert_ne!(SessionId::of("a"), SessionId::of("b"));
    let query = std::str::from_utf8(value).ok();
    let request = RequestView { host: "h", path: "/", query, method: &Method::GET, headers: &headers };
    for hash_on in [HashOn::Cookie("sid".to_owned()), HashOn::Query("a".to_owned())] {
        let key = || hash_key(&hash_on, &request, std::net::Ipv4Addr::LOCALHOST.into());
        assert_eq!(key(), key());
    }
}

struct Nothing;

impl config::Environment for Nothing {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "SET").then(|| "value".to_owned())
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// A configuration: findings are within the text, and what is accepted is understood again as it is in force.
pub(crate) fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines = text.split('\n').count();
    match config::parse("fuzzed.yaml", text, &Nothing) {
        Ok((bundle, _)) => {
            let effective = config::effective_yaml(&bundle);
            if text.contains("${") || effective.contains("***") {
                // What came from elsewhere is masked, and may be no value any more.
                return;
            }
            let again = config::parse("effective.yaml", &effective, &Nothing);
            let (again, _) = again.unwrap_or_else(|findings| {
                unreachable!("{}\n{effective}", findings.render_text(config::Style::Plain))
            });
            assert_eq!(config::Diff::between(&bundle, &again), config::Diff::default(), "{effective}");
        }
        Err(findings) => {
            assert!(!findings.items().is_empty(), "refused without a reason");
            for finding in findings.items() {
                assert!((1..=lines + 1).contains(&finding.line), "{finding:?}");
                assert!(finding.column >= 1 && finding.end_line >= finding.line, "{finding:?}");
            }
            let shown = findings.render_text(config::Style::Plain);
            assert!(!shown.is_empty());
        }
    }
}

/// A token as it is read before its signature is verified, and a key set as a server may send it.
pub(crate) fn jwt(input: &[u8]) {
    if let Ok(token) = Token::read(input) {
        let text = std::str::from_utf8(input).expect("what was read is text");
        let parts: Vec<&str> = text.split('.').collect();
        assert_eq!(parts.len(), 3);
        let plain =
            |part: &&str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        assert!(parts.iter().all(plain));
        assert!(token.issuer().is_none_or(|issuer| issuer.len() < input.len()));
    }
    if let Ok(keys) = KeySet::from_jwks(input) {
        assert!((1..=64).contains(&keys.len()));
    }
}
