//! Tells HTTP from anything else by the first bytes of a connection, for ports where both arrive.

use std::{io, time::Duration};

use tokio::{io::Interest, net::TcpStream};

/// Enough for every method that has a name, its space and the first byte of the target.
const LOOK: usize = 32;
/// Methods longer than this exist nowhere.
const LONGEST_METHOD: usize = 24;
/// Their requests are HTTP whatever the target looks like, so that a malformed one is answered as such.
const KNOWN: [&[u8]; 10] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"QUERY"];

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1 or HTTP/2, well-formed or not.
    Http,
    /// Something else.
    Other,
}

/// Looks at the first bytes and takes none of them. A client that says nothing for `silence` waits for the other
/// side to speak first, which HTTP never does; `None` knows no such client. Who begins like HTTP and does not go on
/// within `patience` is left to HTTP, which has an answer for that.
pub(crate) async fn detect(stream: &TcpStream, silence: Option<Duration>, patience: Duration) -> Speaks {
    if let Some(silence) = silence
        // The runtime takes a new socket for readable until somebody has looked.
        && tokio::time::timeout(silence, stream.peek(&mut [0])).await.is_err()
    {
        return Speaks::Other;
    }
    let looked = tokio::time::timeout(patience, look(stream)).await;
    looked.ok().and_then(Result::ok).unwrap_or(Speaks::Http)
}

async fn look(stream: &TcpStream) -> io::Result<Speaks> {
    let mut buffer = [0; LOOK];
    let mut seen = 0;
    loop {
        let count = stream.peek(&mut buffer).await?;
        if let Some(speaks) = judge(&buffer[..count]) {
            return Ok(speaks);
        }
        if count == seen {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen = count;
        // The bytes stay where they are, so the socket goes on being readable. To wait for more of them, the runtime
        // is told that it is not.
        let _ = stream.try_io(Interest::READABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
    }
}

/// Judges the bytes so far; `None` needs more of them.
fn judge(mut bytes: &[u8]) -> Option<Speaks> {
    // HTTP/1 tolerates empty lines before a request.
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    let end = bytes.iter().position(|byte| !is_token(*byte)).unwrap_or(bytes.len());
    let method = &bytes[..end];
    let known = KNOWN.contains(&method);
    match &bytes[end..] {
        [] if end > LONGEST_METHOD => Some(Speaks::Other),
        [] => None,
        [b'\r'] if end == 0 => None,
        [b' ', ..] if known => Some(Speaks::Http),
        [b' '] if end > 0 => None,
        // Also the preface of HTTP/2.
        [b' ', b'/' | b'*', ..] if end > 0 => Some(Speaks::Http),
        _ => Some(Speaks::Other),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_the_preface_of_http2_are_http() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"GET http://a/ HTTP/1.1\r\n",
            b"GET \xff",
            b"\r\nPOST /",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"PROPFIND / HTTP/1.1",
            b"OPTIONS * ",
        ] {
            assert_eq!(judge(bytes), Some(Speaks::Http), "{bytes:?}");
        }
    }

    #[test]
    fn other_protocols_are_not() {
        for bytes in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"\0\0\0\x54\0\x03\0\0user",
            b"EHLO mail.example\r\n",
            b"SET key value\r\n",
            b"PING\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b" GET / HTTP/1.1",
            b"abcdefghijklmnopqrstuvwxyz",
            b"\n",
        ] {
            assert_eq!(judge(bytes), Some(Speaks::Other), "{bytes:?}");
        }
    }

    #[test]
    fn more_bytes_do_not_change_the_verdict() {
        for bytes in [&b"\r\nDELETE /x"[..], b"PRI * HTTP", b"REPORT /a", b"EHLO mail", b"\x16\x03\x01"] {
            let verdict = judge(bytes);
            let first = (0..=bytes.len()).find_map(|end| judge(&bytes[..end]));
            assert!(verdict.is_some() && first == verdict, "{bytes:?}");
        }
    }
}
