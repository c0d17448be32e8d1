//! How verbs reach the admin API of a running sidecar: where it is, the token, one request, and what to say when it
//! fails.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use serde_json::Value;

use super::exit;
use crate::{rt::clock, types::Mono};

/// Where a socket is looked for if nothing is said.
const USUAL_SOCKET: &str = "/run/outrigger/admin.sock";
/// Where the API is if there is none.
const USUAL_AUTHORITY: &str = "127.0.0.1:15000";
/// Largest answer that is read: thousands of members with all their tags.
const MAX_ANSWER: u64 = 32 * 1024 * 1024;
/// Longest file that holds a token.
const MAX_TOKEN: u64 = 4 * 1024;

/// Which sidecar is asked, and how.
#[derive(clap::Args, Debug)]
pub(super) struct AdminArgs {
    /// Admin API: `http://HOST:PORT`, `HOST:PORT` or `unix:/PATH`. Default: unix:/run/outrigger/admin.sock if it is
    /// there, else http://127.0.0.1:15000
    #[arg(short, long, value_name = "URL", env = "OUTRIGGER_ADMIN")]
    admin: Option<Place>,
    /// File with the token of the admin API (`admin.token`)
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Longest wait for the answer
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Where the API is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Host and port.
    Http(String),
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // Also as URLs are written: `unix:///run/outrigger/admin.sock`.
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => {
                    Err("a Unix socket needs an absolute path, as in `unix:/run/outrigger/admin.sock`".into())
                }
            };
        }
        if text.starts_with("https://") {
            return Err("the admin API speaks no TLS: use `http://`, or a tunnel to it".into());
        }
        let authority = text.strip_prefix("http://").unwrap_or(text);
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let is_good = authority.parse::<http::uri::Authority>().is_ok_and(|authority| {
            authority.port_u16().is_some()
                && !authority.host().is_empty()
                && !authority.as_str().contains('@')
        });
        match is_good {
            true => Ok(Self::Http(authority.to_owned())),
            false => Err("expected `http://HOST:PORT`, `HOST:PORT` or `unix:/PATH`".into()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What is asked.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    body: String,
}

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug)]
pub(super) enum AskError {
    /// The file with the token.
    Token(PathBuf, String),
    /// Nobody answers.
    Unreachable(String, io::Error),
    /// The socket belongs to somebody else.
    Closed(String),
    /// Something answers, and it is no sidecar.
    NoSidecar(String, String),
    /// What it was sent is wrong; lines that `outrigger check` would print.
    Invalid(String),
    /// The sidecar says no.
    Refused(u16, String),
}

impl AskError {
    /// What the process exits with.
    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(self.number())
    }

    /// The same, as a number.
    pub(super) fn number(&self) -> u8 {
        match self {
            Self::Token(..) => exit::FAILED,
            Self::Unreachable(..) | Self::NoSidecar(..) => exit::UNREACHABLE,
            Self::Closed(_) | Self::Refused(401 | 403, _) => exit::DENIED,
            Self::Invalid(_) => exit::INVALID,
            Self::Refused(404, _) => exit::NOT_FOUND,
            Self::Refused(409, _) => exit::CONFLICT,
            Self::Refused(504, _) => exit::TIMED_OUT,
            Self::Refused(..) => exit::FAILED,
        }
    }

    /// Writes it to standard error, with what may help.
    #[expect(clippy::print_stderr, reason = "what went wrong is told there")]
    pub(super) fn tell(&self) {
        eprintln!("error: {self}");
        if let Some(hint) = self.hint() {
            eprintln!("hint: {hint}");
        }
    }

    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Token(..) => Some("it holds one line, what `admin.token` is"),
            Self::Unreachable(..) => {
                Some("is it running? Another address is given with --admin or OUTRIGGER_ADMIN")
            }
            Self::NoSidecar(..) => Some("is it the admin address? Give it with --admin or OUTRIGGER_ADMIN"),
            Self::Closed(_) => Some("the socket is open to the user of the sidecar: run this as that user"),
            Self::Refused(401, _) => {
                Some("name the file with its token (`admin.token`) with --token-file or OUTRIGGER_TOKEN_FILE")
            }
            Self::Refused(403, _) => {
                Some("ask for it by its address, or add the name to `admin.hosts` of the sidecar")
            }
            Self::Invalid(_) | Self::Refused(..) => None,
        }
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(file, what) => write!(f, "cannot use the token in {}: {what}", file.display()),
            Self::Unreachable(place, error) => write!(f, "cannot reach the sidecar at {place}: {error}"),
            Self::Closed(place) => write!(f, "may not connect to the sidecar at {place}"),
            Self::NoSidecar(place, what) => write!(f, "no sidecar answers at {place}: {what}"),
            Self::Invalid(found) => write!(f, "the sidecar finds mistakes in it\n{}", found.trim_end()),
            Self::Refused(401, detail) => write!(f, "the sidecar denies access: {detail}"),
            Self::Refused(status, detail) => write!(f, "the sidecar refuses ({status}): {detail}"),
        }
    }
}

