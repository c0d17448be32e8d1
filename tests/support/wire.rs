//! HTTP/1 as bytes: reads messages off a stream without any opinion on whether they are right.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// First line and fields of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) start: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Self { start, fields: lines.filter_map(field).collect() }
    }

    /// The first field of this name, which is in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All fields of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What followed a head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// It came to the end that its framing announced.
    pub(crate) complete: bool,
}

/// How long a body is, as its reader must see it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    Nothing,
    Length(usize),
    Chunked,
    ToTheClose,
}

/// A stream and what was read from it ahead of need.
pub(crate) struct Wire<S> {
    pub(crate) stream: S,
    ahead: Vec<u8>,
}

impl Wire<TcpStream> {
    /// Ends the connection with a reset instead of an orderly close.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("the socket is open");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// Writes; the other side may be gone, which its answers show.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads more; `false` at the end of the stream, also when that is a reset.
    async fn fill(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.ahead).await, Ok(1..))
    }

    /// Bytes up to and including `end`; `None` if the stream ends before.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                let rest = self.ahead.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.ahead, rest));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// As many bytes; fewer if the stream ends before.
    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count && self.fill().await {}
        let rest = self.ahead.split_off(count.min(self.ahead.len()));
        std::mem::replace(&mut self.ahead, rest)
    }

    /// What is there, or comes next; nothing at the end of the stream.
    pub(crate) async fn some(&mut self) -> Vec<u8> {
        if self.ahead.is_empty() {
            self.fill().await;
        }
        std::mem::take(&mut self.ahead)
    }

    /// Whether the stream ends with a reset rather than in order. What came before is read.
    pub(crate) async fn ends_with_reset(&mut self) -> bool {
        loop {
            match self.stream.read_buf(&mut self.ahead).await {
                Ok(0) => return false,
                Ok(_) => {}
                Err(_) => return true,
            }
        }
    }

    /// Everything up to the end of the stream.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.ahead)
    }

    /// The next head; `None` if the stream ends before it does.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        let bytes = self.until(b"\r\n\r\n").await?;
        Some(Head::parse(&bytes))
    }

    pub(crate) async fn body(&mut self, extent: Extent) -> Body {
        match extent {
            Extent::Nothing => Body { complete: true, ..Body::default() },
            Extent::Length(length) => {
                let data = self.exactly(length).await;
                Body { complete: data.len() == length, data, ..Body::default() }
            }
            Extent::ToTheClose => Body { data: self.rest().await, complete: true, ..Body::default() },
            Extent::Chunked => self.chunks().await,
        }
    }

    async fn chunks(&mut self) -> Body {
        let mut body = Body::default();
        while let Some(line) = self.until(b"\r\n").await {
            let line = String::from_utf8_lossy(&line);
            let size = line.trim().split(';').next().unwrap_or_default();
            let Ok(size) = usize::from_str_radix(size, 16) else { return body };
            if size == 0 {
                body.complete = self.trailers(&mut body.trailers).await;
                return body;
            }
            let chunk = self.exactly(size + 2).await;
            body.data.extend_from_slice(&chunk[..size.min(chunk.len())]);
        }
        body
    }

    async fn trailers(&mut self, trailers: &mut Vec<(String, String)>) -> bool {
        while let Some(line) = self.until(b"\r\n").await {
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().split_once(':') {
                Some((name, value)) => trailers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
                None => return line.trim_end().is_empty(),
            }
        }
        false
    }
}
