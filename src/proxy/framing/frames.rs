//! Watches the frames of an HTTP/2 connection from outside the codec: those that cost work and bring nothing are
//! paid from a budget, and who overdraws it is a flood. The codec has limits of its own for what costs memory; this
//! one is for what costs time. Pure.
//!
//! Budgets rather than rates, because real clients come in bursts: what an exchange needs (a WINDOW_UPDATE for each
//! DATA, a PING to measure the path) is earned by the frames of that exchange, as in Envoy.

use crate::types::Mono;

/// Control frames that a connection may send before it has earned any.
const CONTROL_BURST: u32 = 1000;
/// Control frames that it may send each second for nothing.
const CONTROL_PER_SECOND: u32 = 100;
/// Earned by a head in either direction.
const EARNED_BY_HEADERS: u32 = 4;
/// Earned by DATA that we sent: each may be answered by window updates and be measured.
const EARNED_BY_DATA_SENT: u32 = 10;
/// Earned by DATA with content that came.
const EARNED_BY_DATA: u32 = 1;

/// Streams that a connection may have reset, by its own doing or for its errors, whatever it asks for.
const RESET_BURST: u32 = 200;
/// Resets each second for nothing. Beyond it one request in [`REQUESTS_PER_RESET`] may be taken back.
const RESETS_PER_SECOND: u32 = 20;
/// Envoy's rule: a connection more than half of whose streams are reset is an attack.
const REQUESTS_PER_RESET: u32 = 2;

/// Length of a frame's head.
const HEAD: usize = 9;
/// Bytes of a payload that are looked at: an error code.
const PEEK: usize = 4;
/// Length of a client's preface, which precedes its frames.
const PREFACE: u32 = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const FLAG_ACK: u8 = 1;
const FLAG_END_STREAM: u8 = 1;
const FLAG_PADDED: u8 = 8;

/// What a peer sent too much of. The words are values of the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flood {
    /// RST_STREAM, or errors that make us send it.
    Resets,
    /// PING.
    Pings,
    /// SETTINGS.
    Settings,
    /// PRIORITY.
    Priorities,
    /// WINDOW_UPDATE.
    Windows,
    /// CONTINUATION.
    Continuations,
    /// DATA or HEADERS without content.
    Empty,
    /// Frames of no known kind.
    Unknown,
}

impl Flood {
    /// The value of the metric label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resets => "h2_reset_flood",
            Self::Pings => "h2_ping_flood",
            Self::Settings => "h2_settings_flood",
            Self::Priorities => "h2_priority_flood",
            Self::Windows => "h2_window_update_flood",
            Self::Continuations => "h2_continuation_flood",
            Self::Empty => "h2_empty_frame_flood",
            Self::Unknown => "h2_unknown_frame_flood",
        }
    }
}

/// Which side of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer is a client: its bytes begin with the preface.
    Server,
    /// The peer is an endpoint.
    Client,
}

/// The frames of one connection, both ways.
#[derive(Debug)]
pub struct FrameWatch {
    received: Cursor,
    sent: Cursor,
    control: Budget,
    resets: Budget,
    /// Requests since the last that earned a reset.
    requests: u32,
    last_stream: u32,
}

impl FrameWatch {
    /// A connection of which nothing has been read or written.
    #[must_use]
    pub fn new(role: Role, now: Mono) -> Self {
        let (received, sent) = match role {
            Role::Server => (PREFACE, 0),
            Role::Client => (0, PREFACE),
        };
        Self {
            received: Cursor::behind(received),
            sent: Cursor::behind(sent),
            control: Budget::new(CONTROL_BURST, CONTROL_PER_SECOND, now),
            resets: Budget::new(RESET_BURST, RESETS_PER_SECOND, now),
            requests: 0,
            last_stream: 0,
        }
    }

    /// Looks at bytes that came from the peer.
    ///
    /// # Errors
    /// If they overdraw a budget: the first that was overdrawn. The connection should be ended.
    pub fn received(&mut self, mut bytes: &[u8], now: Mono) -> Result<(), Flood> {
        let mut watched = Ok(());
        while let Some(frame) = self.received.next(&mut bytes) {
            self.last_stream = self.last_stream.max(frame.stream);
            let paid = match frame.kind {
                RST_STREAM => self.resets.pay(now).map_err(|()| Flood::Resets),
                HEADERS if frame.length > 0 => {
                    self.head();
                    Ok(())
                }
                DATA if frame.has_content() => {
                    self.control.earn(EARNED_BY_DATA);
                    Ok(())
                }
                DATA if frame.flags & FLAG_END_STREAM != 0 => Ok(()),
                SETTINGS | PING if frame.flags & FLAG_ACK != 0 => Ok(()),
                kind => self.control.pay(now).map_err(|()| flood_of(kind)),
            };
            watched = watched.and(paid);
        }
        watched
    }

