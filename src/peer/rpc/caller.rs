//! Calls other nodes: finds the connection to a peer, sends on it, and says what became of the call. Connections are
//! line.rs's.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::{sync::Semaphore, time::timeout_at};

use super::{
    Known, Lane, Method, Own, Target,
    line::{self, Link, Ourselves, Sent},
    traffic::Received,
    wire::{self, LARGEST, LONGEST, ReadError},
};
use crate::{identity::AnyoneTls, rt::clock, types::Mono};

/// Peers to which there are connections. One more takes the place of the one that was called least recently.
const MAX_PEERS: usize = 64;

/// What became of a call that has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {} at {}: {failure}", to.node, to.address)]
pub struct RpcError {
    /// Who was called.
    pub to: Target,
    /// What became of it.
    pub failure: Failure,
}

/// What became of a call that has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no connection, for this reason. Nothing was sent.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It was received and refused. Nothing was done.
    #[error("refuses ({}): {text}", status.as_u16())]
    Refused {
        /// The kind of refusal: 421 if another node is there, 403 if it is of another cluster, 404 if it does not know
        /// the method, 503 if it has no room; else what the one who answers says.
        status: StatusCode,
        /// For people.
        text: String,
    },
    /// There was no answer within this limit. It may have been done, or may still be.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection or the call broke, for this reason. It may have been done, or may still be.
    #[error("the call broke off: {0}")]
    Broken(String),
    /// It is longer than [`LARGEST`].
    #[error("the {0} is longer than {LARGEST} bytes")]
    TooLong(Part),
}

/// A part of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is sent. It was not.
    Call,
    /// What comes back. Something was done.
    Answer,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Call => "call",
            Self::Answer => "answer",
        })
    }
}

impl Failure {
    /// Whether the other side certainly has done nothing, and will do nothing.
    #[must_use]
    pub fn is_undone(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Refused { .. } | Self::TooLong(Part::Call) => true,
            Self::TimedOut(_) | Self::Broken(_) | Self::TooLong(Part::Answer) => false,
        }
    }
}

/// Calls other nodes. Clones share the connections, which end with the last of them.
#[derive(Clone)]
pub struct Caller(Arc<Peers>);

struct Peers {
    ourselves: Arc<Ourselves>,
    known: Mutex<HashMap<Target, Peer>>,
}

/// A peer, and when it was called last.
struct Peer {
    lanes: Arc<[Channel; 3]>,
    called: Mono,
}

/// The connection of one lane, and places on it.
struct Channel {
    link: Link,
    room: Semaphore,
}

impl Channel {
    fn new(to: Target, lane: Lane) -> Self {
        Self { link: Link::new(to, lane), room: Semaphore::new(wire::STREAMS as usize) }
    }
}

impl Caller {
    /// Calls as `own`. With `anyone`, only members of its trust domain are called; without, everybody is, and in plain
    /// text. Makes no connection yet.
    #[must_use]
    pub fn new(own: &Own, anyone: Option<AnyoneTls>) -> Self {
        Self::made(Ourselves::new(own, anyone, None))
    }

    /// The same, and calls within mTLS only nodes that have proved to be of the service of their certificate.
    #[must_use]
    pub fn knowing(own: &Own, anyone: Option<AnyoneTls>, known: Arc<Known>) -> Self {
        Self::made(Ourselves::new(own, anyone, Some(known)))
    }

    fn made(ourselves: Ourselves) -> Self {
        Self(Arc::new(Peers { ourselves: Arc::new(ourselves), known: Mutex::default() }))
    }

    /// Calls `method` of `to`, and waits for the answer for at most `limit`, which is [`LONGEST`] at most. Each lane
    /// takes 256 calls at once; others wait. Cancel-safe: when dropped, the other side gives up as well, or does what it
    /// was asked all the same.
    ///
    /// # Errors
    /// What became of it; see [`Failure::is_undone`].
    pub async fn call(
        &self,
        to: &Target,
        lane: Lane,
        method: &'static str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, RpcError> {
        let peer = self.0.peer(*to);
        let channel = &peer[lane as usize];
        let called = self.0.called(channel, to, method, body, limit.min(LONGEST)).await;
        called.map_err(|failure| RpcError { to: *to, failure })
    }
}

impl Peers {
    fn peer(&self, to: Target) -> Arc<[Channel; 3]> {
        let now = clock::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = known.get_mut(&to) {
            peer.called = now;
            return Arc::clone(&peer.lanes);
        }
        if known.len() >= MAX_PEERS
            && let Some(oldest) = known.iter().min_by_key(|(_, peer)| peer.called).map(|(to, _)| *to)
        {
            // Calls in progress have a part in it, and go on.
            known.remove(&oldest);
        }
        let lanes = Arc::new([Lane::Beat, Lane::Log, Lane::Bulk].map(|lane| Channel::new(to, lane)));
        known.insert(to, Peer { lanes: Arc::clone(&lanes), called: now });
        lanes
    }

    async fn called(
        &self,
        channel: &Channel,
        to: &Target,
        method: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, Failure> {
        if body.len() > LARGEST {
            return Err(Failure::TooLong(Part::Call));
        }
        if !Method::is_name(method) {
            // As the other side would say.
            let text = format!("there is no method {method:?}");
            return Err(Failure::Refused { status: StatusCode::NOT_FOUND, text });
        }
        let deadline = clock::now().after(limit);
        let until = clock::instant(deadline);
        let unsent = || Failure::Unreachable(format!("no connection within {limit:?}"));
        let Ok(Ok(_place)) = timeout_at(until, channel.room.acquire()).await else {
            return Err(Failure::Unreachable(format!("too many calls before this one for {limit:?}")));
        };
        // A connection may have ended just now. What was not sent on it is sent on a new one, once.
        for _ in 0..2 {
            let line = timeout_at(until, channel.link.line(&self.ourselves)).await;
            let Some(line) = line.map_err(|_| unsent())?? else { continue };
            let left = deadline.since(clock::now());
            if left == Duration::ZERO {
                return Err(unsent());
            }
            let _in_progress = line.activity().enter();
            let exchange = async {
                match line.send(&self.ourselves, to, method, body.clone(), left).await {
                    Sent::Answered(response) => Some(answered(response, to, limit).await),
                    Sent::Not => None,
                    Sent::Perhaps(why) => Some(Err(Failure::Broken(why))),
                }
            };
            match timeout_at(until, exchange).await {
                Ok(Some(answer)) => return answer,
                Ok(None) => {}
                Err(_) => return Err(Failure::TimedOut(limit)),
            }
        }
        Err(Failure::Unreachable("connections to it end as soon as they are made".to_owned()))
    }
}

async fn answered(
    response: http::Response<Received>,
    to: &Target,
    limit: Duration,
) -> Result<Bytes, Failure> {
    if !line::is_from(&response, to) {
        return Err(Failure::Broken("another node has answered".to_owned()));
    }
    match response.status() {
        StatusCode::OK => match wire::read(response.into_body(), LARGEST, None).await {
            Ok((body, _)) => Ok(body),
            Err(ReadError::TooLong(_)) => Err(Failure::TooLong(Part::Answer)),
            Err(error) => Err(Failure::Broken(error.to_string())),
        },
        // It gave up just before we did.
        StatusCode::GATEWAY_TIMEOUT => Err(Failure::TimedOut(limit)),
        status => Err(line::refused(status, response).await),
    }
}
