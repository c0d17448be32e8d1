//! Follows the messages of one HTTP/1 connection and says which bytes the codec may see. Pure.
//!
//! The scanner owns no bytes: it is shown everything that was not passed on yet and answers with how much of
//! it may be passed and why the rest may not.

use super::{
    chunked::ChunkScanner,
    head::{BodyFraming, HeadLimits, HeadParser, RequestFraming},
    reject::Reject,
};

/// The verdict on the bytes shown to [`RequestScanner::scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// So many bytes may be passed on; they must not be shown again.
    pub pass: usize,
    /// So many request heads end within them.
    pub heads: u64,
    /// The last of these heads asks for another protocol.
    pub upgrade: bool,
    /// What the bytes after `pass` are.
    pub rest: Rest,
}

/// Why bytes were not passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There are none, or they begin a head whose end is missing: keep them and show them again with more.
    Incomplete,
    /// They follow a request to change the protocol: keep them until that is decided.
    Held,
    /// They follow the last request of the connection: drop them unread.
    Ignored,
    /// They begin with a head that is refused: drop them and all that follow.
    RefusedHead(Reject),
    /// They begin with a malformed part of a body: drop them and all that follow.
    BrokenBody(Reject),
}

/// Where in the stream of messages a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the first byte of a head.
    Between,
    /// Within a head.
    Head,
    /// Within a body.
    Body,
    /// After a request to change the protocol.
    Held,
    /// Nothing more will be passed.
    End,
}

/// The scanner of one connection; begins before a head.
#[derive(Debug, Default)]
pub struct RequestScanner {
    at: At,
    /// What comes after the message at hand.
    next: Next,
    /// The head at hand has begun.
    begun: bool,
    /// The last head asks for a tunnel: what follows is no request, whatever is decided.
    connect: bool,
}

#[derive(Debug)]
enum At {
    Head(HeadParser),
    Length(u64),
    Chunked(ChunkScanner),
    Held,
    End(Rest),
}

