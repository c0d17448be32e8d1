//! Accepting connections for ever: no error of one connection, and no shortage, ends the loop.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};

/// Pause after a shortage (descriptors, memory): long enough not to spin, short enough to recover unnoticed.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// One listening socket, or two for the two address families.
#[derive(Debug)]
pub struct Accepting {
    listener: TcpListener,
    twin: Option<TcpListener>,
    short: bool,
}

impl Accepting {
    /// Takes over a bound socket; must be called on the runtime that will accept.
    ///
    /// # Errors
    /// If the socket cannot be registered with the runtime.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(listener)?, twin: None, short: false })
    }

    /// Accepts from `twin` as well.
    ///
    /// # Errors
    /// If the socket cannot be registered with the runtime.
    pub fn beside(mut self, twin: Option<std::net::TcpListener>) -> io::Result<Self> {
        self.twin = twin.map(TcpListener::from_std).transpose()?;
        Ok(self)
    }

    /// The next connection. Never fails: a connection that died in the queue is passed over, a shortage of
    /// descriptors or memory is waited out (and logged once until it is over). Cancel-safe.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let accepted = match &self.twin {
                None => self.listener.accept().await,
                Some(twin) => tokio::select! {
                    accepted = self.listener.accept() => accepted,
                    accepted = twin.accept() => accepted,
                },
            };
            match accepted {
                Ok(accepted) => {
                    if std::mem::take(&mut self.short) {
                        tracing::info!("accepting connections again");
                    }
                    return accepted;
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.short, true) {
                        tracing::error!(%error, "cannot accept connections; trying again until it works");
                    }
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
            }
        }
    }

    /// Connections that the kernel has completed already; then the socket closes. Asks the kernel itself rather
    /// than the runtime, which may not have heard of all of them yet.
    pub fn into_waiting(self) -> Vec<(TcpStream, SocketAddr)> {
        let mut waiting = Vec::new();
        for listener in [Some(self.listener), self.twin].into_iter().flatten() {
            take_waiting(listener, &mut waiting);
        }
        waiting
    }
}

fn take_waiting(listener: TcpListener, waiting: &mut Vec<(TcpStream, SocketAddr)>) {
    let Ok(listener) = listener.into_std() else { return };
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                waiting.extend(stream.ok().map(|stream| (stream, peer)));
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(_) => return,
        }
    }
}

/// Errors that concern one connection which went away between SYN and accept.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
