//! The way to the members of etcd: connections, whom to ask, how long, and what their refusals mean. One member is asked
//! until it fails, then the next.

use std::{
    error::Error as _,
    io,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, ResponseHeader, TlsOptions};
use tokio::time::timeout;

use super::layout::revision;
use crate::{
    rt::clock,
    store::{EtcdParams, StoreError, core::key::Revision},
    types::Mono,
};

/// For a connection to one member, with the handshake.
const CONNECT: Duration = Duration::from_secs(1);
/// How often all members are asked before it is said that none can be reached, and how long it waits in between.
const ROUNDS: usize = 2;
const PAUSE: Duration = Duration::from_millis(100);
/// A connection with calls on it that says nothing for this long is asked, and then closed. etcd refuses to be asked more
/// often than every five seconds.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3));
/// Longest answer that is read. The longest that a page or a comparison needs is some values of 512 KiB.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Largest file of a certificate or key.
const MAX_PEM: u64 = 1024 * 1024;

/// The way to etcd.
pub(super) struct Link {
    params: EtcdParams,
    members: Vec<Member>,
    /// Who is asked.
    at: AtomicUsize,
    /// The newest revision that any answer had.
    revision: AtomicU64,
    /// When a member last proved that there is a quorum, in nanoseconds; 0 if never.
    heard: AtomicU64,
}

#[derive(Default)]
struct Member {
    calls: Mutex<Option<Client>>,
    /// Those of watches end when the member has no leader any more; other calls may do without.
    watches: Mutex<Option<Client>>,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It changes something.
    Write,
    /// It changes nothing.
    Read,
    /// It opens a watch.
    Watch,
}

/// Why etcd did not do something.
#[derive(Debug)]
pub(super) enum Failure {
    /// It knows no such lease.
    NoLease,
    /// There is a lease of that number already.
    LeaseExists,
    /// The state of that revision is not to be had: it is forgotten, or this member has not got as far yet.
    Compacted,
    /// The answer is longer than what is read.
    TooLong,
    /// All else.
    Store(StoreError),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(error) => error,
            Failure::NoLease => Self::Failed("etcd has lost a lease".to_owned()),
            Failure::LeaseExists => Self::Failed("etcd has another lease of that number".to_owned()),
            Failure::Compacted => Self::Failed("etcd has forgotten what was being read".to_owned()),
            Failure::TooLong => {
                Self::Failed(format!("what was asked for is longer than {} MiB", MAX_ANSWER >> 20))
            }
        }
    }
}

/// Whether somebody else is to be asked.
enum Judged {
    /// It is settled.
    Final(Failure),
    /// The member is not there; nothing has happened.
    Away(String),
    /// It cannot say what became of it.
    Unknown(String),
    /// It knows no leader.
    Leaderless,
}

