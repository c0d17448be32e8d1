//! Finds the end of a chunked body strictly (RFC 9112 §7.1). Pure; the bytes stay where they are.
//!
//! Sizes are 1 to 16 hex digits and nothing else; white space around them, which the RFC lets a reader
//! tolerate, has been read in two ways by two parsers once too often.

use memchr::memchr;

use super::{
    head::{TOKEN_BYTE, has_control},
    reject::{Reject, RejectReason},
};

/// Most bytes of all chunk extensions of one body together.
pub const MAX_EXTENSION_BYTES: usize = 16 * 1024;
/// Most bytes of the trailer section.
pub const MAX_TRAILER_BYTES: usize = 16 * 1024;
/// Most trailer fields.
pub const MAX_TRAILERS: usize = 100;

/// Trailer fields that a later reader could take for framing. Others that must not be trusted in a trailer
/// are the business of whoever forwards it.
const FORBIDDEN_TRAILERS: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
const LONGEST_FORBIDDEN: usize = b"transfer-encoding".len();

const CHUNK: Reject = Reject::new(RejectReason::Chunk);
const TRAILER: Reject = Reject::new(RejectReason::Trailer);

/// How far a piece of input went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that belong to the body; all of the input unless `done`.
    pub consumed: usize,
    /// The body is complete, trailers and final line end included.
    pub done: bool,
}

/// The state between two pieces of one body.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChunkScanner {
    at: At,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailers: usize,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Size { digits: u8, size: u64 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    LineStart,
    Name(TrailerName),
    Value,
    ValueLf,
    EndLf,
    Done,
    Failed(Reject),
}

impl Default for At {
    fn default() -> Self {
        Self::Size { digits: 0, size: 0 }
    }
}

/// The beginning of a trailer's name, long enough to recognise a forbidden one.
#[derive(Clone, Copy, Debug)]
struct TrailerName {
    bytes: [u8; LONGEST_FORBIDDEN],
    len: usize,
}

