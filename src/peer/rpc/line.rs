//! One connection to one peer, in one lane: made when it is needed, shared by all calls, and let go of. Which peer, and what
//! becomes of a call, is caller.rs's.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Known, Lane, Own, Target,
    caller::Failure,
    streams::{Start, StreamTasks},
    wire::{self, Activity, CLUSTER, DEADLINE, FROM, HELLO, LONGEST_TEXT, TO},
};
use crate::{
    identity::{Alpn, AnyoneTls},
    net::{self, Stream, tls},
    rt::clock,
    types::{EndpointAddress, Mono},
};

/// After an attempt, none is made for so long: a dead peer costs no dial per call.
pub(super) const BACKOFF: Duration = Duration::from_millis(50);
/// A connection without a call for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// What is read of the text of a refusal.
const REFUSAL: usize = LONGEST_TEXT;

/// Who calls, and how it proves that.
pub(super) struct Ourselves {
    pub(super) cluster: HeaderValue,
    pub(super) node: HeaderValue,
    pub(super) anyone: Option<AnyoneTls>,
    /// Who is who; `None` believes all.
    pub(super) known: Option<Arc<Known>>,
}

impl Ourselves {
    pub(super) fn new(own: &Own, anyone: Option<AnyoneTls>, known: Option<Arc<Known>>) -> Self {
        Self { cluster: wire::cluster_value(own), node: HeaderValue::from(own.node), anyone, known }
    }

    /// Changes when connections from before are not to be used any more.
    fn epoch(&self) -> u64 {
        self.anyone.as_ref().map_or(0, AnyoneTls::epoch)
    }

    /// A call that still waits for `limit`.
    fn request(
        &self,
        to: &Target,
        method: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        // Rounded up: the server gives up no sooner than we do.
        let limit = u64::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        Request::post(format!("http://{}{}{method}", to.address, wire::PREFIX))
            .header(CLUSTER, self.cluster.clone())
            .header(FROM, self.node.clone())
            .header(TO, HeaderValue::from(to.node))
            .header(DEADLINE, HeaderValue::from(limit))
            .body(Full::new(body))
    }
}

/// A connection that works.
#[derive(Clone)]
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    activity: Arc<Activity>,
    epoch: u64,
}

/// How far a connection has come.
#[derive(Clone)]
enum Stage {
    Dialling,
    Up(Line),
    /// There is none, and none is tried until `next`.
    Down {
        next: Mono,
        why: Failure,
    },
    /// It takes no more calls.
    Over,
}

/// The connection to one peer in one lane. Dropping it ends it, with all that is in progress.
pub(super) struct Link {
    to: Target,
    lane: Lane,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    stage: Option<watch::Receiver<Stage>>,
    /// The one connection, and those from before that finish what is in progress.
    tasks: JoinSet<()>,
}

impl Link {
    pub(super) fn new(to: Target, lane: Lane) -> Self {
        Self { to, lane, current: Mutex::default() }
    }

    /// The connection; made now if there is none. All who wait share one attempt, which goes on if they go away.
    /// `None` if it has ended already. Cancel-safe.
    pub(super) async fn line(&self, ourselves: &Arc<Ourselves>) -> Result<Option<Line>, Failure> {
        let mut stage = self.stage(ourselves);
        let reached = stage.wait_for(|stage| !matches!(stage, Stage::Dialling)).await;
        match reached.map(|stage| stage.clone()) {
            Ok(Stage::Up(line)) => Ok(Some(line)),
            Ok(Stage::Down { why, .. }) => Err(why),
            Ok(Stage::Dialling | Stage::Over) | Err(_) => Ok(None),
        }
    }