impl Default for At {
    fn default() -> Self {
        Self::Head(HeadParser::default())
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum Next {
    #[default]
    Head,
    Hold,
    End,
}

impl RequestScanner {
    /// Looks at `bytes`: everything received that was not passed on by an earlier call.
    pub fn scan(&mut self, bytes: &[u8], limits: &HeadLimits) -> Scan {
        let mut scan = Scan { pass: 0, heads: 0, upgrade: false, rest: Rest::Incomplete };
        loop {
            let rest = &bytes[scan.pass..];
            match &mut self.at {
                At::Head(parser) => match parser.advance(rest, limits) {
                    Ok(Some(framing)) => {
                        scan.pass += framing.head_len;
                        scan.heads += 1;
                        scan.upgrade = framing.upgrade;
                        self.enter_body(&framing);
                    }
                    Ok(None) => {
                        self.begun = parser.has_begun(rest);
                        return scan;
                    }
                    Err(reject) => self.at = At::End(Rest::RefusedHead(reject)),
                },
                At::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    scan.pass += taken;
                    *left -= taken as u64;
                    if *left > 0 {
                        return scan;
                    }
                    self.finish_message();
                }
                At::Chunked(_) if rest.is_empty() => return scan,
                At::Chunked(scanner) => match scanner.scan(rest) {
                    Ok(progress) => {
                        scan.pass += progress.consumed;
                        if progress.done {
                            self.finish_message();
                        }
                    }
                    Err(reject) => self.at = At::End(Rest::BrokenBody(reject)),
                },
                At::Held => {
                    scan.rest = Rest::Held;
                    return scan;
                }
                At::End(why) => {
                    scan.rest = *why;
                    return scan;
                }
            }
        }
    }

    /// The protocol stays HTTP/1: what was held is read as the next request.
    pub fn release(&mut self) {
        if matches!(self.at, At::Held) {
            self.at = if self.connect { At::End(Rest::Ignored) } else { At::default() };
            self.begun = false;
        }
    }

    /// Ends the stream with a refusal if the connection stands before or within a head.
    pub fn refuse_head(&mut self, reject: Reject) {
        if matches!(self.at, At::Head(_)) {
            self.at = At::End(Rest::RefusedHead(reject));
        }
    }

    /// Where the connection stands.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.at {
            At::Head(_) if self.begun => Place::Head,
            At::Head(_) => Place::Between,
            At::Length(_) | At::Chunked(_) => Place::Body,
            At::Held => Place::Held,
            At::End(_) => Place::End,
        }
    }

    fn enter_body(&mut self, framing: &RequestFraming) {
        self.begun = false;
        self.connect = framing.connect;
        self.next = match framing {
            RequestFraming { upgrade: true, .. } => Next::Hold,
            RequestFraming { keep_alive: true, .. } => Next::Head,
            RequestFraming { keep_alive: false, .. } => Next::End,
        };
        match framing.body {
            BodyFraming::None => self.finish_message(),
            BodyFraming::Length(length) => self.at = At::Length(length),
            BodyFraming::Chunked => self.at = At::Chunked(ChunkScanner::default()),
        }
    }

    fn finish_message(&mut self) {
        self.at = match self.next {
            Next::Head => At::default(),
            Next::Hold => At::Held,
            Next::End => At::End(Rest::Ignored),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::framing::RejectReason;

    const LIMITS: HeadLimits = HeadLimits { max_bytes: 1024, max_headers: 10 };
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[test]
    fn pipelined_messages_pass_and_an_incomplete_head_stays() {
        let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
        let whole = [GET, post, chunked, GET].concat();
        let bytes = [whole.as_slice(), b"GET / HT"].concat();
        let mut scanner = RequestScanner::default();
        let scan = scanner.scan(&bytes, &LIMITS);
        assert_eq!(scan, Scan { pass: whole.len(), heads: 4, upgrade: false, rest: Rest::Incomplete });
        assert_eq!(scanner.place(), Place::Head);
    }

    #[test]
    fn bytes_after_a_refused_head_are_never_read() {
        let bytes = [GET, b"GET /\r\n\r\n", GET].concat();
        let mut scanner = RequestScanner::default();
        let refused = Rest::RefusedHead(Reject::new(RejectReason::RequestLine));
        let scan = scanner.scan(&bytes, &LIMITS);
        assert_eq!((scan.pass, scan.rest), (GET.len(), refused));
        assert_eq!(scanner.scan(GET, &LIMITS), Scan { pass: 0, heads: 0, upgrade: false, rest: refused });
    }

    #[test]
    fn bytes_after_the_last_request_of_a_connection_are_ignored() {
        let last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let scan = RequestScanner::default().scan(&[last, GET].concat(), &LIMITS);
        assert_eq!((scan.pass, scan.heads, scan.rest), (last.len(), 1, Rest::Ignored));
    }

    #[test]
    fn bytes_after_a_refused_connect_are_never_a_request() {
        let connect = b"CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n";
        let mut scanner = RequestScanner::default();
        let scan = scanner.scan(&[connect, GET].concat(), &LIMITS);
        assert_eq!((scan.pass, scan.rest), (connect.len(), Rest::Held));
        scanner.release();
        let scan = scanner.scan(GET, &LIMITS);
        assert_eq!((scan.pass, scan.heads, scan.rest), (0, 0, Rest::Ignored));
    }

    #[test]
    fn bytes_after_an_upgrade_request_wait_for_the_decision() {
        let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let mut scanner = RequestScanner::default();
        let scan = scanner.scan(&[upgrade, GET].concat(), &LIMITS);
        assert_eq!((scan.pass, scan.upgrade, scan.rest), (upgrade.len(), true, Rest::Held));
        scanner.release();
        assert_eq!(scanner.scan(GET, &LIMITS).pass, GET.len());
    }
}
