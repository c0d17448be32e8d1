//! Passes the bytes of a redirected connection on unread to where it was going. The copying itself is proxy/tcp's.

use tokio::net::TcpStream;

use super::{
    ListenersParams,
    gauge::Raised,
    intercept::RawPlan,
    tcp::{Broken, Flow, relay},
    worker::Worker,
};
use crate::{
    net::{self, DialError, Stream},
    rt::Phase,
    telemetry::metrics::PassthroughResult,
    types::EndpointAddress,
};

/// Connects `client` to where `plan` says and copies until both sides have finished or nothing moves for the idle
/// time. While the process drains the connection goes on; it is cut at the end of the drain. A connection that cannot
/// be made, breaks off or is cut is reset on both sides: an early end must not look like an orderly one.
pub(crate) async fn run(worker: &Worker, limits: &ListenersParams, client: TcpStream, plan: RawPlan) {
    let RawPlan { to, from, connect_timeout, metrics } = plan;
    let mut client = Stream::Tcp(client);
    let dialed = match from {
        Some(source) => net::dial_from(source, to, connect_timeout).await,
        None => net::dial(&EndpointAddress::Tcp(to), connect_timeout).await,
    };
    let mut upstream = match dialed {
        Ok(upstream) => upstream,
        Err(error) => {
            metrics.decided(match &error {
                DialError::Refused(_) => PassthroughResult::Refused,
                DialError::TimedOut(_) => PassthroughResult::Timeout,
            });
            tracing::debug!(destination = %to, %error, "a redirected connection could not be passed on");
            // What cannot be reset is gone already.
            let _ = client.reset_on_close();
            return;
        }
    };
    metrics.decided(PassthroughResult::Ok);
    let _open = Raised::new(metrics.open());
    let (mut up, mut down) = (Flow::new(metrics.received()), Flow::new(metrics.sent()));
    let mut drain = worker.drain.clone();
    let flows = (&mut up, &mut down);
    let copied = tokio::select! {
        copied = relay(&mut client, &mut upstream, flows, limits.tcp_idle_timeout, &worker.clock) => Some(copied),
        () = drain.reached(Phase::Stopped) => None,
    };
    if !matches!(copied, Some(Ok(()) | Err(Broken::Idle))) {
        tracing::debug!(destination = %to, outcome = ?copied, "a redirected connection broke off");
        let _ = (client.reset_on_close(), upstream.reset_on_close());
    }
}
