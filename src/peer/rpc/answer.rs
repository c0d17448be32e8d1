//! Answers one call: refuses what is not for this node, reads the body, keeps the deadline. Connections are server.rs's.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_LENGTH};
use tokio::{sync::Notify, time::timeout_at};

use super::{
    Answering, Call, Known, Method, Refusal,
    traffic::Received,
    wire::{self, Activity, Budget, FROM, HELLO, Head, LARGEST, LONGEST_TEXT, ReadError},
};
use crate::{
    identity::{CertificateDer, MeshTls},
    rt::{Phase, clock},
    types::SpiffeId,
};

/// What all connections of a port share.
pub(super) struct Port {
    pub(super) cluster: HeaderValue,
    pub(super) node: u64,
    pub(super) mesh: Option<Arc<MeshTls>>,
    /// Who is who; `None` believes all.
    pub(super) known: Option<Arc<Known>>,
    /// When it closes.
    pub(super) closes: Phase,
    pub(super) answering: Arc<dyn Answering>,
    pub(super) budget: Budget,
}

/// Who is at the other end of one connection.
pub(super) struct Seat {
    pub(super) port: Arc<Port>,
    /// `None` without mTLS.
    pub(super) proof: Option<Proof>,
    pub(super) activity: Arc<Activity>,
    /// The other side is not believed any more.
    pub(super) out: Notify,
}

/// What the caller has shown.
pub(super) struct Proof {
    pub(super) id: SpiffeId,
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// [`MeshTls::epoch`] when it was judged last.
    pub(super) epoch: AtomicU64,
}

impl Seat {
    /// Whether the caller is still believed: judged anew whenever that may have changed.
    fn is_believed(&self) -> bool {
        let (Some(mesh), Some(proof)) = (&self.port.mesh, &self.proof) else { return true };
        let epoch = mesh.epoch();
        if proof.epoch.load(Relaxed) == epoch {
            return true;
        }
        let is_believed = mesh.believes(&proof.chain, clock::wall());
        if is_believed {
            proof.epoch.store(epoch, Relaxed);
        } else {
            self.out.notify_one();
        }
        is_believed
    }
}

/// Answers a request. When its caller goes away, what is being done for it is dropped.
pub(super) async fn answer(seat: Arc<Seat>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let _in_progress = seat.activity.enter();
    let answered = tokio::select! {
        answered = answer_call(&seat, request) => answered,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let (status, body) = match answered {
        Ok(body) => (StatusCode::OK, body),
        Err(Refusal { status, text }) => {
            let is_refusal = status.is_client_error() || status.is_server_error();
            let status = if is_refusal { status } else { StatusCode::INTERNAL_SERVER_ERROR };
            (status, Bytes::copy_from_slice(wire::cut(&text, LONGEST_TEXT).as_bytes()))
        }
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(FROM, HeaderValue::from(seat.port.node));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    // It fails when there is nobody any more to tell.
    if let Ok(stream) = respond.send_response(response, body.is_empty()) {
        let _ = send(stream, body).await;
    }
}

/// What is sent at once: small beside [`wire::SEND_BUFFER`], large enough for few pieces.
const PIECE: usize = 64 * 1024;

/// Sends a body. A short one is there before the connection is driven again, and leaves together with the head. A long one
/// goes piece by piece, as the other side makes room: a peer that does not read holds little more than the one copy of it,
/// and nothing of it once this is dropped.
async fn send(mut stream: SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    if body.len() <= PIECE {
        return if body.is_empty() { Ok(()) } else { stream.send_data(body, true) };
    }
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(PIECE));
        let room = match stream.capacity() {
            0 => match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Ok(()),
            },
            room => room,
        };
        let piece = body.split_to(room.min(body.len()));
        if !piece.is_empty() {
            stream.send_data(piece, body.is_empty())?;
        }
    }
    Ok(())
}

async fn answer_call(seat: &Seat, request: Request<RecvStream>) -> Result<Bytes, Refusal> {
    let port = &seat.port;
    if !seat.is_believed() {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "the certificate is not good any more"));
    }
    let name = request.uri().path().strip_prefix(wire::PREFIX);
    let method = name.filter(|_| request.method() == http::Method::POST).and_then(Method::parse);
    let method = method.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is no such method"))?;
    let Head { from, limit } = Head::read(request.headers(), &port.cluster, port.node)?;
    if method.as_str() == HELLO {
        return Ok(Bytes::new());
    }
    if let (Some(known), Some(proof)) = (&port.known, &seat.proof)
        && let Err(error) = known.judge(from, &proof.id)
    {
        known.tell("a call was refused", &error);
        return Err(Refusal::new(StatusCode::FORBIDDEN, error.to_string()));
    }
    let late = || Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the deadline has passed");
    if limit == Duration::ZERO {
        return Err(late());
    }
    let deadline = clock::now().after(limit);
    let answering = async {
        let (head, body) = request.into_parts();
        let read = wire::read(Received::new(&head.headers, body), LARGEST, Some(&port.budget)).await;
        // What is held of the budget goes when the answer is there: the body may be gone sooner.
        let (body, _held) = read.map_err(|error| not_read(&error))?;
        let caller = seat.proof.as_ref().map(|proof| proof.id.clone());
        port.answering.answer(Call { method, from, caller, body, deadline }).await
    };
    let answer = timeout_at(clock::instant(deadline), answering).await.map_err(|_| late())??;
    if answer.len() > LARGEST {
        let text = format!("the answer is longer than {LARGEST} bytes");
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, text));
    }
    Ok(answer)
}

fn not_read(error: &ReadError<h2::Error>) -> Refusal {
    let status = match error {
        ReadError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
        ReadError::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        ReadError::Broken(_) => StatusCode::BAD_REQUEST,
    };
    Refusal::new(status, format!("the body was not read: {error}"))
}