    fn stage(&self, ourselves: &Arc<Ourselves>) -> watch::Receiver<Stage> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        while current.tasks.try_join_next().is_some() {}
        if let Some(stage) = &current.stage {
            let is_good = match &*stage.borrow() {
                Stage::Dialling => stage.has_changed().is_ok(),
                Stage::Up(line) => line.epoch == ourselves.epoch() && !line.sender.is_closed(),
                Stage::Down { next, .. } => clock::now() < *next,
                Stage::Over => false,
            };
            if is_good {
                return stage.clone();
            }
        }
        let (sender, receiver) = watch::channel(Stage::Dialling);
        current.tasks.spawn(keep(Arc::clone(ourselves), self.to, self.lane, sender));
        current.stage = Some(receiver.clone());
        receiver
    }
}

/// What became of sending.
pub(super) enum Sent {
    /// The head of the answer.
    Answered(Response<Incoming>),
    /// The connection was gone before anything was sent.
    Not,
    /// It may have been sent.
    Perhaps(hyper::Error),
}

impl Line {
    /// Sends a call and waits for the head of its answer. Cancel-safe: when dropped, the other side is told.
    pub(super) async fn send(
        &mut self,
        ourselves: &Ourselves,
        to: &Target,
        method: &str,
        body: Bytes,
        limit: Duration,
    ) -> Sent {
        // An address and a method always make a request.
        let Ok(request) = ourselves.request(to, method, body, limit) else { return Sent::Not };
        match self.sender.try_send_request(request).await {
            Ok(response) => Sent::Answered(response),
            Err(mut error) => match error.take_message() {
                Some(_) => Sent::Not,
                None => Sent::Perhaps(error.into_error()),
            },
        }
    }

    /// Keeps the connection from being closed as idle.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Lane {
    /// How long making a connection may take.
    fn dial_limit(self) -> Duration {
        match self {
            Self::Beat => Duration::from_secs(1),
            Self::Log | Self::Bulk => Duration::from_secs(3),
        }
    }
}

type Connection = http2::Connection<TokioIo<Stream>, Full<Bytes>, Start>;

/// A connection that nothing was said on yet.
struct Made {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection,
    /// How long what the other side has shown is good.
    life: Duration,
}

/// Makes a connection, drives it, and lets it go, telling `stage` of it.
async fn keep(ourselves: Arc<Ourselves>, to: Target, lane: Lane, stage: watch::Sender<Stage>) {
    let began = clock::now();
    let epoch = ourselves.epoch();
    let tasks = StreamTasks::default();
    let limit = lane.dial_limit();
    let dialling = async {
        let Made { sender, connection, life } = make(&ourselves, to, tasks.start(None), limit).await?;
        let mut connection = Box::pin(connection);
        let mut line = Line { sender, activity: Arc::default(), epoch };
        {
            let mut greeting = pin!(greet(&mut line, &ourselves, &to, limit));
            tokio::select! {
                // The answer may be there in the same moment in which the connection ends.
                biased;
                greeted = greeting.as_mut() => greeted?,
                ended = connection.as_mut() => return Err(match ended {
                    Ok(()) => Failure::Unreachable("it hung up".to_owned()),
                    Err(error) => Failure::Unreachable(with_causes(&error)),
                }),
            }
        }
        Ok((line, connection, life))
    };
    let dialled = timeout(limit, dialling).await;
    let dialled =
        dialled.unwrap_or_else(|_| Err(Failure::Unreachable(format!("no connection within {limit:?}"))));
    let (line, mut connection, life) = match dialled {
        Ok(dialled) => dialled,
        Err(why) => {
            tracing::debug!(node = to.node, address = %to.address, ?lane, error = %why, "a node was not reached");
            stage.send_replace(Stage::Down { next: clock::now().after(BACKOFF), why });
            return;
        }
    };
    let activity = Arc::clone(line.activity());
    stage.send_replace(Stage::Up(line));
    let broken = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        // Another one has its place.
        () = stage.closed() => None,
        () = sleep(life) => None,
        () = activity.quiet(IDLE, IDLE) => None,
    };
    let why = match &broken {
        Some(Err(error)) => with_causes(error),
        Some(Ok(())) | None => "it hung up".to_owned(),
    };
    let next = began.after(BACKOFF);
    stage.send_replace(match &broken {
        // It is tried again at once, but not if it breaks as soon as it is made.
        Some(_) if clock::now() < next => Stage::Down { next, why: Failure::Unreachable(why) },
        Some(_) | None => Stage::Over,
    });
    let finishing = async {
        match broken {
            // Ends when the last call that has a part in it has ended.
            None => drop(connection.await),
            // Calls that still wait in it come back unsent.
            Some(_) => drop(connection),
        }
        // The other side takes no more calls, but may still answer those that it has.
        activity.finished().await;
    };
    let _ = timeout(wire::LONGEST, finishing).await;
    tasks.end().await;
}

