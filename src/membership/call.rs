//! Calls members, and takes calls; what is said is in core/message.rs. Each message is sealed with a key of the mesh, for its
//! place on its connection; where the mesh has mTLS, it is spoken within that, and both sides prove who they are.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

pub(super) use super::core::message::{Answer, Card, KeyChange, Question};
use super::core::{
    envelope::{Keyring, Place, Refused, Way, open_message, seal_message},
    message,
};
use crate::{
    identity::{Alpn, AnyoneTls, MeshTls, unforeseeable},
    net::{self, Stream, tls},
    types::EndpointAddress,
};

/// For a whole call. What it carries is at most some megabytes, within one mesh.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// For the connection, and for the handshake.
const STEP: Duration = Duration::from_secs(3);
/// Largest message: all that can be known of a mesh of some thousand members.
const LARGEST: u32 = 8 * 1024 * 1024;
/// Most questions on one connection.
pub(super) const QUESTIONS: u8 = 2;

/// Why a call has come to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("no end within {LIMIT:?}")]
    Late,
    #[error("it broke off: {0}")]
    Broken(#[from] io::Error),
    #[error("{}", sealed_otherwise(*.0))]
    Sealed(Refused),
    #[error(
        "it hung up without a word: it has another gossip key (mesh.gossip_key), or is of another mesh (mesh.cluster)"
    )]
    HungUp,
    #[error("it answers what was not asked")]
    Nonsense,
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("another living member, at {0}, has the name of this node: give it another one (mesh.node)")]
    NameTaken(SocketAddr),
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn sealed_otherwise(refused: Refused) -> &'static str {
    match refused {
        Refused::Key => "it seals with a gossip key that this node does not have",
        Refused::Seal => "it is of another mesh (mesh.cluster), or what it sent was changed on its way",
        Refused::Size | Refused::Version | Refused::Replay => "it does not speak as members do",
    }
}

/// How members are reached and proved.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) cluster: Arc<str>,
    pub(super) mesh: Option<Arc<MeshTls>>,
    pub(super) anyone: Option<AnyoneTls>,
}

/// One side of a connection on which messages go to and fro.
pub(super) struct Session {
    stream: Stream,
    chance: [u8; 32],
    cluster: Arc<str>,
    asked: u8,
    answered: u8,
    /// The service whose identity the other side has proved; `None` without mTLS.
    pub(super) service: Option<Arc<str>>,
    /// Bytes that were sent and received.
    pub(super) bytes: (usize, usize),
}

impl Line {
    /// Calls the member at `address`. Cancel-safe: dropping the future closes the connection.
    pub(super) async fn call(&self, address: SocketAddr) -> Result<Session, CallError> {
        let plain = net::dial(&EndpointAddress::Tcp(address), STEP)
            .await
            .map_err(|error| CallError::Unreachable(with_cause(&error)))?;
        let (stream, service) = match &self.anyone {
            None => (plain, None),
            Some(anyone) => {
                let connected = tls::connect_to_anyone(plain, anyone, Alpn::Bytes, STEP).await;
                let (stream, facts) = connected.map_err(|error| CallError::Tls(error.to_string()))?;
                (stream, facts.id.service().map(Arc::from))
            }
        };
        let mut session = Session::new(stream, Arc::clone(&self.cluster), service);
        let own = session.draw()?;
        session.stream.write_all(&own).await?;
        session.stream.flush().await?;
        let mut other = [0; 16];
        session.stream.read_exact(&mut other).await?;
        session.mix(&own, &other);
        Ok(session)
    }

