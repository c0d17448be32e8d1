//! The line about one TCP connection. It has the fields of a request's line that make sense without requests.

use std::{
    io::Write,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use super::format::Fields;
use crate::types::{Direction, EndpointAddress};

/// One TCP connection that has ended.
#[derive(Clone, Copy, Debug)]
pub struct TcpRecord<'a> {
    /// When it ended.
    pub at: SystemTime,
    /// Which side.
    pub direction: Direction,
    /// Name of the listener.
    pub listener: &'a str,
    /// Server name that the client asked for; empty if none was looked for or found.
    pub server_name: &'a str,
    /// Name of the service; empty if none was chosen.
    pub service: &'a str,
    /// Endpoint of the last attempt.
    pub endpoint: Option<&'a EndpointAddress>,
    /// How it ended; a word fixed in the code.
    pub result: &'static str,
    /// The client did not get what it came for.
    pub failed: bool,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// From accept to close.
    pub duration: Duration,
    /// Attempts to connect.
    pub attempts: u32,
    /// The service, or else the identity, that the caller has proved; empty if nobody did.
    pub source: &'a str,
    /// Address of the client.
    pub client: IpAddr,
}

pub(super) fn write_fields(fields: &mut Fields<'_>, record: &TcpRecord<'_>) {
    fields.token("direction", record.direction.as_str().as_bytes());
    fields.text("listener", record.listener.as_bytes());
    fields.text("server_name", record.server_name.as_bytes());
    fields.text("service", record.service.as_bytes());
    if let Some(endpoint) = record.endpoint {
        fields.text("endpoint", endpoint.to_string().as_bytes());
    }
    fields.token("result", record.result.as_bytes());
    fields.number("bytes_in", record.bytes_in);
    fields.number("bytes_out", record.bytes_out);
    fields.millis("duration_ms", Some(record.duration));
    fields.number("attempts", u64::from(record.attempts));
    fields.token("protocol", b"tcp");
    if !record.source.is_empty() {
        fields.text("source", record.source.as_bytes());
    }
    let mut buffer = [0; 48];
    let mut rest = &mut buffer[..];
    // The longest address has 45 characters.
    let _ = write!(rest, "{}", record.client);
    let length = 48 - rest.len();
    fields.token("client", &buffer[..length]);
}
