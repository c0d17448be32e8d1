//! Trace context of requests: reads `traceparent` (W3C) and B3, hands on what came, starts a trace where none did.
//!
//! The proxy makes no spans yet, so a valid context passes through byte for byte: its parent is still whoever
//! made the request.

mod b3;
#[cfg(test)]
mod tests;
mod w3c;

use std::fmt;

use http::HeaderMap;

use super::{Propagation, hex};

/// Sixteen bytes that name a trace; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// `None` for all zeros, which every format calls invalid.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Thirty-two lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> [u8; 32] {
        let mut text = [0; 32];
        hex::write(&self.0, &mut text);
        text
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Eight bytes that name the span which made the request; never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl SpanId {
    fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }
}

/// Whether the trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Whoever started the trace does not record it.
    Off,
    /// It is recorded.
    On,
    /// It is recorded whatever samplers say; only B3 has this.
    Debug,
    /// The decision is left to the next hop; only B3 has this.
    Deferred,
}

/// The position of a request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Names the trace.
    pub trace_id: TraceId,
    /// Names the span that made the request.
    pub span_id: SpanId,
    /// Whether it is recorded.
    pub sampling: Sampling,
}

impl TraceContext {
    /// The context that a request carries, in the formats of `formats` only. `traceparent` wins over B3, the
    /// single `b3` header over the `X-B3-*` headers. An invalid context counts as absent.
    #[must_use]
    pub fn extract(headers: &HeaderMap, formats: &[Propagation]) -> Option<Self> {
        let w3c = formats.contains(&Propagation::TraceContext).then(|| w3c::extract(headers)).flatten();
        w3c.or_else(|| formats.contains(&Propagation::B3).then(|| b3::extract(headers).context()).flatten())
    }
}

/// Makes `headers` carry one trace context in all of `formats`, and returns the id of its trace.
///
/// - What came and is valid stays as it is.
/// - What came and is invalid is removed, `tracestate` together with its `traceparent`.
/// - A format that is missing is written from the one that came.
/// - If nothing valid came, no trace starts here, unless B3 brought a sampling decision without ids: the proxy
///   records no spans, and a context of its own would decide for the application whether the trace is sampled.
///
/// Headers of formats that are not in `formats` are not touched; without formats nothing happens. Does not
/// allocate if a valid `traceparent` came and no other format is wanted.
pub fn propagate(
    headers: &mut HeaderMap,
    formats: &[Propagation],
    rng: &mut fastrand::Rng,
) -> Option<TraceId> {
    // One pass over the names is cheaper than a look-up for each, and most requests have none of them.
    if !headers.keys().any(|name| is_trace_header(name.as_str())) {
        return None;
    }
    let use_w3c = formats.contains(&Propagation::TraceContext);
    let use_b3 = formats.contains(&Propagation::B3);
    let w3c = if use_w3c { w3c::extract(headers) } else { None };
    if let (Some(context), false) = (w3c, use_b3) {
        return Some(context.trace_id);
    }
    let b3 = if use_b3 { b3::extract(headers) } else { b3::Extracted::Nothing };
    if !use_w3c && !use_b3 {
        return None;
    }
    let came = w3c.or_else(|| b3.context());
    let Some(context) = came.or_else(|| b3.sampling().map(|sampling| start(sampling, rng))) else {
        if use_w3c {
            w3c::remove(headers);
        }
        if use_b3 {
            b3::remove(headers);
        }
        return None;
    };
    if use_w3c && w3c.is_none() {
        w3c::write(headers, &context);
    }
    if use_b3 && b3.context().is_none() {
        b3::write(headers, &context);
    }
    Some(context.trace_id)
}

fn is_trace_header(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b't') => name == "traceparent" || name == "tracestate",
        Some(b'b') => name == "b3",
        Some(b'x') => name.starts_with("x-b3-"),
        _ => false,
    }
}

/// A new trace with the decision that the caller made.
fn start(sampling: Sampling, rng: &mut fastrand::Rng) -> TraceContext {
    // A non-zero number each time, because zero is not an id.
    let trace_id = (u128::from(rng.u64(..)) << 64) | u128::from(rng.u64(1..));
    TraceContext {
        trace_id: TraceId(trace_id.to_be_bytes()),
        span_id: SpanId(rng.u64(1..).to_be_bytes()),
        sampling,
    }
}
