//! A small HTTP/1.1 client: requests without a body over one kept connection, strict about what counts as a complete answer. Not for
//! the data plane; the demo looks at the sidecars from outside, as any other program would.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Largest head that is read.
const MAX_HEAD: usize = 16 * 1024;

/// Largest body that is read.
const MAX_BODY: usize = 1024 * 1024;

/// Most fields in a head.
const MAX_FIELDS: usize = 64;

/// Why there is no complete answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the connection was closed after {0} bytes of the answer")]
    Closed(usize),
    #[error("the answer is not HTTP/1.1: {0}")]
    NotHttp(#[from] httparse::Error),
    #[error("{0}")]
    Unexpected(&'static str),
    #[error("no complete answer within {0:?}")]
    TimedOut(Duration),
}

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Status code.
    pub(super) status: u16,
    /// Value of `x-instance`, if there is one.
    pub(super) instance: Option<String>,
    /// All of the body.
    pub(super) body: Vec<u8>,
}

/// A connection to `address`, made when it is needed and kept as long as the server does.
#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    idle: Option<TcpStream>,
}

impl Connection {
    /// Connects with the first request.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, idle: None }
    }

    /// Asks for `path` and reads the whole answer, whatever its status.
    ///
    /// Never tries again by itself. After an error, or if the future was dropped, the next call connects anew.
    pub(super) async fn get(&mut self, path: &str, limit: Duration) -> Result<Answer, ClientError> {
        self.ask("GET", path, limit).await
    }

    /// As [`Connection::get`], with another method and no body.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        timeout(limit, self.exchange(method, path)).await.map_err(|_| ClientError::TimedOut(limit))?
    }

    async fn exchange(&mut self, method: &str, path: &str) -> Result<Answer, ClientError> {
        let connecting = |error| ClientError::Connect(self.address, error);
        let mut stream = match self.idle.take() {
            Some(stream) => stream,
            None => TcpStream::connect(self.address).await.map_err(connecting)?,
        };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await?;
        let mut received = Vec::with_capacity(1024);
        let head = loop {
            read_more(&mut stream, &mut received).await?;
            if let Some(head) = Head::parse(&received)? {
                break head;
            }
            if received.len() > MAX_HEAD {
                return Err(ClientError::Unexpected("the head of the answer is too large"));
            }
        };
        let end = head.length + head.body;
        while received.len() < end {
            read_more(&mut stream, &mut received).await?;
        }
        if received.len() > end {
            return Err(ClientError::Unexpected("bytes follow the answer that nobody asked for"));
        }
        if !head.closes {
            self.idle = Some(stream);
        }
        let body = received.split_off(head.length);
        Ok(Answer { status: head.status, instance: head.instance, body })
    }
}

async fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<(), ClientError> {
    match stream.read_buf(received).await? {
        0 => Err(ClientError::Closed(received.len())),
        _ => Ok(()),
    }
}

/// What has to be known of a head to read the rest.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    instance: Option<String>,
    /// Bytes of the head.
    length: usize,
    /// Bytes of the body.
    body: usize,
    /// The server closes the connection after this answer.
    closes: bool,
}

impl Head {
    /// `None` if `received` does not hold the whole head yet.
    fn parse(received: &[u8]) -> Result<Option<Self>, ClientError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = response.parse(received)? else { return Ok(None) };
        let field = |name: &str| {
            let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok()
        };
        // Both the application and the admin API state the length, and a proxy has no reason to change that.
        let body = field("content-length").and_then(|value| value.parse().ok());
        let body = body.ok_or(ClientError::Unexpected("the answer does not state its length"))?;
        if body > MAX_BODY {
            return Err(ClientError::Unexpected("the body of the answer is too large"));
        }
        Ok(Some(Self {
            status: response.code.unwrap_or_default(),
            instance: field("x-instance").map(str::to_owned),
            length,
            body,
            closes: field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_head_tells_instance_length_and_whether_the_connection_stays() {
        let bytes =
            b"HTTP/1.1 200 OK\r\nX-Instance: api-1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let head = Head::parse(bytes).unwrap().unwrap();
        assert_eq!((head.status, head.body, head.closes), (200, 5, true));
        assert_eq!(head.instance.as_deref(), Some("api-1"));
        assert_eq!(&bytes[head.length..], b"hello");
    }

    #[test]
    fn an_answer_of_unknown_length_is_refused_and_half_a_head_waited_for() {
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(Head::parse(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\nContent-").unwrap(), None);
    }

    /// Answers the requests of one connection with `answers`, then closes it.
    async fn serve(listener: &TcpListener, answers: &[&str]) {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_connection_is_kept_until_the_server_says_close() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::new(listener.local_addr().unwrap());
        let keep = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let close = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        let serving = async {
            serve(&listener, &[keep, close]).await;
            serve(&listener, &[keep]).await;
        };
        let asking = async {
            for _ in 0..3 {
                assert_eq!(connection.get("/", LIMIT).await.unwrap().body, b"ok");
            }
        };
        tokio::join!(serving, asking);
    }

    #[tokio::test]
    async fn a_body_cut_short_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::new(listener.local_addr().unwrap());
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel";
        let serving = async { serve(&listener, &[cut]).await };
        let ((), asked) = tokio::join!(serving, connection.get("/", LIMIT));
        assert!(matches!(asked, Err(ClientError::Closed(_) | ClientError::Broken(_))), "{asked:?}");
    }
}
