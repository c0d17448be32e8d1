//! `grpc.health.v1.Health/Check`: its two messages, written by hand, and what an answer means. A protobuf
//! library would be a build step for one string and one enum.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    CheckFailure,
    http::{Answer, Question, post_over_http2},
};

const PATH: &str = "/grpc.health.v1.Health/Check";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Length of what precedes each message: a flag for compression, four bytes of length.
const PREFIX: usize = 5;

/// What a health service says of a service. Numbers that we do not know are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServingStatus {
    /// Not known (0, also if it says nothing).
    Unknown,
    /// Serves (1).
    Serving,
    /// Does not serve (2).
    NotServing,
    /// Nothing is known of a service of that name (3).
    ServiceUnknown,
    /// A status of a later version.
    Other(u64),
}

impl fmt::Display for ServingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("UNKNOWN"),
            Self::Serving => f.write_str("SERVING"),
            Self::NotServing => f.write_str("NOT_SERVING"),
            Self::ServiceUnknown => f.write_str("SERVICE_UNKNOWN"),
            Self::Other(number) => write!(f, "{number}"),
        }
    }
}

/// Asks for `service`; passes only if the answer is SERVING.
pub(super) async fn check<S>(service: &str, authority: &str, stream: S) -> Result<(), CheckFailure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (header::TE, HeaderValue::from_static("trailers")),
    ];
    let question = Question { authority, path: PATH, headers: &headers };
    let answer = post_over_http2(&question, request_message(service), stream).await?;
    match serving_status(&answer)? {
        ServingStatus::Serving => Ok(()),
        other => Err(CheckFailure::NotServing(other)),
    }
}

/// Name of a gRPC status code.
pub(super) fn status_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(code as usize).copied().unwrap_or("no known code")
}

fn serving_status(answer: &Answer) -> Result<ServingStatus, CheckFailure> {
    if answer.head.status() != http::StatusCode::OK {
        let only_ok = vec![crate::snapshot::StatusRange { first: 200, last: 200 }];
        return Err(CheckFailure::Status { status: answer.head.status().as_u16(), expected: only_ok });
    }
    let content_type = answer.head.headers().get(header::CONTENT_TYPE);
    if !content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return Err(CheckFailure::GrpcAnswer("its content type is not application/grpc"));
    }
    // An answer without a message has its status in the head.
    let trailers = answer.trailers.as_ref().unwrap_or(answer.head.headers());
    match status_code(trailers) {
        Some(0) => {}
        Some(code) => return Err(CheckFailure::GrpcStatus(code)),
        None => return Err(CheckFailure::GrpcAnswer("it has no grpc-status")),
    }
    decode_status(message(&answer.body)?).ok_or(CheckFailure::GrpcAnswer("its message is not valid protobuf"))
}

fn status_code(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// `HealthCheckRequest { string service = 1; }` behind its prefix.
fn request_message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | WireType::LENGTH_DELIMITED);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    // A service name is bounded by the configuration file; its length fits many times.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

/// The one message of a body.
fn message(body: &[u8]) -> Result<&[u8], CheckFailure> {
    let Some((&[compressed, a, b, c, d], message)) = body.split_first_chunk::<PREFIX>() else {
        return Err(CheckFailure::GrpcAnswer("it has no message"));
    };
    if compressed != 0 {
        return Err(CheckFailure::GrpcAnswer("its message is compressed, which was not offered"));
    }
    if u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return Err(CheckFailure::GrpcAnswer("its message does not have the length it says"));
    }
    Ok(message)
}

/// `HealthCheckResponse { ServingStatus status = 1; }`. Fields that we do not know are passed over; the last of
/// several statuses counts, as protobuf has it. `None` if it is not protobuf.
fn decode_status(mut message: &[u8]) -> Option<ServingStatus> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match (tag >> 3, (tag & 7) as u8) {
            (1, WireType::VARINT) => status = take_varint(&mut message)?,
            (_, WireType::VARINT) => drop(take_varint(&mut message)?),
            (_, WireType::FIXED_64) => message = message.get(8..)?,
            (_, WireType::FIXED_32) => message = message.get(4..)?,
            (_, WireType::LENGTH_DELIMITED) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(match status {
        0 => ServingStatus::Unknown,
        1 => ServingStatus::Serving,
        2 => ServingStatus::NotServing,
        3 => ServingStatus::ServiceUnknown,
        other => ServingStatus::Other(other),
    })
}

/// The wire types of protobuf that are in use.
struct WireType;

impl WireType {
    const VARINT: u8 = 0;
    const FIXED_64: u8 = 1;
    const LENGTH_DELIMITED: u8 = 2;
    const FIXED_32: u8 = 5;
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// At most ten bytes; bits beyond the 64th are lost, as other decoders have it.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for place in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_the_service_behind_its_prefix() {
        assert_eq!(&*request_message(""), [0, 0, 0, 0, 0]);
        assert_eq!(&*request_message("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request_message(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 5 + 3 + 300);
    }

    #[test]
    fn statuses_are_read_whatever_stands_around_them() {
        let cases: [(&[u8], Option<ServingStatus>); 11] = [
            (&[], Some(ServingStatus::Unknown)),
            (&[0x08, 1], Some(ServingStatus::Serving)),
            (&[0x08, 2], Some(ServingStatus::NotServing)),
            (&[0x08, 3], Some(ServingStatus::ServiceUnknown)),
            (&[0x08, 0x80, 0x01], Some(ServingStatus::Other(128))),
            (&[0x08, 1, 0x08, 2], Some(ServingStatus::NotServing)),
            (&[0x12, 2, b'h', b'i', 0x08, 1, 0x18, 9], Some(ServingStatus::Serving)),
            (&[0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0x15, 0, 0, 0, 0, 0x08, 1], Some(ServingStatus::Serving)),
            (&[0x08], None),
            (&[0x12, 200, 1, b'x'], None),
            (&[0x0b], None),
        ];
        for (message, expected) in cases {
            assert_eq!(decode_status(message), expected, "{message:?}");
        }
        assert_eq!(decode_status(&[0xff; 11]), None);
    }

    #[test]
    fn a_body_is_exactly_one_plain_message() {
        assert_eq!(message(&[0, 0, 0, 0, 2, 8, 1]).unwrap(), [8, 1]);
        for body in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 8], &[0, 0, 0, 0, 0, 8]] {
            assert!(matches!(message(body), Err(CheckFailure::GrpcAnswer(_))), "{body:?}");
        }
    }
}