impl Link {
    pub(super) fn new(params: EtcdParams) -> Self {
        let members = params.endpoints.iter().map(|_| Member::default()).collect();
        Self {
            params,
            members,
            at: AtomicUsize::new(0),
            revision: AtomicU64::new(0),
            heard: AtomicU64::new(0),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.params.timeout
    }

    /// The newest revision that is known.
    pub(super) fn revision(&self) -> Revision {
        Revision(self.revision.load(SeqCst))
    }

    /// How long ago a quorum was last proved.
    pub(super) fn heard(&self) -> Option<Duration> {
        match self.heard.load(Relaxed) {
            0 => None,
            at => Some(clock::now().since(Mono::from_nanos(at))),
        }
    }

    /// Takes over what an answer says of the state: its revision.
    pub(super) fn learn(&self, header: Option<&ResponseHeader>) -> Revision {
        let at = revision(header.map_or(0, ResponseHeader::revision));
        self.revision.fetch_max(at.0, SeqCst);
        at
    }

    /// An answer has come that no member gives without a quorum.
    pub(super) fn proved(&self) {
        self.heard.store(clock::now().as_nanos().max(1), Relaxed);
    }

    /// Has `ask` answered by one of the members. It may be asked several times: a write must be one that may.
    pub(super) async fn call<T, F, W>(&self, purpose: Purpose, ask: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> W + Send + Sync,
        W: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        self.call_in_doubt(purpose, &AtomicBool::new(false), ask).await
    }

    /// [`Link::call`], that tells by `doubt` if one of the members was asked and nobody knows what became of that.
    pub(super) async fn call_in_doubt<T, F, W>(
        &self,
        purpose: Purpose,
        doubt: &AtomicBool,
        ask: F,
    ) -> Result<T, Failure>
    where
        F: Fn(Client) -> W + Send + Sync,
        W: Future<Output = Result<T, Error>> + Send,
        T: Send,
    {
        let end = clock::now().after(self.params.timeout);
        let mut unsettled = false;
        let mut last = Judged::Leaderless;
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            for _ in 0..self.members.len() {
                let at = self.at.load(Relaxed) % self.members.len();
                let left = end.since(clock::now());
                if left.is_zero() {
                    return Err(Failure::Store(late(purpose, unsettled)));
                }
                // One that does not answer must leave time for another.
                let share = if self.members.len() > 1 { (left / 2).max(PAUSE).min(left) } else { left };
                let judged = match timeout(share, self.ask(at, purpose, &ask)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(Judged::Final(failure))) => return Err(failure),
                    Ok(Err(judged)) => judged,
                    Err(_) => Judged::Unknown("it did not answer in time".to_owned()),
                };
                if matches!(judged, Judged::Unknown(_)) {
                    unsettled = true;
                    doubt.store(true, Relaxed);
                }
                last = judged;
                self.leave(at, purpose);
            }
        }
        Err(Failure::Store(match last {
            _ if unsettled && purpose == Purpose::Write => StoreError::TimedOut,
            Judged::Leaderless => StoreError::NoQuorum,
            Judged::Away(why) | Judged::Unknown(why) => StoreError::Unreachable(why),
            Judged::Final(failure) => failure.into(),
        }))
    }

    async fn ask<T, F, W>(&self, at: usize, purpose: Purpose, ask: &F) -> Result<T, Judged>
    where
        F: Fn(Client) -> W + Send + Sync,
        W: Future<Output = Result<T, Error>> + Send,
    {
        let client = timeout(CONNECT, self.client(at, purpose)).await;
        let client = client.unwrap_or_else(|_| Err(Judged::Away("it did not answer in time".to_owned())))?;
        ask(client).await.map_err(|error| judge(&error))
    }

    /// Asks the next one from now on, and this one over another connection when it is its turn again: with the files of
    /// certificates as they are then.
    fn leave(&self, at: usize, purpose: Purpose) {
        let next = (at + 1) % self.members.len();
        let _ = self.at.compare_exchange(at, next, Relaxed, Relaxed);
        *slot(&self.members[at], purpose).lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn client(&self, at: usize, purpose: Purpose) -> Result<Client, Judged> {
        let slot = slot(&self.members[at], purpose);
        if let Some(client) = slot.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(client);
        }
        let endpoint = self.params.endpoints[at].to_string();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(false)
            .with_require_leader(purpose == Purpose::Watch);
        if let Some(login) = &self.params.login {
            options = options.with_user(&*login.user, login.password.expose()).with_auto_token_refresh(true);
        }
        if self.params.tls.is_some() {
            options = options.with_tls(self.tls().await.map_err(Judged::Away)?);
        }
        let client = Client::connect([endpoint], Some(options)).await.map_err(|error| judge(&error))?;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    async fn tls(&self) -> Result<TlsOptions, String> {
        let mut options = TlsOptions::new();
        let Some(tls) = &self.params.tls else { return Ok(options) };
        options = options.ca_certificate(Certificate::from_pem(pem(&tls.ca).await?));
        if let Some(own) = &tls.own {
            options = options.identity(Identity::from_pem(pem(&own.cert).await?, pem(&own.key).await?));
        }
        if let Some(name) = &tls.server_name {
            options = options.domain_name(&**name);
        }
        Ok(options)
    }
}

