//! Reads an HTTP/1 request head strictly and says how its body is framed (RFC 9112). Pure, no allocation.
//!
//! A mistake here is a smuggling hole, so everything ambiguous is refused rather than repaired. The head is
//! read line by line and may arrive in pieces; a line is looked at once, when its end is there, which makes
//! the verdict independent of how the bytes were cut.

use memchr::memchr;

use super::{
    reject::{Reject, RejectReason},
    target::{check_target, check_tunnel_target, valid_authority},
};

/// Bounds of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Most bytes from the first of the request line through the empty line.
    pub max_bytes: usize,
    /// Most fields.
    pub max_headers: usize,
}

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body.
    None,
    /// Exactly this many bytes, at least one.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
}

/// What must be known of a head to find the end of its message and the beginning of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFraming {
    /// How the body is framed.
    pub body: BodyFraming,
    /// HTTP/1.1, `Connection` lists `upgrade`, and an `Upgrade` field exists: after the message the protocol
    /// may change.
    pub upgrade: bool,
    /// CONNECT: if no tunnel is granted, the connection ends with the answer. Implies `upgrade`.
    pub connect: bool,
    /// Whether another request may follow on the connection.
    pub keep_alive: bool,
    /// Bytes from the first of the input through the empty line.
    pub head_len: usize,
}

/// The method of the request that the guard makes up when it refuses one; no client may send it.
pub const REJECT_METHOD: &str = "OUTRIGGER-REJECT";

/// Empty lines that are skipped before a request line (RFC 9112 §2.2 wants one; old clients send CRLF after a
/// body, and a retry may add another).
const MAX_LEADING_EMPTY_LINES: u8 = 2;

/// Largest `Content-Length`, 2^63.
const MAX_CONTENT_LENGTH: u64 = 1 << 63;

/// The bytes of a token (RFC 9110 §5.6.2).
pub(super) const TOKEN_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let punctuation = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < punctuation.len() {
        table[punctuation[index] as usize] = true;
        index += 1;
    }
    table
};

/// Validates a complete head. `head` begins with the request line (or the empty lines before it); bytes after
/// the head are not looked at. `Ok(None)` means that the empty line at the end is not there.
pub fn validate_head(head: &[u8], limits: &HeadLimits) -> Result<Option<RequestFraming>, Reject> {
    HeadParser::default().advance(head, limits)
}

/// The state between two pieces of one head.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadParser {
    /// Where the first line that was not looked at begins.
    line: usize,
    /// Bytes known to contain no further line end.
    searched: usize,
    leading_empty_lines: u8,
    has_request_line: bool,
    fields: Fields,
}

/// What the lines so far said.
#[derive(Clone, Copy, Debug, Default)]
struct Fields {
    count: usize,
    http11: bool,
    host: bool,
    content_length: Option<u64>,
    chunked: bool,
    connection_close: bool,
    connection_keep_alive: bool,
    connection_upgrade: bool,
    upgrade: bool,
    connect: bool,
}

impl HeadParser {
    /// Reads on. `head` holds the same bytes as last time and possibly more, from the first byte of the head.
    ///
    /// `Ok(None)` wants more bytes. After `Ok(Some)` or an error the parser is spent.
    pub fn advance(&mut self, head: &[u8], limits: &HeadLimits) -> Result<Option<RequestFraming>, Reject> {
        while let Some(offset) = memchr(b'\n', &head[self.searched..]) {
            let end = self.searched + offset;
            if end >= limits.max_bytes {
                return Err(self.overflow());
            }
            if end == self.line || head[end - 1] != b'\r' {
                return Err(Reject::new(RejectReason::LineEnd));
            }
            let line = &head[self.line..end - 1];
            self.line = end + 1;
            self.searched = end + 1;
            if !self.has_request_line {
                self.start(line)?;
            } else if line.is_empty() {
                return self.fields.conclude(self.line).map(Some);
            } else {
                self.fields.field(line, limits)?;
            }
        }
        self.searched = head.len();
        // Without a line end so far, the line would end beyond the limit.
        if head.len() >= limits.max_bytes { Err(self.overflow()) } else { Ok(None) }
    }

    /// Whether a byte of the request line has arrived; empty lines before it do not count.
    #[must_use]
    pub fn has_begun(&self, head: &[u8]) -> bool {
        self.has_request_line || !matches!(head[self.line..], [] | [b'\r'])
    }

    fn overflow(&self) -> Reject {
        let reason = if self.has_request_line { RejectReason::TooLarge } else { RejectReason::TargetTooLong };
        Reject::new(reason)
    }

    fn start(&mut self, line: &[u8]) -> Result<(), Reject> {
        if line.is_empty() {
            self.leading_empty_lines += 1;
            if self.leading_empty_lines > MAX_LEADING_EMPTY_LINES {
                return Err(Reject::new(RejectReason::RequestLine));
            }
            return Ok(());
        }
        self.fields.http11 = request_line(line)?;
        self.fields.connect = line.starts_with(b"CONNECT ");
        self.has_request_line = true;
        Ok(())
    }
}

