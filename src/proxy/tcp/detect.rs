//! Tells HTTP from anything else by the first bytes of a connection: for ports where both arrive, by a look ahead
//! ([`detect`]), and for bytes that are passed on and must not be HTTP, as they pass ([`Beginning`]).

use std::{io, time::Duration};

use tokio::{io::Interest, net::TcpStream};

/// How far is looked ahead. Enough for every method that has a name, its space and the first byte of the target.
const LOOK: usize = 32;
/// Methods longer than this exist nowhere, so a look ahead need not wait for their end.
const LONGEST_METHOD: usize = 24;
/// Their requests are HTTP whatever the target looks like, so that a malformed one is answered as such.
const KNOWN: [&[u8]; 10] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"QUERY"];
/// Room for the longest of [`KNOWN`], and one byte more for what only begins like it.
const ROOM: usize = 8;
/// What stands before the version in a request line, with the digit behind it.
const VERSION: &[u8] = b"HTTP/";

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1 or HTTP/2, well-formed or not.
    Http,
    /// Something else.
    Other,
}

/// What is known of the beginning of a connection. It remembers a few bytes, however long a client takes.
///
/// It is meant for the most forgiving server of HTTP. Some skip any white space before a request (Python's
/// `http.server` splits the request line at it), most skip `\r` and `\n` each by itself (llhttp, nginx), and many hand a
/// request with any method, however long, to their application (Go).
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    part: Part,
    method: [u8; ROOM],
    /// Of the method, also of what is beyond the room for it.
    length: usize,
}

/// Where in a request line the next byte would stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Before it.
    Before,
    /// In the method.
    Method,
    /// Between method and target.
    Gap,
    /// In a target that few servers would take, or in a line of something else: only a version tells. So many of its
    /// bytes were the last ones, and white space was before them.
    Line(Option<usize>),
}

impl Beginning {
    pub(super) fn new() -> Self {
        Self { part: Part::Before, method: [0; ROOM], length: 0 }
    }

    /// Judges by what was pushed before and `bytes`; `None` needs more. Not to be asked again after a verdict.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Speaks> {
        bytes.iter().find_map(|byte| self.next(*byte))
    }

    fn next(&mut self, byte: u8) -> Option<Speaks> {
        match (self.part, byte) {
            (Part::Before, _) if is_blank(byte) => None,
            (Part::Before | Part::Method, _) if is_token(byte) => {
                self.part = Part::Method;
                if let Some(place) = self.method.get_mut(self.length) {
                    *place = byte;
                }
                self.length = self.length.saturating_add(1);
                None
            }
            // The line has ended: no server answers to a word.
            (Part::Method | Part::Gap | Part::Line(_), b'\n') => Some(Speaks::Other),
            (Part::Method, b' ') if self.is_known() => Some(Speaks::Http),
            (Part::Method | Part::Gap, _) if is_blank(byte) => {
                self.part = Part::Gap;
                None
            }
            // Also the preface of HTTP/2.
            (Part::Gap, b'/' | b'*') => Some(Speaks::Http),
            (Part::Gap, _) if self.is_known() => Some(Speaks::Http),
            (Part::Gap, _) => self.look_for_version(Some(0), byte),
            (Part::Line(seen), _) => self.look_for_version(seen, byte),
            (Part::Before | Part::Method, _) => Some(Speaks::Other),
        }
    }

    fn is_known(&self) -> bool {
        self.method.get(..self.length).is_some_and(|method| KNOWN.contains(&method))
    }

    fn look_for_version(&mut self, seen: Option<usize>, byte: u8) -> Option<Speaks> {
        let next = match seen {
            _ if is_blank(byte) => Some(0),
            Some(seen) => match VERSION.get(seen) {
                Some(wanted) => wanted.eq_ignore_ascii_case(&byte).then_some(seen + 1),
                None if byte.is_ascii_digit() => return Some(Speaks::Http),
                None => None,
            },
            None => None,
        };
        self.part = Part::Line(next);
        None
    }
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

/// Judges the bytes so far; `None` needs more of them. What is most likely something else is not waited for: it may be
/// all that the client says before it wants an answer. Whoever passes it on goes on watching.
fn judge(bytes: &[u8]) -> Option<Speaks> {
    let mut beginning = Beginning::new();
    beginning.push(bytes).or(match beginning.part {
        Part::Method if beginning.length > LONGEST_METHOD => Some(Speaks::Other),
        Part::Line(_) => Some(Speaks::Other),
        Part::Before | Part::Method | Part::Gap => None,
    })
}

/// White space in the eyes of the most forgiving: Python's, of text in ISO 8859-1.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0x1c..=0x1f | 0x85 | 0xa0)
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
            b"\nGET /",
            b"\rGET /",
            b"\r\r\n\n  \tGET /",
            b"GET\t/",
            b"\x1cGET\x1f/\xa0HTTP/1.1",
            b"GET\rx",
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
            b"abcdefghijklmnopqrstuvwxyz",
            b"GET\n",
            b"\r\n\0\r\nQUIT\n",
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

    #[test]
    fn a_request_that_few_servers_would_take_is_one_when_its_target_or_its_version_comes() {
        let long = "a".repeat(5000);
        for (before, then) in [
            (&*long, " /"),
            ("FOO x://h/admin HTTP/", "1.1"),
            ("FOO a:b \tHTTP/", "1.0"),
            ("FOO HTTP/", "1.1"),
            ("foo bar http/", "1.1"),
            ("FOO HTTP/x HHTTP/1 HTTP/", "2"),
        ] {
            let mut beginning = Beginning::new();
            assert_eq!(before.bytes().find_map(|byte| beginning.push(&[byte])), None, "{before}");
            assert_eq!(beginning.push(then.as_bytes()), Some(Speaks::Http), "{before}");
        }
    }

    #[test]
    fn lines_of_other_protocols_are_none_at_their_end() {
        for text in ["EHLO mail.example\r\n", "get http/page\r\n", "get http://h/\n", "SSH-2.0-x y\r\n"] {
            let mut beginning = Beginning::new();
            let (end, line) = text.as_bytes().split_last().unwrap();
            assert_eq!(beginning.push(line), None, "{text}");
            assert_eq!(beginning.push(&[*end]), Some(Speaks::Other), "{text}");
        }
    }
}
