//! Calls members, and takes calls; what is said is in core/message.rs. Each message is sealed with a key of the mesh, for its
//! place on its connection; where the mesh has mTLS, it is spoken within that, and both sides prove who they are.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
/// Largest first message of either side, which is what somebody without a key can make this node hold. All that is known is
/// never in it: it is asked for and told when both have spoken once. The longest that a member can say about itself is below
/// 3 KiB; a refusal may name a path, which is below 5.
const LARGEST_FIRST: u32 = 16 * 1024;
/// Calls that are answered at a time. With [`LARGEST_FIRST`], and that twice while it is opened, those without a key hold 4 MiB.
const MAX_SESSIONS: usize = 128;
/// Those of them from one address: others are heard whatever one does, and fifty sidecars that are started at once on one
/// machine, or behind one NAT, are all answered by the seed that they share.
const MAX_SESSIONS_OF_ONE: usize = MAX_SESSIONS / 2;
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

/// Who is being answered, by where they call from. If there is no seat, the call is closed at once, unread: whoever calls in
/// earnest calls again. Nobody who is being answered is put out for another, since nobody has proved anything yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// A call that is being answered. Its place is free when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    origin: IpAddr,
}

impl Seats {
    /// A seat for a call from `address`; `None` if all are taken, or as many as may be of that address.
    pub(super) fn take(&self, address: IpAddr) -> Option<Seat> {
        let origin = origin(address);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = taken.get(&origin).copied().unwrap_or_default();
        if of_one >= MAX_SESSIONS_OF_ONE || taken.values().sum::<usize>() >= MAX_SESSIONS {
            return None;
        }
        taken.insert(origin, of_one + 1);
        Some(Seat { seats: self.clone(), origin })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_one) = taken.get_mut(&self.origin) {
            *of_one -= 1;
            if *of_one == 0 {
                taken.remove(&self.origin);
            }
        }
    }
}

/// What counts as one address: of IPv6 the network, in which any machine may give itself as many addresses as it likes.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & u128::MAX << 64).into(),
    }
}

/// Largest message that is the `number`th on its way.
fn largest(number: u8) -> u32 {
    if number == 0 { LARGEST_FIRST } else { LARGEST }
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
        let length = u32::try_from(sealed.len()).ok().filter(|length| *length <= largest(number));
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
        if length > largest(number) {
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
        // Both are large, and what is read from the one may be as large again.
        drop(sealed);
        message::read(&message).map(Some).map_err(|_| CallError::Nonsense)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::membership::GossipKey;

    fn line() -> Line {
        Line { cluster: "mesh".into(), mesh: None, anyone: None }
    }

    fn ring() -> Keyring {
        Keyring::new(GossipKey::parse(&"a".repeat(64)).unwrap())
    }

    /// A question of `length` bytes and some more.
    fn long(length: usize) -> Question {
        Question::Keyring(KeyChange::Install("x".repeat(length)))
    }

    #[tokio::test]
    async fn whoever_has_not_shown_the_key_sends_little() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stranger = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stranger.write_all(&[0; 16]).await.unwrap();
        let mut session = line().accept(Stream::Tcp(stream)).await.unwrap();
        // Nothing follows: what is waited for is held.
        stranger.write_all(&(LARGEST_FIRST + 1).to_be_bytes()).await.unwrap();
        let asked = timeout(LIMIT, session.asked(&ring())).await.unwrap();
        assert!(matches!(asked, Err(CallError::Sealed(Refused::Size))), "{asked:?}");
    }

    #[tokio::test]
    async fn after_a_small_question_a_large_one_is_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (line, address) = (line(), listener.local_addr().unwrap());
        let called = async {
            let (stream, _) = listener.accept().await.unwrap();
            line.accept(Stream::Tcp(stream)).await.unwrap()
        };
        let (caller, mut called) = tokio::join!(line.call(address), called);
        let (mut caller, ring) = (caller.unwrap(), ring());
        let large = long(LARGEST as usize / 2);
        assert!(matches!(caller.ask(&large, &ring).await, Err(CallError::Nonsense)));
        for question in [long(LARGEST_FIRST as usize / 2), large] {
            let replied = async {
                let asked = called.asked(&ring).await.unwrap();
                called.answer(&Answer::Done, &ring).await.unwrap();
                asked
            };
            let (answer, asked) = tokio::join!(caller.ask(&question, &ring), replied);
            assert_eq!((answer.unwrap(), asked), (Answer::Done, Some(question)));
        }
    }

    #[test]
    fn one_address_leaves_seats_for_others() {
        let seats = Seats::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut taken: Vec<Seat> = (0..MAX_SESSIONS_OF_ONE).map_while(|_| seats.take(one)).collect();
        assert_eq!(taken.len(), MAX_SESSIONS_OF_ONE);
        assert!(seats.take(one).is_none() && seats.take(other).is_some());
        taken.pop();
        assert!(seats.take(one).is_some());
    }

    #[test]
    fn no_more_are_answered_at_a_time_than_there_are_seats() {
        let seats = Seats::default();
        let from = |number: usize| IpAddr::from([10, 0, 0, number as u8]);
        let taken: Vec<Seat> = (0..MAX_SESSIONS).map_while(|number| seats.take(from(number))).collect();
        assert_eq!(taken.len(), MAX_SESSIONS);
        assert!(seats.take(from(MAX_SESSIONS)).is_none());
        drop(taken);
        assert!(seats.0.lock().unwrap().is_empty());
    }

    #[test]
    fn addresses_that_one_machine_can_give_itself_count_as_one() {
        let of = |text: &str| origin(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