/// A client for keys and values, that reads answers up to the limit.
pub(super) fn kv(client: &Client) -> etcd_client::KvClient {
    client.kv_client().max_decoding_message_size(MAX_ANSWER)
}

fn slot(member: &Member, purpose: Purpose) -> &Mutex<Option<Client>> {
    match purpose {
        Purpose::Write | Purpose::Read => &member.calls,
        Purpose::Watch => &member.watches,
    }
}

fn late(purpose: Purpose, unsettled: bool) -> StoreError {
    if unsettled || purpose == Purpose::Write {
        StoreError::TimedOut
    } else {
        StoreError::Unreachable("no member answered in time".to_owned())
    }
}

async fn pem(path: &Path) -> Result<Vec<u8>, String> {
    use tokio::io::AsyncReadExt as _;
    let read = async {
        let mut text = Vec::new();
        tokio::fs::File::open(path).await?.take(MAX_PEM).read_to_end(&mut text).await?;
        io::Result::Ok(text)
    };
    read.await.map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Codes of gRPC.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What a refusal means. etcd tells most kinds apart by their texts alone.
fn judge(error: &Error) -> Judged {
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::TransportError(error) => return Judged::Away(deepest(error)),
        // The only kind of which the crate makes its own text.
        Error::LeaseKeepAliveError(text) if text == "lease not found" => {
            return Judged::Final(Failure::NoLease);
        }
        other => return Judged::Unknown(other.to_string()),
    };
    let text = status.message();
    let has = |part: &str| text.contains(part);
    match i32::from(status.code()) {
        code::NOT_FOUND if has("lease") => Judged::Final(Failure::NoLease),
        code::FAILED_PRECONDITION if has("lease already exists") => Judged::Final(Failure::LeaseExists),
        code::OUT_OF_RANGE if has("compacted") || has("future revision") => Judged::Final(Failure::Compacted),
        code::OUT_OF_RANGE if has("too large") => Judged::Final(Failure::TooLong),
        code::RESOURCE_EXHAUSTED if has("space exceeded") => final_(StoreError::Full),
        code::RESOURCE_EXHAUSTED if has("too many requests") => Judged::Away(text.to_owned()),
        code::INVALID_ARGUMENT if has("too many operations") => final_(StoreError::Failed(
            "etcd takes fewer operations at once than this transaction has: start it with a larger --max-txn-ops"
                .to_owned(),
        )),
        code::INVALID_ARGUMENT if has("authentication failed") => {
            final_(StoreError::Failed("etcd does not accept store.etcd.username and password".to_owned()))
        }
        code::PERMISSION_DENIED => final_(StoreError::Failed(
            "etcd denies it: its user needs the right to read and write all that begins with store.etcd.prefix"
                .to_owned(),
        )),
        code::UNAUTHENTICATED => final_(StoreError::Failed(format!("etcd wants to know who asks: {text}"))),
        code::UNAVAILABLE if has("no leader") || has("not leader") || has("leader changed") => Judged::Leaderless,
        code::UNAVAILABLE if is_refused(status) => Judged::Away(deepest(status)),
        code::UNAVAILABLE if status.source().is_none() => Judged::Unknown(text.to_owned()),
        _ if status.source().is_some() => Judged::Unknown(deepest(status)),
        _ => final_(StoreError::Failed(format!("etcd: {text}"))),
    }
}

fn final_(error: StoreError) -> Judged {
    Judged::Final(Failure::Store(error))
}

/// Whether no connection was made, so that nothing can have been done.
fn is_refused(error: &dyn std::error::Error) -> bool {
    chain(error).any(|error| {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        let is_refused = matches!(
            kind,
            Some(
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
            )
        );
        is_refused || error.to_string() == "tcp connect error"
    })
}

/// What is at the bottom of an error: the layers above it only say that there is one.
fn deepest(error: &dyn std::error::Error) -> String {
    chain(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn chain<'e>(
    error: &'e dyn std::error::Error,
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    // The first is not `'static` as it is borrowed here; what lies below says more than it does.
    std::iter::successors(error.source(), |error: &&'e (dyn std::error::Error + 'static)| (*error).source())
}
