//! What a connection beyond the cap gets: a short answer that says why, and a close.

use std::{cell::Cell, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{secure, tcp::Inbound, worker::Worker};
use crate::{
    telemetry::metrics::{ConnectionProtocol, ListenerOutcome},
    types::Direction,
};

const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    proxy-status: outrigger; error=connection_limit_reached\r\n\
    x-outrigger-flag: overload\r\n\
    retry-after: 1\r\n\
    content-length: 0\r\n\
    connection: close\r\n\r\n";

/// Refusals that are being spoken at once, per worker; beyond it connections are closed without a word.
const MAX_SPEAKING: usize = 64;
/// How long the client may take to hear it.
const LIMIT: Duration = Duration::from_secs(1);

thread_local! {
    static SPEAKING: Cell<usize> = const { Cell::new(0) };
}

struct Speaking;

impl Speaking {
    fn begin() -> Option<Self> {
        SPEAKING.with(|speaking| {
            let free = speaking.get() < MAX_SPEAKING;
            if free {
                speaking.set(speaking.get() + 1);
            }
            free.then_some(Self)
        })
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        SPEAKING.with(|speaking| speaking.set(speaking.get() - 1));
    }
}

/// Refuses `stream`.
pub(super) fn refuse(worker: &Worker, mut stream: TcpStream, side: Direction) {
    if Inbound::takes_all(side, &worker.snapshot.peek()) {
        return worker.inbound_tcp.refuse(stream);
    }
    worker.listener_metrics(side).opened(ConnectionProtocol::Unknown, ListenerOutcome::Refused);
    if secure::speaks_tls(worker, side) {
        // Words in plaintext would be taken for a broken handshake.
        return;
    }
    let Some(speaking) = Speaking::begin() else { return };
    tokio::task::spawn_local(async move {
        let _speaking = speaking;
        let told = async {
            stream.write_all(ANSWER).await?;
            stream.shutdown().await?;
            // Closing with unread bytes would reset the connection and take the answer with it.
            let mut rest = [0_u8; 1024];
            while stream.read(&mut rest).await? > 0 {}
            std::io::Result::Ok(())
        };
        // Whoever does not listen within the limit is not told.
        let _ = tokio::time::timeout(LIMIT, told).await;
    });
}
