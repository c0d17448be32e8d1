//! One connection to one peer, in one lane: made when it is needed, shared by all calls, and let go of. Which peer, and what
//! becomes of a call, is caller.rs's.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    PingPong, Reason,
    client::{self, SendRequest},
};
use http::{HeaderValue, Request, Response, StatusCode, Version, header::CONTENT_LENGTH};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Known, Lane, Own, Target,
    caller::Failure,
    traffic::{Counted, Received, Traffic},
    wire::{self, Activity, CLUSTER, DEADLINE, FROM, HELLO, LONGEST_TEXT, TO},
};
use crate::{
    identity::{Alpn, AnyoneTls},
    net::{self, tls},
    rt::clock,
    types::{EndpointAddress, Mono},
};

/// After an attempt, none is made for so long: a dead peer costs no dial per call.
pub(super) const BACKOFF: Duration = Duration::from_millis(50);
/// A connection without a call for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// For the last words on a connection on which nothing is in progress any more.
const FAREWELL: Duration = Duration::from_secs(1);
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
        length: usize,
        limit: Duration,
    ) -> Result<Request<()>, http::Error> {
        // Rounded up: the server gives up no sooner than we do.
        let limit = u64::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        Request::post(format!("http://{}{}{method}", to.address, wire::PREFIX))
            .version(Version::HTTP_2)
            .header(CLUSTER, self.cluster.clone())
            .header(FROM, self.node.clone())
            .header(TO, HeaderValue::from(to.node))
            .header(DEADLINE, HeaderValue::from(limit))
            .header(CONTENT_LENGTH, HeaderValue::from(length))
            .body(())
    }
}

/// A connection that works.
#[derive(Clone)]
pub(super) struct Line {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
    epoch: u64,
}

/// What the calls on a connection, and who drives it, know of it.
#[derive(Default)]
struct Shared {
    activity: Arc<Activity>,
    traffic: Arc<Traffic>,
    /// A call was turned away: no other one is to try it.
    over: AtomicBool,
    /// Why it was given up.
    why: OnceLock<&'static str>,
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
                Stage::Up(line) => line.epoch == ourselves.epoch() && !line.shared.over.load(Relaxed),
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
    Answered(Response<Received>),
    /// It certainly was not received, nor will be.
    Not,
    /// It may have been sent, but is not answered, for this reason.
    Perhaps(String),
}

impl Line {
    /// Sends a call and waits for the head of its answer. Cancel-safe: when dropped, the other side is told.
    pub(super) async fn send(
        self,
        ourselves: &Ourselves,
        to: &Target,
        method: &str,
        body: Bytes,
        limit: Duration,
    ) -> Sent {
        // An address and a method always make a request.
        let Ok(request) = ourselves.request(to, method, body.len(), limit) else { return Sent::Not };
        let Self { mut sender, shared, .. } = self;
        let written = shared.traffic.written();
        let is_empty = body.is_empty();
        // Head and body are there before the connection is driven again: they leave in one piece. A long body waits in h2
        // for the window of the other side; it is memory that the caller has as well, and is let go of with the call.
        let Ok((response, mut stream)) = sender.send_request(request, is_empty) else {
            shared.over.store(true, Relaxed);
            return Sent::Not;
        };
        if !is_empty {
            // If the connection has ended since, the answer says so.
            let _ = stream.send_data(body, true);
        }
        match response.await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let body = Received::new(&head.headers, body);
                Sent::Answered(Response::from_parts(head, body))
            }
            Err(error) if is_refused(&error) => {
                shared.over.fetch_or(error.is_go_away(), Relaxed);
                Sent::Not
            }
            // The connection has ended. Who drives it reads before it writes: what the other side has ended already is
            // found out before a call leaves.
            Err(error) if !error.is_reset() && shared.traffic.written() == written => {
                shared.over.store(true, Relaxed);
                Sent::Not
            }
            Err(error) => {
                Sent::Perhaps(shared.why.get().map_or_else(|| with_causes(&error), |why| (*why).to_owned()))
            }
        }
    }

    /// Keeps the connection from being closed as idle.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.shared.activity
    }
}

/// Whether the other side says that it has not looked at a call: its stream came after the last one that it takes, or it had no
/// place for it.
fn is_refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
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

type Connection = client::Connection<Counted, Bytes>;

/// A connection that is to be driven.
struct Made {
    line: Line,
    connection: Box<Connection>,
    pings: Option<PingPong>,
    /// How long what the other side has shown is good.
    life: Duration,
}

/// Why a connection takes no more calls.
enum End {
    /// It is no more.
    Broken(String),
    /// The other side wants no more calls, but answers those that it has.
    Refusing,
    /// We want another one, or none.
    Done,
}

