//! HTTP/2 as frames, on either side: sends what no library would, and reads what comes frame by frame.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload
            .get(at..at + 4)
            .map_or(u32::MAX, |code| code.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    /// The status, if this is the head of an answer whose status HPACK has an index for, or writes as digits.
    pub(crate) fn status(&self) -> Option<u16> {
        match self.payload.first()? {
            0x88 => Some(200),
            0x8b => Some(304),
            0x8c => Some(400),
            0x8d => Some(404),
            0x8e => Some(500),
            _ => None,
        }
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// SETTINGS with these values.
pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

/// A field that HPACK neither compresses nor remembers; both parts shorter than 127 bytes.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(name.len()).expect("a short name")];
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(u8::try_from(value.len()).expect("a short value"));
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

/// The fields that every request has.
pub(crate) fn request_fields(method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "h")];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// HEADERS of a whole GET.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_fields("GET", path))
}

/// HEADERS of a POST whose body follows.
pub(crate) fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request_fields("POST", path))
}

/// WINDOW_UPDATE.
pub(crate) fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// RST_STREAM.
pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A connection of frames.
pub(crate) struct Frames {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Frames {
    /// Connects as a client and sends the preface with these settings.
    pub(crate) async fn connect(address: SocketAddr, values: &[(u16, u32)]) -> Self {
        let stream = within("connect", TcpStream::connect(address)).await.expect("it listens");
        stream.set_nodelay(true).expect("the socket is open");
        let mut frames = Self { stream, ahead: Vec::new() };
        frames.send([PREFACE, &settings(values)].concat()).await;
        frames
    }

    /// Takes a client's connection as a server, reads its preface and sends these settings.
    pub(crate) async fn accept(connection: super::Connection, values: &[(u16, u32)]) -> Option<Self> {
        let mut frames = Self { stream: connection.wire.stream, ahead: Vec::new() };
        frames.fill(PREFACE.len()).await.then_some(())?;
        frames.ahead.drain(..PREFACE.len());
        frames.send(settings(values)).await;
        Some(frames)
    }

    /// Writes; if the other side has closed, what it sent shows that. `false` if nothing more can be written.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = tokio::time::timeout(super::LIMIT, self.stream.write_all(bytes.as_ref())).await;
        matches!(sent, Ok(Ok(())))
    }

    /// Writes the same again and again, and reads what comes meanwhile, until the other side closes or `times` are
    /// over. How the other side ended the connection, if it did.
    pub(crate) async fn flood(&mut self, bytes: &[u8], times: usize) -> Option<Ending> {
        let (mut read, mut write) = self.stream.split();
        let ahead = &mut self.ahead;
        let reading = async { while matches!(read.read_buf(ahead).await, Ok(1..)) {} };
        let writing = async {
            for _ in 0..times {
                if write.write_all(bytes).await.is_err() {
                    // It has closed, and what it said before is read to the end.
                    std::future::pending::<()>().await;
                }
            }
        };
        let closed = within("the end of a flood", async {
            tokio::select! {
                () = reading => true,
                () = writing => false,
            }
        })
        .await;
        if closed { Some(self.ending()) } else { None }
    }

    /// Reads until the other side closes.
    pub(crate) async fn closed(&mut self) -> Ending {
        within("the close", async {
            while matches!(self.stream.read_buf(&mut self.ahead).await, Ok(1..)) {}
        })
        .await;
        self.ending()
    }

    fn ending(&mut self) -> Ending {
        let mut ending = Ending { goaway: None, frames: 0 };
        while let Some(frame) = self.take() {
            ending.frames += 1;
            if frame.kind == GOAWAY {
                ending.goaway = Some(frame.code());
            }
        }
        ending
    }

    async fn fill(&mut self, count: usize) -> bool {
        while self.ahead.len() < count {
            if !matches!(self.stream.read_buf(&mut self.ahead).await, Ok(1..)) {
                return false;
            }
        }
        true
    }

    fn take(&mut self) -> Option<Frame> {
        let head: [u8; 9] = self.ahead.get(..9)?.try_into().ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.ahead.get(9..9 + length)?.to_vec();
        self.ahead.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame; `None` if the other side closes before. SETTINGS are acknowledged on the way.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        within("a frame", async {
            loop {
                if let Some(frame) = self.take() {
                    if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                        self.send(self::frame(SETTINGS, ACK, 0, &[])).await;
                    }
                    return Some(frame);
                }
                if !self.fill(self.ahead.len() + 1).await {
                    return None;
                }
            }
        })
        .await
    }

    /// The next frame of one of these kinds.
    pub(crate) async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }

    /// The next frame of this kind on this stream.
    pub(crate) async fn until(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind && frame.stream == stream {
                return Some(frame);
            }
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// The error code of the last GOAWAY.
    pub(crate) goaway: Option<u32>,
    /// Frames that came before the end and were not read.
    pub(crate) frames: usize,
}