impl AdminArgs {
    /// The document at `path`.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(super) fn get(&self, path: &str) -> Result<Value, AskError> {
        self.ask(&Asked { method: "GET", path, body: String::new() })
    }

    /// Has something done.
    ///
    /// # Errors
    /// See [`AskError`]. Without an answer it may have been done.
    pub(super) fn post(&self, path: &str) -> Result<Value, AskError> {
        self.ask(&Asked { method: "POST", path, body: String::new() })
    }

    /// Has done what `body` says.
    ///
    /// # Errors
    /// See [`AskError`]. Without an answer it may have been done.
    pub(super) fn order(&self, path: &str, body: &Value) -> Result<Value, AskError> {
        self.ask(&Asked { method: "POST", path, body: body.to_string() })
    }

    /// The document at `path`, which the sidecar may think about for `wait` besides the usual time.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(super) fn wait_for(&self, path: &str, wait: Duration) -> Result<Value, AskError> {
        self.ask_within(
            &Asked { method: "GET", path, body: String::new() },
            self.timeout.saturating_add(wait),
        )
    }

    /// Sets what `body` says.
    ///
    /// # Errors
    /// See [`AskError`]. Without an answer it may have been done.
    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, AskError> {
        self.ask(&Asked { method: "PUT", path, body: body.to_string() })
    }

    /// Sets what is at `path` to a text.
    ///
    /// # Errors
    /// See [`AskError`]. Without an answer it may have been done.
    pub(super) fn put_text(&self, path: &str, text: String) -> Result<Value, AskError> {
        self.ask(&Asked { method: "PUT", path, body: text })
    }

    /// Removes what is at `path`.
    ///
    /// # Errors
    /// See [`AskError`]. Without an answer it may have been done.
    pub(super) fn delete(&self, path: &str) -> Result<Value, AskError> {
        self.ask(&Asked { method: "DELETE", path, body: String::new() })
    }

    /// The file at `path`, of at most `most` bytes.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(super) fn fetch(&self, path: &str, most: u64) -> Result<Vec<u8>, AskError> {
        let asked = Asked { method: "GET", path, body: String::new() };
        let (place, answer) = self.answer(&asked, self.timeout, most)?;
        if answer.starts_with(b"HTTP/1.1 200 ") || answer.starts_with(b"HTTP/1.0 200 ") {
            let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_default();
            return Ok(answer[end + 4..].to_vec());
        }
        // A refusal is a document like others.
        let strange = AskError::NoSidecar(place.to_string(), "it answers with no file".to_owned());
        Err(read_answer(&answer, &place).err().unwrap_or(strange))
    }

    fn ask(&self, asked: &Asked<'_>) -> Result<Value, AskError> {
        self.ask_within(asked, self.timeout)
    }

    fn ask_within(&self, asked: &Asked<'_>, limit: Duration) -> Result<Value, AskError> {
        let (place, answer) = self.answer(asked, limit, MAX_ANSWER)?;
        read_answer(&answer, &place)
    }

    fn answer(&self, asked: &Asked<'_>, limit: Duration, most: u64) -> Result<(Place, Vec<u8>), AskError> {
        let place = self.admin.clone().unwrap_or_else(usual);
        let token = self.token_file.as_deref().filter(|file| !file.as_os_str().is_empty());
        let token = token.map(read_token).transpose()?;
        let deadline = clock::now().after(limit);
        let answer = exchange(&place, asked, token.as_deref(), deadline, most).map_err(|error| {
            let is_socket = matches!(place, Place::Unix(_));
            match error.kind() {
                ErrorKind::PermissionDenied if is_socket => AskError::Closed(place.to_string()),
                _ => AskError::Unreachable(place.to_string(), error),
            }
        })?;
        Ok((place, answer))
    }
}

fn usual() -> Place {
    let socket = Path::new(USUAL_SOCKET);
    match socket.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
        true => Place::Unix(socket.to_owned()),
        false => Place::Http(USUAL_AUTHORITY.to_owned()),
    }
}

/// The one line of a file.
fn read_token(file: &Path) -> Result<String, AskError> {
    let failed = |what: String| AskError::Token(file.to_owned(), what);
    let mut text = String::new();
    let opened = std::fs::File::open(file).and_then(|open| open.take(MAX_TOKEN).read_to_string(&mut text));
    opened.map_err(|error| failed(error.to_string()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    // Anything else would be another header, or none.
    if line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed("it is not one line of visible ASCII".to_owned()));
    }
    Ok(line.to_owned())
}