/// Makes a connection, drives it, and lets it go, telling `stage` of it.
async fn keep(ourselves: Arc<Ourselves>, to: Target, lane: Lane, stage: watch::Sender<Stage>) {
    let began = clock::now();
    let limit = lane.dial_limit();
    let dialling = async {
        let made = make(&ourselves, &to, limit).await?;
        greeted(made, &ourselves, &to, limit).await
    };
    let dialled = timeout(limit, dialling).await;
    let dialled =
        dialled.unwrap_or_else(|_| Err(Failure::Unreachable(format!("no connection within {limit:?}"))));
    let Made { line, mut connection, pings, life } = match dialled {
        Ok(dialled) => dialled,
        Err(why) => {
            tracing::debug!(node = to.node, address = %to.address, ?lane, error = %why, "a node was not reached");
            stage.send_replace(Stage::Down { next: clock::now().after(BACKOFF), why });
            return;
        }
    };
    let (shared, mut sender) = (Arc::clone(&line.shared), line.sender.clone());
    let mut silence = pin!(silence(&shared, pings));
    stage.send_replace(Stage::Up(line));
    let end = tokio::select! {
        end = drive(&mut connection, &mut sender) => end,
        () = silence.as_mut() => End::Broken(SILENT.to_owned()),
        // Another one has its place.
        () = stage.closed() => End::Done,
        () = sleep(life) => End::Done,
        () = shared.activity.quiet(IDLE, IDLE) => End::Done,
    };
    drop(sender);
    let next = began.after(BACKOFF);
    let is_early = clock::now() < next;
    let down = |why: &str| Stage::Down { next, why: Failure::Unreachable(why.to_owned()) };
    stage.send_replace(match &end {
        // It is tried again at once, but not if it breaks as soon as it is made.
        End::Broken(why) if is_early => down(why),
        End::Refusing if is_early => down("it hung up"),
        End::Broken(_) | End::Refusing | End::Done => Stage::Over,
    });
    match end {
        // Calls that still wait in it come back.
        End::Broken(_) => drop(connection),
        End::Refusing | End::Done => {
            let finishing = async {
                tokio::select! {
                    () = finish(&mut connection, &shared.activity) => {}
                    () = silence => {}
                }
            };
            let _ = timeout(wire::LONGEST, finishing).await;
        }
    }
}

const SILENT: &str = "the other side does not answer pings";

/// Ends when the other side does not answer any more.
async fn silence(shared: &Shared, pings: Option<PingPong>) {
    shared.traffic.silence(pings).await;
    let _ = shared.why.set(SILENT);
}

/// Drives a connection until it is over, or takes no more calls.
async fn drive(connection: &mut Connection, sender: &mut SendRequest<Bytes>) -> End {
    poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(End::Broken("it hung up".to_owned())),
        Poll::Ready(Err(error)) => Poll::Ready(End::Broken(with_causes(&error))),
        // What was read may have been that there are to be no more calls.
        Poll::Pending => match sender.poll_ready(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(End::Refusing),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        },
    })
    .await
}

/// Drives a connection until no call has a part in it, and takes leave.
async fn finish(connection: &mut Connection, activity: &Activity) {
    loop {
        tokio::select! {
            _ = &mut *connection => return,
            () = activity.finished() => {}
        }
        // It ends by itself when nobody can send on it any more, but does not wake up for that.
        if timeout(FAREWELL, &mut *connection).await.is_ok() || activity.is_none() {
            return;
        }
    }
}

async fn make(ourselves: &Ourselves, to: &Target, limit: Duration) -> Result<Made, Failure> {
    let epoch = ourselves.epoch();
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
    let shared = Arc::new(Shared::default());
    let handshake = client::Builder::new()
        .initial_window_size(wire::STREAM_WINDOW)
        .initial_connection_window_size(wire::CONNECTION_WINDOW)
        .max_header_list_size(wire::LARGEST_HEAD)
        .max_concurrent_reset_streams(wire::STREAMS as usize)
        .max_send_buffer_size(wire::SEND_BUFFER)
        .enable_push(false)
        // The greeting; the other side says how many it takes before it answers that.
        .initial_max_send_streams(1)
        .handshake(Counted::new(stream, Arc::clone(&shared.traffic)))
        .await;
    let (sender, connection) = handshake.map_err(|error| Failure::Unreachable(with_causes(&error)))?;
    let mut connection = Box::new(connection);
    let pings = connection.ping_pong();
    Ok(Made { line: Line { sender, shared, epoch }, connection, pings, life })
}

/// The same connection, if the other side is who is meant.
async fn greeted(made: Made, ourselves: &Ourselves, to: &Target, limit: Duration) -> Result<Made, Failure> {
    let Made { line, mut connection, pings, life } = made;
    let mut greeting = pin!(greet(line.clone(), ourselves, to, limit));
    let ended = tokio::select! {
        greeted = greeting.as_mut() => {
            greeted?;
            return Ok(Made { line, connection, pings, life });
        }
        ended = connection.as_mut() => ended,
    };
    // The answer may have come just before the end. If none did, the greeting says so now.
    drop(connection);
    let why = ended.err().map_or_else(|| "it hung up".to_owned(), |error| with_causes(&error));
    Err(match greeting.await {
        Err(refused @ Failure::Refused { .. }) => refused,
        Ok(()) | Err(_) => Failure::Unreachable(why),
    })
}

/// Has the other side say that it is who is meant, before anything is sent that only it may read. In TLS 1.3 this also
/// is how one learns that one's own certificate was not believed.
async fn greet(line: Line, ourselves: &Ourselves, to: &Target, limit: Duration) -> Result<(), Failure> {
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
        Sent::Perhaps(why) => Err(Failure::Unreachable(why)),
    }
}

/// Whether it is the one who was called that answers.
pub(super) fn is_from(response: &Response<Received>, to: &Target) -> bool {
    wire::number(response.headers(), &FROM) == Some(to.node)
}

/// What a refusal says.
pub(super) async fn refused(status: StatusCode, response: Response<Received>) -> Failure {
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