    /// Looks at bytes that were written to the peer.
    ///
    /// # Errors
    /// If the peer makes too many errors of the kind that only ends streams: each costs as much as a reset of its
    /// own, and is not prevented by a limit on those ("MadeYouReset").
    pub fn sent(&mut self, mut bytes: &[u8], now: Mono) -> Result<(), Flood> {
        let mut watched = Ok(());
        while let Some(frame) = self.sent.next(&mut bytes) {
            match frame.kind {
                RST_STREAM if frame.is_error_of_the_peer() => {
                    watched = watched.and(self.resets.pay(now).map_err(|()| Flood::Resets));
                }
                HEADERS => self.control.earn(EARNED_BY_HEADERS),
                DATA => self.control.earn(EARNED_BY_DATA_SENT),
                _ => {}
            }
        }
        watched
    }

    /// GOAWAY with ENHANCE_YOUR_CALM, if it can be written without cutting a frame in two.
    #[must_use]
    pub fn farewell(&self) -> Option<[u8; HEAD + 8]> {
        const ENHANCE_YOUR_CALM: u8 = 11;
        self.sent.is_between_frames().then(|| {
            let mut frame = [0; HEAD + 8];
            frame[2] = 8;
            frame[3] = 7;
            frame[HEAD..HEAD + 4].copy_from_slice(&self.last_stream.to_be_bytes());
            frame[HEAD + 7] = ENHANCE_YOUR_CALM;
            frame
        })
    }

    fn head(&mut self) {
        self.control.earn(EARNED_BY_HEADERS);
        self.requests += 1;
        if self.requests == REQUESTS_PER_RESET {
            self.requests = 0;
            self.resets.earn(1);
        }
    }
}

const fn flood_of(kind: u8) -> Flood {
    match kind {
        DATA | HEADERS => Flood::Empty,
        PRIORITY => Flood::Priorities,
        SETTINGS => Flood::Settings,
        PING => Flood::Pings,
        WINDOW_UPDATE => Flood::Windows,
        CONTINUATION => Flood::Continuations,
        _ => Flood::Unknown,
    }
}

/// A frame as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// The first bytes of the payload.
    peek: [u8; PEEK],
}

impl Seen {
    fn has_content(&self) -> bool {
        if self.flags & FLAG_PADDED == 0 {
            return self.length > 0;
        }
        // One byte for the length of the padding, and the padding.
        self.length > 1 + u32::from(self.peek[0])
    }

    fn is_error_of_the_peer(&self) -> bool {
        // PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR.
        matches!(u32::from_be_bytes(self.peek), 1 | 3 | 5 | 6)
    }
}

/// Where in the frames of one direction its bytes have come to.
#[derive(Debug)]
struct Cursor {
    /// Head and first bytes of the payload of the present frame.
    seen: [u8; HEAD + PEEK],
    have: usize,
    /// Bytes to pass over before the next frame.
    skip: u32,
}

impl Cursor {
    const fn behind(skip: u32) -> Self {
        Self { seen: [0; HEAD + PEEK], have: 0, skip }
    }

    const fn is_between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0
    }

    /// Moves on in `bytes` up to where a frame is known; `None` at their end.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Seen> {
        let skipped = bytes.len().min(self.skip as usize);
        *bytes = &bytes[skipped..];
        self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
        loop {
            let wanted = if self.have < HEAD { HEAD } else { HEAD + PEEK.min(self.length() as usize) };
            if self.have >= HEAD && self.have == wanted {
                return Some(self.take());
            }
            let count = bytes.len().min(wanted - self.have);
            if count == 0 {
                return None;
            }
            self.seen[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            *bytes = &bytes[count..];
        }
    }

    fn length(&self) -> u32 {
        u32::from_be_bytes([0, self.seen[0], self.seen[1], self.seen[2]])
    }

    fn take(&mut self) -> Seen {
        let s = &self.seen;
        let length = self.length();
        let frame = Seen {
            length,
            kind: s[3],
            flags: s[4],
            stream: u32::from_be_bytes([s[5] & 0x7f, s[6], s[7], s[8]]),
            peek: [s[9], s[10], s[11], s[12]],
        };
        self.skip = length - length.min(PEEK as u32);
        *self = Self::behind(self.skip);
        frame
    }
}

/// What may still be spent. It fills up with time and by earning, never above its burst.
#[derive(Debug)]
struct Budget {
    left: u32,
    burst: u32,
    per_second: u32,
    filled: Mono,
}

impl Budget {
    const fn new(burst: u32, per_second: u32, now: Mono) -> Self {
        Self { left: burst, burst, per_second, filled: now }
    }

    fn earn(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.burst);
    }

    fn pay(&mut self, now: Mono) -> Result<(), ()> {
        if self.left == 0 {
            let millis = u32::try_from(now.since(self.filled).as_millis()).unwrap_or(u32::MAX);
            let refill = millis.saturating_mul(self.per_second) / 1000;
            if refill == 0 {
                return Err(());
            }
            self.filled = now;
            self.earn(refill);
        }
        self.left -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