/// One request over HTTP/1.0: the answer is everything until the close.
fn exchange(
    place: &Place,
    asked: &Asked<'_>,
    token: Option<&str>,
    deadline: Mono,
    most: u64,
) -> io::Result<Vec<u8>> {
    let host = match place {
        Place::Http(authority) => authority.as_str(),
        Place::Unix(_) => "localhost",
    };
    let Asked { method, path, body } = asked;
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n");
    if *method != "GET" {
        // What a page of somebody else cannot make a browser send.
        request.push_str(&format!("X-Outrigger: 1\r\nContent-Length: {}\r\n", body.len()));
    }
    if let Some(token) = token {
        request.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(body);
    match place {
        Place::Http(authority) => {
            let mut stream = connect(authority, deadline)?;
            converse(&mut stream, &request, deadline, most, |stream, left| {
                stream.set_read_timeout(Some(left)).and_then(|()| stream.set_write_timeout(Some(left)))
            })
        }
        Place::Unix(path) => {
            let mut stream = UnixStream::connect(path)?;
            converse(&mut stream, &request, deadline, most, |stream, left| {
                stream.set_read_timeout(Some(left)).and_then(|()| stream.set_write_timeout(Some(left)))
            })
        }
    }
}

fn connect(authority: &str, deadline: Mono) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sends the request and reads the answer; `limit` bounds the next step.
fn converse<S: Read + Write>(
    stream: &mut S,
    request: &str,
    deadline: Mono,
    most: u64,
    limit: impl Fn(&S, Duration) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    limit(stream, left(deadline)?)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        limit(stream, left(deadline)?)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(length) => answer.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // How a timeout of a socket shows.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > most {
            let why = format!("the answer is larger than {} MiB", most >> 20);
            return Err(io::Error::new(ErrorKind::FileTooLarge, why));
        }
    }
}

fn left(deadline: Mono) -> io::Result<Duration> {
    let left = deadline.since(clock::now());
    if left.is_zero() { Err(late()) } else { Ok(left) }
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer in time")
}

fn read_answer(answer: &[u8], place: &Place) -> Result<Value, AskError> {
    let strange = |what: &str| AskError::NoSidecar(place.to_string(), what.to_owned());
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.ok_or_else(|| strange("it answers no HTTP"))?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let status = words.next().and_then(|status| status.parse::<u16>().ok()).filter(|_| is_http);
    let status = status.ok_or_else(|| strange("it answers no HTTP"))?;
    let document = serde_json::from_slice::<Value>(&answer[end + 4..]);
    match (status, document) {
        (200, Ok(document)) => Ok(document),
        (200, Err(_)) => Err(strange("it answers no JSON")),
        (422, Ok(problem)) if problem["findings"].is_object() => {
            let lines = problem["detail"].as_str().unwrap_or_default().lines();
            Err(AskError::Invalid(lines.map(|line| printable(line) + "\n").collect()))
        }
        (_, document) => {
            let detail = document.ok().and_then(|problem| problem["detail"].as_str().map(printable));
            Err(AskError::Refused(status, detail.unwrap_or_else(|| "it does not say why".to_owned())))
        }
    }
}

/// What answers may be anybody; a terminal must not take its words for commands.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(1000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_in_several_ways() {
        for (text, shown) in [
            ("127.0.0.1:15000", "http://127.0.0.1:15000"),
            ("http://[::1]:9/", "http://[::1]:9"),
            ("http://admin.internal:15000", "http://admin.internal:15000"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), shown);
        }
        for bad in
            ["", "localhost", "https://a:1", "unix:a.sock", "http://u@h:1", "http://h:1/path", ":1", "h:x"]
        {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_are_read_for_what_they_say() {
        let place = Place::Http("h:1".into());
        let read = |answer: &str| read_answer(answer.as_bytes(), &place);
        assert_eq!(read("HTTP/1.0 200 OK\r\n\r\n{\"a\":1}").unwrap()["a"], 1);
        for strange in ["", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 ok\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n<html>"] {
            assert!(matches!(read(strange), Err(AskError::NoSidecar(..))), "{strange}");
        }
        let denied = read("HTTP/1.1 401 Unauthorized\r\n\r\n{\"detail\":\"the token\\u001b[1m is wrong\"}");
        match denied {
            Err(error @ AskError::Refused(401, _)) => {
                assert_eq!(error.to_string(), "the sidecar denies access: the token [1m is wrong");
            }
            other => panic!("{other:?}"),
        }
    }
}
