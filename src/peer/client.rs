//! Asks the certificate authority over the network: one question on one connection, at one address after the other, within
//! a deadline. What is asked is source.rs.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::protocol::MAX_ANSWER;
use crate::{
    identity::{Alpn, AuthorityCall},
    net::{
        self,
        tls::{self, TlsTo},
    },
    types::EndpointAddress,
};

/// For all of one question at one address: many times what an authority takes that is well.
const LIMIT: Duration = Duration::from_secs(15);
/// For the connection, and for the handshake.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// No address gave an answer that can be used.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct AskError {
    /// What each of them did.
    text: String,
    /// One of them answered, and did not believe us; or it was there, and we did not believe it. Asking again in the same
    /// way will not help.
    pub is_refused: bool,
}

enum Failure {
    Unreachable(String),
    Refused(String),
}

/// What to ask.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) body: Bytes,
}

/// The first answer. Cancel-safe: dropping the future closes the connection; what was asked may still be done.
pub(super) async fn ask(
    servers: &[EndpointAddress],
    call: &AuthorityCall,
    question: &Question,
) -> Result<Bytes, AskError> {
    let nobody = if servers.is_empty() { "`mtls.ca.servers` names none" } else { "" };
    let mut error = AskError { text: nobody.to_owned(), is_refused: false };
    for server in servers {
        let asked = tokio::time::timeout(LIMIT, ask_one(server, call, question)).await;
        let failure = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Unreachable(format!("no answer within {LIMIT:?}")),
        };
        let separator = if error.text.is_empty() { "" } else { "; " };
        let text = match failure {
            Failure::Unreachable(text) => text,
            Failure::Refused(text) => {
                error.is_refused = true;
                text
            }
        };
        // Writing to memory does not fail.
        let _ = write!(error.text, "{separator}{server}: {text}");
    }
    Err(error)
}

async fn ask_one(
    server: &EndpointAddress,
    call: &AuthorityCall,
    question: &Question,
) -> Result<Bytes, Failure> {
    let unreachable = |error: &dyn std::error::Error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::Unreachable(format!("{error}{cause}"))
    };
    let stream = net::dial(server, STEP_LIMIT).await.map_err(|error| unreachable(&error))?;
    let secured = tls::connect(stream, TlsTo::Authority(call), Alpn::Http1, STEP_LIMIT).await;
    let stream = secured.map_err(|error| Failure::Refused(format!("TLS: {error}")))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
    let request = Request::builder()
        .method(question.method.clone())
        .uri(&question.target)
        .header(HOST, "outrigger-ca")
        .body(Full::new(question.body.clone()))
        .map_err(|error| unreachable(&error))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| Failure::Unreachable(format!("its answer broke off: {error}")))?;
        match status {
            StatusCode::OK => Ok(body.to_bytes()),
            StatusCode::FORBIDDEN => Err(Failure::Refused("it refuses; its log says why".to_owned())),
            other => Err(Failure::Unreachable(format!("it answered {other}"))),
        }
    };
    let mut answered = std::pin::pin!(answered);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // The answer may be complete in the same moment in which the connection ends.
        biased;
        answer = &mut answered => answer,
        ended = &mut connection => match ended {
            Ok(()) => answered.await,
            // A certificate that the other side refuses is told by an alert after our side of the handshake (RFC 8446
            // §4.4.2.4), so it comes here.
            Err(error) => Err(match std::error::Error::source(&error) {
                Some(source) => Failure::Refused(source.to_string()),
                None => unreachable(&error),
            }),
        },
    }
}
