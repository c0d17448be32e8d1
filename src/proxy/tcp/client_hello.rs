//! Reads the server name out of the first bytes of a TLS connection, without taking part in it (RFC 8446 §4.1.2,
//! RFC 6066 §3). Pure, total, and bounded; the verdict does not depend on how the bytes arrive.

/// Most bytes up to the end of the ClientHello. Real ones have a few hundred, with post-quantum keys about two
/// thousand.
pub const MAX_HELLO: usize = 16 * 1024;

const RECORD_HEADER: usize = 5;
/// Content type of a record.
const HANDSHAKE: u8 = 22;
/// Largest payload of a record in the clear (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;
/// Message type and length.
const MESSAGE_HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Longest name in DNS, without the final dot.
const MAX_NAME: usize = 253;

/// Why bytes are no ClientHello that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not the beginning of a TLS connection.
    #[error("not TLS")]
    NotTls,
    /// TLS, but not as the specification has it.
    #[error("malformed ClientHello")]
    Malformed,
    /// No end within [`MAX_HELLO`] bytes.
    #[error("ClientHello is too long")]
    TooLong,
}

/// A complete ClientHello, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The host that the client asks for, in lower case; `None` if it does not say.
    pub server_name: Option<String>,
}

/// Puts the records of a connection together until the ClientHello is complete.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// Bytes consumed, headers included.
    consumed: usize,
    header: [u8; RECORD_HEADER],
    header_held: usize,
    /// What the record in progress still has to bring.
    record_left: usize,
    /// The handshake message without the frames of the records.
    message: Vec<u8>,
}

impl HelloReader {
    /// Takes the next bytes. `None` until the ClientHello is complete; bytes behind it are not looked at.
    ///
    /// # Errors
    /// See [`HelloError`]; nothing may be pushed afterwards.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
        while !bytes.is_empty() {
            let taken =
                if self.record_left == 0 { self.take_header(bytes)? } else { self.take_payload(bytes)? };
            bytes = &bytes[taken..];
            self.consumed += taken;
            if let Some(body) = self.complete() {
                return client_hello(body).map(Some);
            }
            if self.consumed >= MAX_HELLO {
                return Err(HelloError::TooLong);
            }
        }
        Ok(None)
    }

    /// One byte at a time: a header has five.
    fn take_header(&mut self, bytes: &[u8]) -> Result<usize, HelloError> {
        let byte = bytes[0];
        let fits = match self.header_held {
            0 => byte == HANDSHAKE,
            // 3.1 to 3.4 have been seen in the wild; only the major version has a meaning left.
            1 => byte == 3,
            _ => true,
        };
        if !fits {
            return Err(if self.message.is_empty() { HelloError::NotTls } else { HelloError::Malformed });
        }
        self.header[self.header_held] = byte;
        self.header_held += 1;
        if self.header_held == RECORD_HEADER {
            self.header_held = 0;
            let length = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
            // An empty handshake record is forbidden, lest it be repeated for ever.
            if !(1..=MAX_RECORD).contains(&length) {
                return Err(HelloError::Malformed);
            }
            self.record_left = length;
        }
        Ok(1)
    }

    fn take_payload(&mut self, bytes: &[u8]) -> Result<usize, HelloError> {
        let wanted = self.message_length().map_or(MESSAGE_HEADER, |length| MESSAGE_HEADER + length);
        let room = MAX_HELLO - self.consumed;
        let taken = bytes.len().min(self.record_left).min(wanted - self.message.len()).min(room);
        self.message.extend_from_slice(&bytes[..taken]);
        self.record_left -= taken;
        match (self.message.first(), self.message_length()) {
            (Some(&kind), _) if kind != CLIENT_HELLO => Err(HelloError::Malformed),
            (_, Some(length)) if length > MAX_HELLO => Err(HelloError::TooLong),
            _ => Ok(taken),
        }
    }

    /// Length of the message behind its header, once that is there.
    fn message_length(&self) -> Option<usize> {
        let header = self.message.get(..MESSAGE_HEADER)?;
        Some(u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize)
    }

    fn complete(&self) -> Option<&[u8]> {
        let length = self.message_length()?;
        self.message.get(MESSAGE_HEADER..MESSAGE_HEADER + length)
    }
}

/// What is left of a structure.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, HelloError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector whose length is written in one byte.
    fn short(&mut self) -> Result<Self, HelloError> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Self)
    }

    /// A vector whose length is written in two bytes.
    fn long(&mut self) -> Result<Self, HelloError> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Self)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn client_hello(body: &[u8]) -> Result<Hello, HelloError> {
    let mut hello = Cursor(body);
    // legacy_version and random.
    hello.take(2 + 32)?;
    let session = hello.short()?;
    let suites = hello.long()?;
    let compression = hello.short()?;
    if session.0.len() > 32 || suites.0.len() < 2 || suites.0.len() % 2 == 1 || compression.is_empty() {
        return Err(HelloError::Malformed);
    }
    let mut server_name = None;
    // Before TLS 1.2 there may be none at all.
    if !hello.is_empty() {
        let mut extensions = hello.long()?;
        let mut named = false;
        while !extensions.is_empty() {
            let kind = extensions.u16()?;
            let content = extensions.long()?;
            if kind == EXTENSION_SERVER_NAME {
                // Twice is forbidden: two readers could take different ones.
                if std::mem::replace(&mut named, true) {
                    return Err(HelloError::Malformed);
                }
                server_name = host_name(content)?;
            }
        }
    }
    if hello.is_empty() { Ok(Hello { server_name }) } else { Err(HelloError::Malformed) }
}

/// The host in a server_name extension.
fn host_name(mut extension: Cursor<'_>) -> Result<Option<String>, HelloError> {
    let mut list = extension.long()?;
    if !extension.is_empty() || list.is_empty() {
        return Err(HelloError::Malformed);
    }
    let mut found = None;
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.long()?;
        if kind == HOST_NAME && found.replace(name.0).is_some() {
            return Err(HelloError::Malformed);
        }
    }
    found.map(|name| normal(name).ok_or(HelloError::Malformed)).transpose()
}

/// The name in lower case, if it is one: it is compared with patterns and stands in logs.
fn normal(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (name.len() <= MAX_NAME && name.split('.').all(label)).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