/// Checks a request line; true for HTTP/1.1, false for HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Reject> {
    const MALFORMED: Reject = Reject::new(RejectReason::RequestLine);
    let method_end = memchr(b' ', line).ok_or(MALFORMED)?;
    let method = &line[..method_end];
    if method.is_empty() || !method.iter().all(|byte| TOKEN_BYTE[usize::from(*byte)]) {
        return Err(MALFORMED);
    }
    let (rest, version) = line[method_end + 1..].split_last_chunk::<9>().ok_or(MALFORMED)?;
    let http11 = match version {
        b" HTTP/1.1" => true,
        b" HTTP/1.0" => false,
        [b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(Reject::new(RejectReason::Version));
        }
        _ => return Err(MALFORMED),
    };
    match method {
        b"CONNECT" => check_tunnel_target(rest)?,
        b"TRACE" => return Err(Reject::new(RejectReason::Method).with_status(405)),
        _ if method == REJECT_METHOD.as_bytes() => return Err(Reject::new(RejectReason::Method)),
        _ => check_target(method, rest)?,
    }
    Ok(http11)
}

/// Splits a field line into its name and its value without the white space around it, both checked.
pub(super) fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    // A folded line begins with white space, which is no token byte; neither is a space before the colon.
    let name_end = line.iter().position(|byte| !TOKEN_BYTE[usize::from(*byte)])?;
    if name_end == 0 || line[name_end] != b':' {
        return None;
    }
    let value = &line[name_end + 1..];
    if has_control(value) {
        return None;
    }
    Some((&line[..name_end], trim(value)))
}

/// Whether a control byte other than HTAB is among `bytes`.
///
/// Nearly every value has none, so eight bytes at a time are first asked whether one *may* be among them; only
/// then, or for the few bytes of a short value, is each looked at.
pub(super) fn has_control(bytes: &[u8]) -> bool {
    let exact = |bytes: &[u8]| bytes.iter().any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f);
    let (Some(last), (words, _)) = (bytes.last_chunk::<8>(), bytes.as_chunks::<8>()) else {
        return exact(bytes);
    };
    // The last eight bytes overlap the words; looking twice is cheaper than a loop over the remainder.
    let suspects = words.iter().fold(may_have_control(*last), |found, word| found | may_have_control(*word));
    suspects != 0 && exact(bytes)
}

/// Not zero if one of the bytes is below 0x20 or is 0x7f; borrows make it err on the suspicious side only.
const fn may_have_control(bytes: [u8; 8]) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let word = u64::from_ne_bytes(bytes);
    let below_space = word.wrapping_sub(LOW * 0x20) & !word;
    let deleted = (word ^ (LOW * 0x7f)).wrapping_sub(LOW) & !(word ^ (LOW * 0x7f));
    (below_space | deleted) & HIGH
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

impl Fields {
    fn field(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Reject> {
        self.count += 1;
        if self.count > limits.max_headers {
            return Err(Reject::new(RejectReason::TooManyHeaders));
        }
        let (name, value) = split_field(line).ok_or(Reject::new(RejectReason::HeaderField))?;
        // The length decides first: most fields are none of these and cost one comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            6 if name.eq_ignore_ascii_case(b"expect") => expect(value),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.connection(value);
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.host || !valid_authority(value) {
            return Err(Reject::new(RejectReason::Host));
        }
        self.host = true;
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        const INVALID: Reject = Reject::new(RejectReason::ContentLength);
        // Also two equal ones: who folds them and who does not must not matter.
        if self.content_length.is_some() || value.is_empty() {
            return Err(INVALID);
        }
        let mut length = 0u64;
        for byte in value {
            if !byte.is_ascii_digit() {
                return Err(INVALID);
            }
            let digit = u64::from(byte - b'0');
            length = length.checked_mul(10).and_then(|tens| tens.checked_add(digit)).ok_or(INVALID)?;
        }
        if length > MAX_CONTENT_LENGTH {
            return Err(INVALID);
        }
        self.content_length = Some(length);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.chunked || !self.http11 || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Reject::new(RejectReason::TransferEncoding));
        }
        self.chunked = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(trim) {
            self.connection_close |= option.eq_ignore_ascii_case(b"close");
            self.connection_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.connection_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }

    fn conclude(&self, head_len: usize) -> Result<RequestFraming, Reject> {
        if self.http11 && !self.host {
            return Err(Reject::new(RejectReason::Host));
        }
        let body = match (self.chunked, self.content_length) {
            (true, Some(_)) => return Err(Reject::new(RejectReason::ClTe)),
            (true, None) => BodyFraming::Chunked,
            (false, None | Some(0)) => BodyFraming::None,
            (false, Some(length)) => BodyFraming::Length(length),
        };
        // Nothing says what a body of CONNECT means (RFC 9110 §9.3.6), and HTTP/1.0 has no tunnels.
        if self.connect && (!self.http11 || self.chunked || self.content_length.is_some()) {
            return Err(Reject::new(RejectReason::Method));
        }
        Ok(RequestFraming {
            body,
            connect: self.connect,
            upgrade: self.connect || (self.http11 && self.upgrade && self.connection_upgrade),
            keep_alive: !self.connection_close && (self.http11 || self.connection_keep_alive),
            head_len,
        })
    }
}

fn expect(value: &[u8]) -> Result<(), Reject> {
    if value.eq_ignore_ascii_case(b"100-continue") { Ok(()) } else { Err(Reject::new(RejectReason::Expect)) }
}

#[cfg(test)]
mod tests;