async fn make(ourselves: &Ourselves, to: Target, start: Start, limit: Duration) -> Result<Made, Failure> {
    let dialled = net::dial(&EndpointAddress::Tcp(to.address), limit).await;
    let plain = dialled.map_err(|error| Failure::Unreachable(with_causes(&error)))?;
    let (stream, life) = match &ourselves.anyone {
        None => (plain, wire::LIFE),
        Some(anyone) => {
            let connected = tls::connect_to_anyone(plain, anyone, Alpn::Http2, limit).await;
            let (stream, facts) = connected.map_err(|error| Failure::Unreachable(format!("TLS: {error}")))?;
            if let Some(known) = &ourselves.known
                && let Err(error) = known.judge(to.node, &facts.id)
            {
                known.tell("a node was not called", &error);
                return Err(Failure::Unreachable(error.to_string()));
            }
            let left = facts.not_after.duration_since(clock::wall()).unwrap_or_default();
            (stream, wire::LIFE.min(left))
        }
    };
    let handshake = http2::Builder::new(start)
        .timer(TokioTimer::new())
        .initial_stream_window_size(wire::STREAM_WINDOW)
        .initial_connection_window_size(wire::CONNECTION_WINDOW)
        .max_header_list_size(wire::LARGEST_HEAD)
        .max_send_buf_size(wire::SEND_BUFFER)
        .max_concurrent_reset_streams(wire::STREAMS as usize)
        .keep_alive_interval(wire::PING_INTERVAL)
        .keep_alive_timeout(wire::PING_LIMIT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake.map_err(|error| Failure::Unreachable(with_causes(&error)))?;
    Ok(Made { sender, connection, life })
}

/// Has the other side say that it is who is meant, before anything is sent that only it may read. In TLS 1.3 this also
/// is how one learns that one's own certificate was not believed.
async fn greet(line: &mut Line, ourselves: &Ourselves, to: &Target, limit: Duration) -> Result<(), Failure> {
    match line.send(ourselves, to, HELLO, Bytes::new(), limit).await {
        Sent::Answered(response) => {
            if wire::number(response.headers(), &FROM).is_none() {
                return Err(Failure::Unreachable("what answers there is no node of a mesh".to_owned()));
            }
            let status = response.status();
            if status == StatusCode::OK && is_from(&response, to) {
                return Ok(());
            }
            Err(refused(status, response).await)
        }
        Sent::Not => Err(Failure::Unreachable("it hung up".to_owned())),
        Sent::Perhaps(error) => Err(Failure::Unreachable(with_causes(&error))),
    }
}

/// Whether it is the one who was called that answers.
pub(super) fn is_from(response: &Response<Incoming>, to: &Target) -> bool {
    wire::number(response.headers(), &FROM) == Some(to.node)
}

/// What a refusal says.
pub(super) async fn refused(status: StatusCode, response: Response<Incoming>) -> Failure {
    let text = wire::read(response.into_body(), REFUSAL, None).await;
    let text = text.map(|(text, _)| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
    match status {
        StatusCode::BAD_GATEWAY => Failure::Broken(text),
        _ => Failure::Refused { status, text },
    }
}

/// An error with all its causes: those of hyper name the protocol, and what it broke on stands beneath.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
