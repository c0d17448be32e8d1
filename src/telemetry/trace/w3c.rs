//! `traceparent` and `tracestate`, as W3C Trace Context says.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Sampling, SpanId, TraceContext, TraceId};
use crate::telemetry::hex;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` + 32 digits + `-` + 16 digits + `-` + 2 digits.
const LENGTH: usize = 55;

/// Bit of the flags that says that the caller may have recorded the trace.
const SAMPLED: u8 = 1;

/// The context in `traceparent`. More than one such header is as invalid as a malformed one.
pub(super) fn extract(headers: &HeaderMap) -> Option<TraceContext> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let value = all.next().filter(|_| all.next().is_none())?;
    parse(value.as_bytes())
}

/// Version 00 has exactly this form; a later version may go on after another dash. Version ff is forbidden.
pub(super) fn parse(value: &[u8]) -> Option<TraceContext> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let [version] = hex::parse::<1>(&known[..2])?;
    let longer_is_fine = version > 0 && rest.first() == Some(&b'-');
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    if version == 0xff || !dashes || !(rest.is_empty() || longer_is_fine) {
        return None;
    }
    let [flags] = hex::parse::<1>(&known[53..])?;
    Some(TraceContext {
        trace_id: TraceId::new(hex::parse(&known[3..35])?)?,
        span_id: SpanId::new(hex::parse(&known[36..52])?)?,
        sampling: if flags & SAMPLED == 0 { Sampling::Off } else { Sampling::On },
    })
}

/// Writes `traceparent`, and removes a `tracestate` that belonged to an invalid one.
pub(super) fn remove(headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
}

/// Writes the context, in place of whatever is there.
pub(super) fn write(headers: &mut HeaderMap, context: &TraceContext) {
    headers.remove(TRACESTATE);
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    hex::write(&context.trace_id.0, &mut text[3..35]);
    hex::write(&context.span_id.0, &mut text[36..52]);
    // What B3 leaves to the next hop has no word here. "Sampled" would record every such request.
    if matches!(context.sampling, Sampling::On | Sampling::Debug) {
        text[54] = b'1';
    }
    match HeaderValue::from_bytes(&text) {
        Ok(value) => headers.insert(TRACEPARENT, value),
        // Cannot be: digits and dashes are visible ASCII.
        Err(_) => headers.remove(TRACEPARENT),
    };
}