impl ChunkScanner {
    /// Reads on. What precedes a fault in the same piece is reported as consumed first; the next call, which
    /// begins at the fault, returns the error. After `done` or an error the scanner is spent.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Progress, Reject> {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.at, At::Done) {
            match self.step(&bytes[at..]) {
                Ok(taken) => at += taken,
                Err(reject) => {
                    self.at = At::Failed(reject);
                    if at == 0 {
                        return Err(reject);
                    }
                    break;
                }
            }
        }
        Ok(Progress { consumed: at, done: matches!(self.at, At::Done) })
    }

    /// Takes at least one byte of `bytes`, which is not empty, and says how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Reject> {
        match self.at {
            At::Data { left } => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - take as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data { left } };
                return Ok(take);
            }
            At::Extension { size } => return self.extension(bytes, size),
            At::Value => return self.value(bytes),
            At::LineStart | At::Name(_) | At::ValueLf | At::EndLf => self.count_trailer_bytes(1)?,
            At::Failed(reject) => return Err(reject),
            At::Size { .. } | At::SizeLf { .. } | At::DataCr | At::DataLf | At::Done => {}
        }
        self.at = match (self.at, bytes[0]) {
            (At::Size { digits, size }, byte) => Self::size(digits, size, byte)?,
            (At::SizeLf { size: 0 }, b'\n') => At::LineStart,
            (At::SizeLf { size }, b'\n') => At::Data { left: size },
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::default(),
            (At::LineStart, b'\r') => At::EndLf,
            (At::LineStart, byte) => self.name(TrailerName { bytes: [0; _], len: 0 }, byte)?,
            (At::Name(name), byte) => self.name(name, byte)?,
            (At::ValueLf, b'\n') => At::LineStart,
            (At::EndLf, b'\n') => At::Done,
            (At::ValueLf | At::EndLf, _) => return Err(TRAILER),
            _ => return Err(CHUNK),
        };
        Ok(1)
    }

    fn size(digits: u8, size: u64, byte: u8) -> Result<At, Reject> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            // 16 digits fill 64 bits; a 17th would overflow, even as a leading zero.
            if digits == 16 {
                return Err(CHUNK);
            }
            return Ok(At::Size { digits: digits + 1, size: (size << 4) | u64::from(digit) });
        }
        match byte {
            b'\r' if digits > 0 => Ok(At::SizeLf { size }),
            b';' if digits > 0 => Ok(At::Extension { size }),
            _ => Err(CHUNK),
        }
    }

    fn extension(&mut self, bytes: &[u8], size: u64) -> Result<usize, Reject> {
        let end = memchr(b'\r', bytes);
        let extension = &bytes[..end.unwrap_or(bytes.len())];
        self.extension_bytes += extension.len();
        if self.extension_bytes >= MAX_EXTENSION_BYTES || has_control(extension) {
            return Err(CHUNK);
        }
        if end.is_some() {
            self.at = At::SizeLf { size };
            return Ok(extension.len() + 1);
        }
        Ok(extension.len())
    }

    fn value(&mut self, bytes: &[u8]) -> Result<usize, Reject> {
        let end = memchr(b'\r', bytes);
        let value = &bytes[..end.unwrap_or(bytes.len())];
        // A control byte within the limit counts as what it is, also if the same piece exceeds the limit.
        let room = MAX_TRAILER_BYTES.saturating_sub(self.trailer_bytes + 1);
        if has_control(&value[..value.len().min(room)]) {
            return Err(TRAILER);
        }
        self.count_trailer_bytes(value.len() + usize::from(end.is_some()))?;
        if end.is_some() {
            self.at = At::ValueLf;
            return Ok(value.len() + 1);
        }
        Ok(value.len())
    }

    fn name(&mut self, mut name: TrailerName, byte: u8) -> Result<At, Reject> {
        if TOKEN_BYTE[usize::from(byte)] {
            if let Some(slot) = name.bytes.get_mut(name.len) {
                *slot = byte.to_ascii_lowercase();
            }
            name.len += 1;
            return Ok(At::Name(name));
        }
        let text = name.bytes.get(..name.len);
        if byte != b':' || name.len == 0 || text.is_some_and(|text| FORBIDDEN_TRAILERS.contains(&text)) {
            return Err(TRAILER);
        }
        self.trailers += 1;
        if self.trailers > MAX_TRAILERS {
            return Err(TRAILER.with_status(431));
        }
        Ok(At::Value)
    }

    fn count_trailer_bytes(&mut self, count: usize) -> Result<(), Reject> {
        self.trailer_bytes += count;
        if self.trailer_bytes >= MAX_TRAILER_BYTES { Err(TRAILER.with_status(431)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &[u8]) -> Result<Progress, Reject> {
        let mut scanner = ChunkScanner::default();
        let first = scanner.scan(body)?;
        if !first.done && first.consumed < body.len() {
            scanner.scan(&body[first.consumed..])?;
        }
        Ok(first)
    }

    fn bytewise(body: &[u8]) -> Result<Progress, Reject> {
        let mut scanner = ChunkScanner::default();
        let mut consumed = 0;
        for byte in body {
            let progress = scanner.scan(&[*byte])?;
            consumed += progress.consumed;
            if progress.done {
                return Ok(Progress { consumed, done: true });
            }
        }
        Ok(Progress { consumed, done: false })
    }

    #[test]
    fn bodies_end_where_their_last_line_ends() {
        let bodies: [&[u8]; 7] = [
            b"0\r\n\r\n",
            b"1\r\nx\r\n0\r\n\r\n",
            b"A;name=\"v\"\r\n0123456789\r\n000\r\n\r\n",
            b"0\r\nX-Sum: 1\r\nGrpc-Status: 0\r\n\r\n",
            b"0\r\nEmpty:\r\n\r\n",
            b"0;last\r\n\r\n",
            b"000000000000000a\r\n0123456789\r\n0\r\n\r\n",
        ];
        for body in bodies {
            let done = Progress { consumed: body.len(), done: true };
            let mut followed = body.to_vec();
            followed.extend_from_slice(b"GET /");
            assert_eq!(whole(&followed), Ok(done), "{}", body.escape_ascii());
            assert_eq!(bytewise(&followed), Ok(done), "{}", body.escape_ascii());
            for cut in 0..body.len() {
                assert_eq!(whole(&body[..cut]), Ok(Progress { consumed: cut, done: false }));
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused_however_they_arrive() {
        let bodies: [&[u8]; 16] = [
            b"\r\n",
            b"0x1\r\nx\r\n",
            b"+1\r\nx\r\n",
            b"-1\r\n",
            b" 1\r\nx\r\n",
            b"1 \r\nx\r\n",
            b"1 ;a\r\nx\r\n",
            b"1\nx\r\n",
            b"1\r\nxy\r\n",
            b"1\r\nx\n",
            b"1\r\nx\rY",
            b"ffffffffffffffff1\r\n",
            b"1;a\nb\r\nx\r\n",
            b"1;a\0b\r\n",
            b";a\r\n",
            b"g\r\n",
        ];
        for body in bodies {
            assert_eq!(whole(body), Err(CHUNK), "{}", body.escape_ascii());
            assert_eq!(bytewise(body), Err(CHUNK), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn malformed_and_framing_trailers_are_refused() {
        let bodies: [&[u8]; 9] = [
            b"0\r\nContent-Length: 1\r\n\r\n",
            b"0\r\ntransfer-encoding: chunked\r\n\r\n",
            b"0\r\nHOST: a\r\n\r\n",
            b"0\r\nA : b\r\n",
            b"0\r\n: b\r\n",
            b"0\r\n fold\r\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA: b\rc\r\n",
            b"0\r\n\rX",
        ];
        for body in bodies {
            assert_eq!(whole(body), Err(TRAILER), "{}", body.escape_ascii());
            assert_eq!(bytewise(body), Err(TRAILER), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = [b"1;".as_slice(), &[b'a'; MAX_EXTENSION_BYTES], b"\r\nx\r\n0\r\n\r\n"].concat();
        assert_eq!(whole(&extension), Err(CHUNK));
        assert_eq!(bytewise(&extension), Err(CHUNK));
        let long = [b"0\r\na: ".as_slice(), &[b'a'; MAX_TRAILER_BYTES], b"\r\n\r\n"].concat();
        assert_eq!(whole(&long).map_err(|reject| reject.status), Err(431));
        let many = [b"0\r\n".as_slice(), &b"a:b\r\n".repeat(MAX_TRAILERS + 1), b"\r\n"].concat();
        assert_eq!(bytewise(&many).map_err(|reject| reject.status), Err(431));
        let most = [b"0\r\n".as_slice(), &b"a:b\r\n".repeat(MAX_TRAILERS), b"\r\n"].concat();
        assert_eq!(bytewise(&most).map(|progress| progress.done), Ok(true));
    }
}
