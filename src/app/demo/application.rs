//! The application of the demo: greets with its name, and is healthy as long as it lives. A process of its own,
//! started by the demo as `outrigger demo-app`.

use std::{
    convert::Infallible,
    io::{Read as _, Write},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

/// What the application says when it listens, before the address.
pub(super) const LISTENING: &str = "listening ";

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
    let serving = runtime.spawn(serve(listener, Arc::new(params.name)));
    let mut ignored = [0; 64];
    while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
    serving.abort();
    Ok(())
}

async fn serve(listener: TcpListener, name: Arc<HeaderValue>) {
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
        let name = Arc::clone(&name);
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                std::future::ready(Ok::<_, Infallible>(answer(request.uri().path(), &name)))
            });
            // What breaks a connection is the client's affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(path: &str, name: &HeaderValue) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/" => {
            let name = String::from_utf8_lossy(name.as_bytes());
            (StatusCode::OK, format!("Hello from {name}, one of three instances behind a sidecar each.\n"))
        }
        "/healthz" => (StatusCode::OK, "healthy\n".to_owned()),
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
    fn every_answer_names_its_instance() {
        let name = HeaderValue::from_static("api-1");
        for (path, status) in [("/", 200), ("/healthz", 200), ("/else", 404)] {
            let response = answer(path, &name);
            assert_eq!((response.status().as_u16(), &response.headers()["x-instance"]), (status, &name));
        }
    }
}
