//! Closing a connection so that the client can read the answer it was sent.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes discarded while lingering.
pub const LINGER_BYTES: usize = 64 * 1024;
/// Longest time spent lingering.
pub const LINGER_TIME: Duration = Duration::from_secs(1);

/// Shuts the writing side down, then reads and discards until the client closes, `max_bytes` came, or
/// `max_time` passed.
///
/// A socket closed with unread bytes sends a reset, which makes the client's kernel throw away an answer that
/// the client has not read yet (RFC 9112 §9.6). Errors end the wait; there is nobody left to tell.
/// Cancel-safe: the connection is as good as closed at any point.
pub async fn linger<S>(io: &mut S, max_bytes: usize, max_time: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let discard = async {
        if io.shutdown().await.is_err() {
            return;
        }
        let mut room = max_bytes;
        let mut buffer = [0u8; 2048];
        while room > 0 {
            match io.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => room = room.saturating_sub(count),
            }
        }
    };
    // Time running out is one of the three ways in which this ends well.
    let _ = tokio::time::timeout(max_time, discard).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lingering_ends_with_the_client_the_bytes_or_the_time() {
        let (client, mut server) = tokio::io::duplex(1024);
        drop(client);
        linger(&mut server, LINGER_BYTES, Duration::from_secs(3600)).await;

        let (mut client, mut server) = tokio::io::duplex(1024);
        let sender = async {
            let mut sent = 0;
            while client.write_all(&[0; 512]).await.is_ok() {
                sent += 512;
                if sent >= 4096 {
                    break;
                }
            }
            client
        };
        tokio::join!(linger(&mut server, 4096, Duration::from_secs(3600)), sender);

        let (_silent, mut server) = tokio::io::duplex(1024);
        linger(&mut server, LINGER_BYTES, Duration::from_millis(5)).await;
    }
}
