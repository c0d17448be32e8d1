//! The application of the demo: greets with its name, in the mood that it was told to be in, and says it is healthy
//! as long as it lives: what goes wrong in it shows only in its answers. A process of its own,
//! started by the demo as `outrigger demo-app`.

use std::{
    convert::Infallible,
    io::{Read as _, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

/// What the application says when it listens, before the address.
pub(super) const LISTENING: &str = "listening ";

/// How the application behaves, which a PUT to `/mood/<word>` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Answers at once.
    Well,
    /// Answers 503.
    Failing,
    /// Answers, but late.
    Slow,
}

impl Mood {
    const ALL: [Self; 3] = [Self::Well, Self::Failing, Self::Slow];

    /// The path that puts the application into this mood.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Well => "/mood/well",
            Self::Failing => "/mood/failing",
            Self::Slow => "/mood/slow",
        }
    }
}

/// How late a slow answer comes: far above what the others take, far below any limit.
pub(super) const LATE: Duration = Duration::from_millis(200);

/// One running application.
#[derive(Debug)]
struct Application {
    name: HeaderValue,
    /// Index in [`Mood::ALL`].
    mood: AtomicU8,
}

impl Application {
    fn new(name: HeaderValue) -> Self {
        Self { name, mood: AtomicU8::new(0) }
    }

    fn mood(&self) -> Mood {
        Mood::ALL[usize::from(self.mood.load(Relaxed)) % Mood::ALL.len()]
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method == Method::PUT
            && let Some(mood) = Mood::ALL.into_iter().find(|mood| mood.path() == path)
        {
            self.mood.store(mood as u8, Relaxed);
        }
        if path == "/" && self.mood() == Mood::Slow {
            sleep(LATE).await;
        }
        answer(path, self.mood(), &self.name)
    }
}

/// Pause before accepting again when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The application.
#[derive(Clone, Debug)]
pub struct ApplicationParams {
    /// Where it listens; with port 0 the kernel chooses.
    pub listen: SocketAddr,
    /// Sent in `x-instance` with every answer.
    pub name: HeaderValue,
}

/// Serves until standard input is closed: whoever holds its other end may die in any way, the application follows.
/// Says on `out` where it listens.
///
/// # Errors
/// The address cannot be bound, or nothing can be written to `out`.
pub fn application(params: ApplicationParams, out: &mut dyn Write) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(params.listen))?;
    writeln!(out, "{LISTENING}{}", listener.local_addr()?)?;
    out.flush()?;
    let serving = runtime.spawn(serve(listener, Arc::new(Application::new(params.name))));
    let mut ignored = [0; 64];
    while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
    serving.abort();
    Ok(())
}

async fn serve(listener: TcpListener, application: Arc<Application>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let application = Arc::clone(&application);
        connections.spawn(async move {
            let application = &application;
            let service = service_fn(|request: Request<Incoming>| async move {
                Ok::<_, Infallible>(application.answer(request.method(), request.uri().path()).await)
            });
            // What breaks a connection is the client's affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(path: &str, mood: Mood, name: &HeaderValue) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/" if mood == Mood::Failing => {
            (StatusCode::SERVICE_UNAVAILABLE, "Something this application needs is gone.\n".to_owned())
        }
        "/" => {
            let name = String::from_utf8_lossy(name.as_bytes());
            (StatusCode::OK, format!("Hello from {name}, one of several instances behind a sidecar each.\n"))
        }
        "/healthz" => (StatusCode::OK, "healthy\n".to_owned()),
        _ if path == mood.path() => (StatusCode::OK, "as you like\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "This application knows / and /healthz.\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("x-instance", name.clone());
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_application_says_that_it_is_healthy_all_the_same() {
        let name = HeaderValue::from_static("api-1");
        assert_eq!(answer("/", Mood::Failing, &name).status(), 503);
        assert_eq!(answer("/healthz", Mood::Failing, &name).status(), 200);
    }

    #[test]
    fn every_answer_names_its_instance() {
        let name = HeaderValue::from_static("api-1");
        for (path, status) in [("/", 200), ("/healthz", 200), ("/else", 404)] {
            let response = answer(path, Mood::Well, &name);
            assert_eq!((response.status().as_u16(), &response.headers()["x-instance"]), (status, &name));
        }
    }
}
