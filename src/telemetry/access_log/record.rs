//! What a line of the access log tells.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use http::{Method, Version};

use crate::{
    telemetry::trace::TraceId,
    types::{Direction, EndpointAddress, Flag},
};

/// One request that has ended. Everything is borrowed and nothing formatted, because most records are left out.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// When it ended.
    pub at: SystemTime,
    /// Which listener.
    pub direction: Direction,
    /// Method as received.
    pub method: &'a Method,
    /// Host or authority as received; empty if there was none.
    pub host: &'a [u8],
    /// Path without the query, which may carry secrets.
    pub path: &'a str,
    /// Name of the route; empty if none matched.
    pub route: &'a str,
    /// Name of the service; empty if no route chose one.
    pub service: &'a str,
    /// Endpoint of the last attempt.
    pub endpoint: Option<&'a EndpointAddress>,
    /// Status that was sent; 0 if none was.
    pub status: u16,
    /// Why the proxy itself answered or cut the request short.
    pub flag: Flag,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// First request byte to last response byte.
    pub duration: Duration,
    /// First request byte to first response byte.
    pub time_to_first_byte: Option<Duration>,
    /// The wait for the upstream.
    pub upstream: Option<Duration>,
    /// Time in the proxy itself.
    pub overhead: Option<Duration>,
    /// Attempts that were made; 0 if the proxy answered by itself.
    pub attempts: u32,
    /// What the client spoke.
    pub protocol: Version,
    /// `x-request-id`.
    pub request_id: &'a [u8],
    /// The trace the request belongs to.
    pub trace_id: Option<TraceId>,
    /// The service, or else the identity, that the caller has proved; empty if nobody did.
    pub source: &'a str,
    /// The rule that refused it; empty if none did.
    pub rule: &'a str,
    /// Address of the client; `None` on a Unix socket.
    pub client: Option<IpAddr>,
}