    /// Takes a call. Cancel-safe as [`Line::call`].
    pub(super) async fn accept(&self, stream: Stream) -> Result<Session, CallError> {
        let (stream, service) = match &self.mesh {
            None => (stream, None),
            Some(mesh) => {
                let accepted = tls::accept(stream, mesh.inbound(), STEP).await;
                let accepted = accepted.map_err(|error| CallError::Tls(error.to_string()))?;
                if accepted.alpn != Some(Alpn::Bytes) {
                    return Err(CallError::Nonsense);
                }
                {
                    let service = accepted.caller.id.service().map(Arc::from);
                    (accepted.stream, service)
                }
            }
        };
        let mut session = Session::new(stream, Arc::clone(&self.cluster), service);
        let mut other = [0; 16];
        timeout(STEP, session.stream.read_exact(&mut other)).await.map_err(|_| CallError::Late)??;
        let own = session.draw()?;
        session.stream.write_all(&own).await?;
        session.stream.flush().await?;
        session.mix(&other, &own);
        Ok(session)
    }
}

impl Session {
    fn new(stream: Stream, cluster: Arc<str>, service: Option<Arc<str>>) -> Self {
        Self { stream, chance: [0; 32], cluster, asked: 0, answered: 0, service, bytes: (0, 0) }
    }

    fn draw(&self) -> Result<[u8; 16], CallError> {
        unforeseeable::<16>().map_err(|error| CallError::Broken(io::Error::other(error)))
    }

    fn mix(&mut self, caller: &[u8; 16], called: &[u8; 16]) {
        self.chance[..16].copy_from_slice(caller);
        self.chance[16..].copy_from_slice(called);
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&mut self, question: &Question, keyring: &Keyring) -> Result<Answer, CallError> {
        self.send(question, Way::Question, self.asked, keyring).await?;
        self.asked += 1;
        let answer = self.receive(Way::Answer, self.answered, keyring).await?;
        self.answered += 1;
        match answer.ok_or(CallError::HungUp)? {
            Answer::NameTaken { address } => Err(CallError::NameTaken(address)),
            Answer::Refused(why) => Err(CallError::Refused(why)),
            answer => Ok(answer),
        }
    }

    /// Waits for a question; `None` when there is none any more.
    pub(super) async fn asked(&mut self, keyring: &Keyring) -> Result<Option<Question>, CallError> {
        let question = self.receive(Way::Question, self.asked, keyring).await?;
        self.asked += 1;
        Ok(question)
    }

    /// Answers.
    pub(super) async fn answer(&mut self, answer: &Answer, keyring: &Keyring) -> Result<(), CallError> {
        self.send(answer, Way::Answer, self.answered, keyring).await?;
        self.answered += 1;
        Ok(())
    }

    async fn send<T: Serialize>(
        &mut self,
        message: &T,
        way: Way,
        number: u8,
        keyring: &Keyring,
    ) -> Result<(), CallError> {
        let message = message::write(message);
        let place = Place { chance: &self.chance, way, number, cluster: &self.cluster };
        let sealed = seal_message(&message, place, keyring).ok_or(CallError::Nonsense)?;
        let length = u32::try_from(sealed.len()).ok().filter(|length| *length <= LARGEST);
        let length = length.ok_or(CallError::Nonsense)?;
        let framed = [&length.to_be_bytes()[..], &sealed].concat();
        self.bytes.0 += framed.len();
        self.stream.write_all(&framed).await?;
        Ok(self.stream.flush().await?)
    }

    async fn receive<T: DeserializeOwned>(
        &mut self,
        way: Way,
        number: u8,
        keyring: &Keyring,
    ) -> Result<Option<T>, CallError> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let length = u32::from_be_bytes(length);
        if length > LARGEST {
            return Err(CallError::Sealed(Refused::Size));
        }
        // As it comes: a length that somebody only says takes no memory.
        let mut sealed = Vec::new();
        let read = (&mut self.stream).take(length.into()).read_to_end(&mut sealed).await?;
        if read != length as usize {
            return Err(CallError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        self.bytes.1 += read + 4;
        let place = Place { chance: &self.chance, way, number, cluster: &self.cluster };
        let message = open_message(&sealed, place, keyring).map_err(CallError::Sealed)?;
        message::read(&message).map(Some).map_err(|_| CallError::Nonsense)
    }
}
