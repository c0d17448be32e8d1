//! B3, as Zipkin says: one `b3` header, or several `X-B3-*` headers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Sampling, SpanId, TraceContext, TraceId};
use crate::telemetry::hex;

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What the B3 headers of a request say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extracted {
    /// Nothing, or something invalid.
    Nothing,
    /// No trace yet, but a decision for the one that starts now.
    Decision(Sampling),
    /// A position in a trace.
    Context(TraceContext),
}

impl Extracted {
    pub(super) const fn context(self) -> Option<TraceContext> {
        match self {
            Self::Context(context) => Some(context),
            Self::Nothing | Self::Decision(_) => None,
        }
    }

    pub(super) const fn sampling(self) -> Option<Sampling> {
        match self {
            Self::Decision(sampling) => Some(sampling),
            Self::Nothing | Self::Context(_) => None,
        }
    }
}

/// The single header, if there is one; else the others.
pub(super) fn extract(headers: &HeaderMap) -> Extracted {
    match only(headers, &SINGLE) {
        Ok(Some(value)) => parse_single(value).unwrap_or(Extracted::Nothing),
        Ok(None) => parse_multi(headers).unwrap_or(Extracted::Nothing),
        Err(Repeated) => Extracted::Nothing,
    }
}

/// Writes the single header in place of all that came.
pub(super) fn remove(headers: &mut HeaderMap) {
    for name in [SINGLE, TRACE_ID, SPAN_ID, PARENT_SPAN_ID, SAMPLED, FLAGS] {
        headers.remove(name);
    }
}

/// Writes the context in one header, in place of whatever is there.
pub(super) fn write(headers: &mut HeaderMap, context: &TraceContext) {
    remove(headers);
    let mut text = *b"00000000000000000000000000000000-0000000000000000-0";
    hex::write(&context.trace_id.0, &mut text[..32]);
    hex::write(&context.span_id.0, &mut text[33..49]);
    let length = match context.sampling {
        Sampling::Deferred => 49,
        Sampling::Off | Sampling::On | Sampling::Debug => text.len(),
    };
    text[50] = match context.sampling {
        Sampling::On => b'1',
        Sampling::Debug => b'd',
        Sampling::Off | Sampling::Deferred => b'0',
    };
    match HeaderValue::from_bytes(&text[..length]) {
        Ok(value) => headers.insert(SINGLE, value),
        // Cannot be: digits and dashes are visible ASCII.
        Err(_) => headers.remove(SINGLE),
    };
}

/// `{trace}-{span}[-{decision}[-{parent}]]`, or a decision alone.
fn parse_single(value: &[u8]) -> Option<Extracted> {
    let mut parts = value.split(|byte| *byte == b'-');
    let (first, span) = (parts.next()?, parts.next());
    let Some(span) = span else { return decision(first).map(Extracted::Decision) };
    let sampling = match parts.next() {
        Some(part) => decision(part)?,
        None => Sampling::Deferred,
    };
    if let Some(parent) = parts.next() {
        hex::parse::<8>(parent)?;
    }
    if parts.next().is_some() {
        return None;
    }
    let context =
        TraceContext { trace_id: trace_id(first)?, span_id: SpanId::new(hex::parse(span)?)?, sampling };
    Some(Extracted::Context(context))
}

fn parse_multi(headers: &HeaderMap) -> Option<Extracted> {
    let sampling = match (only(headers, &FLAGS).ok()?, only(headers, &SAMPLED).ok()?) {
        (Some(b"1"), _) => Sampling::Debug,
        (_, Some(b"1" | b"true")) => Sampling::On,
        (_, Some(b"0" | b"false")) => Sampling::Off,
        (_, Some(_)) => return None,
        (_, None) => Sampling::Deferred,
    };
    match (only(headers, &TRACE_ID).ok()?, only(headers, &SPAN_ID).ok()?) {
        (None, None) if sampling != Sampling::Deferred => Some(Extracted::Decision(sampling)),
        (Some(trace), Some(span)) => {
            if let Some(parent) = only(headers, &PARENT_SPAN_ID).ok()? {
                hex::parse::<8>(parent)?;
            }
            let context = TraceContext {
                trace_id: trace_id(trace)?,
                span_id: SpanId::new(hex::parse(span)?)?,
                sampling,
            };
            Some(Extracted::Context(context))
        }
        _ => None,
    }
}

fn decision(text: &[u8]) -> Option<Sampling> {
    match text {
        b"0" => Some(Sampling::Off),
        b"1" => Some(Sampling::On),
        b"d" => Some(Sampling::Debug),
        _ => None,
    }
}

/// 128 bits, or 64 that are padded on the left.
fn trace_id(text: &[u8]) -> Option<TraceId> {
    if text.len() == 16 {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&hex::parse::<8>(text)?);
        return TraceId::new(bytes);
    }
    TraceId::new(hex::parse(text)?)
}

/// The header came more than once, and nobody can tell which one is meant.
struct Repeated;

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Repeated> {
    let mut all = headers.get_all(name).iter();
    let first = all.next().map(HeaderValue::as_bytes);
    if all.next().is_some() { Err(Repeated) } else { Ok(first) }
}
