//! Nodes, authorities and callers for tests of calls.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::{Barrier, Semaphore};

use super::super::{Answering, Call, Caller, Known, Own, Refusal, Rpc, Target};
use crate::{
    identity::{
        Material, MeshTls, NewTrust, PemFiles, TlsVersion,
        ca::{Authority, MasterKey, Order, Params},
    },
    rt::{Drain, Phase, Tasks},
    types::TrustDomain,
};

const HOUR: Duration = Duration::from_secs(3600);
const LONG: Duration = Duration::from_secs(20);

pub(super) fn own(node: u64) -> Own {
    Own { cluster: "default".into(), node }
}

pub(super) fn caller(node: u64, mesh: Option<&Arc<MeshTls>>) -> Caller {
    Caller::new(&own(node), mesh.map(|mesh| mesh.anyone().unwrap()))
}

/// Waits for what must come true.
pub(super) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "{what}");
}

/// An authority in a directory that is gone with the test.
struct Place {
    directory: PathBuf,
    authority: Authority,
    domain: TrustDomain,
}

impl Place {
    fn new(domain: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("outrigger-rpc-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let directory = std::env::temp_dir().join(name);
        let domain: TrustDomain = domain.parse().unwrap();
        let params =
            Params { trust_domain: domain.clone(), leaf_ttl: HOUR, root_ttl: 24 * HOUR, crl_ttl: 24 * HOUR };
        let master = MasterKey::random().unwrap();
        let authority = Authority::init(&directory, &master, &params, SystemTime::now()).unwrap();
        Self { directory, authority, domain }
    }

    fn files(&self, service: &str) -> PemFiles {
        let order = Order { identity: self.domain.service(service).unwrap(), node: None, ttl: None };
        let issued = self.authority.issue(&order, SystemTime::now()).unwrap();
        PemFiles {
            chain: issued.signed.certificate.into_bytes(),
            key: issued.key.reveal().as_bytes().to_vec(),
            roots: issued.signed.bundle.into_bytes(),
            lists: issued.signed.crl.into_bytes(),
        }
    }

    fn mesh(&self, service: &str) -> Arc<MeshTls> {
        let own = self.domain.service(service).unwrap();
        let read = Material::read(&self.files(service), &self.domain, &own, SystemTime::now());
        Arc::new(MeshTls::new(read.unwrap(), TlsVersion::V13).unwrap())
    }

    fn trust(&self) -> NewTrust {
        NewTrust::read(&self.files("any"), &self.domain).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Ours, and two of strangers.
pub(super) struct Authorities {
    ours: Place,
    twin: Place,
    other: Place,
}

impl Authorities {
    pub(super) fn new() -> Self {
        let [ours, twin, other] = ["mesh.local", "mesh.local", "elsewhere"].map(Place::new);
        Self { ours, twin, other }
    }

    pub(super) fn ours(&self, service: &str) -> Arc<MeshTls> {
        self.ours.mesh(service)
    }

    pub(super) fn of_another_root(&self, service: &str) -> Arc<MeshTls> {
        self.twin.mesh(service)
    }

    pub(super) fn of_another_domain(&self, service: &str) -> Arc<MeshTls> {
        self.other.mesh(service)
    }

    pub(super) fn trust(&self) -> NewTrust {
        self.ours.trust()
    }

    pub(super) fn trust_in_another_root(&self) -> NewTrust {
        self.twin.trust()
    }
}

/// Answers as the name of the method says.
pub(super) struct Answers {
    pub(super) calls: AtomicUsize,
    /// Answers that were not made to their end.
    pub(super) dropped: AtomicUsize,
    /// As many calls of `wait` are answered.
    pub(super) go_on: Semaphore,
    gathered: Barrier,
}

/// Counts what is dropped before its end.
struct Unfinished(Option<Arc<Answers>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(answers) = &self.0 {
            answers.dropped.fetch_add(1, Relaxed);
        }
    }
}

#[derive(Clone)]
struct Shared(Arc<Answers>);

impl Answering for Shared {
    fn answer(&self, call: Call) -> std::pin::Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>> {
        let answers = Arc::clone(&self.0);
        Box::pin(async move {
            answers.calls.fetch_add(1, Relaxed);
            let mut unfinished = Unfinished(Some(Arc::clone(&answers)));
            let answer = match call.method.as_str() {
                "echo" => Ok(call.body),
                "who" => {
                    let caller = call.caller.map_or("-".to_owned(), |id| id.to_string());
                    Ok(Bytes::from(format!("{} {caller}", call.from)))
                }
                "gather" => {
                    answers.gathered.wait().await;
                    Ok(call.body)
                }
                "wait" => {
                    answers.go_on.acquire().await.unwrap().forget();
                    Ok(Bytes::new())
                }
                "hang" => std::future::pending().await,
                "much" => Ok(Bytes::from(vec![0; super::LARGEST + 1])),
                _ => Err(Refusal::new(StatusCode::CONFLICT, "not today")),
            };
            unfinished.0 = None;
            answer
        })
    }
}

/// A node that can be called. Dropped, it is gone.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) answers: Arc<Answers>,
    pub(super) drain: Drain,
    number: u64,
    tasks: Tasks,
}

impl Node {
    pub(super) async fn start(number: u64, mesh: Option<Arc<MeshTls>>) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), number, mesh).await
    }

    #[expect(clippy::unused_async, reason = "a node is bound on a runtime")]
    pub(super) async fn start_at(address: SocketAddr, number: u64, mesh: Option<Arc<MeshTls>>) -> Self {
        Self::run(Rpc::bind(address, mesh, own(number)).unwrap(), number)
    }

    /// One that holds others to what they have proved.
    #[expect(clippy::unused_async, reason = "a node is bound on a runtime")]
    pub(super) async fn start_knowing(number: u64, mesh: Arc<MeshTls>, known: Arc<Known>) -> Self {
        let rpc = Rpc::bind(([127, 0, 0, 1], 0).into(), Some(mesh), own(number)).unwrap();
        Self::run(rpc.knowing(known), number)
    }

    pub(super) fn run(rpc: Rpc, number: u64) -> Self {
        let address = rpc.local_address();
        let answers = Arc::new(Answers {
            calls: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            go_on: Semaphore::new(0),
            gathered: Barrier::new(200),
        });
        let drain = Drain::default();
        let mut tasks = Tasks::default();
        tasks.spawn("node", rpc.run(Arc::new(Shared(Arc::clone(&answers))), drain.watch()));
        Self { address, answers, drain, number, tasks }
    }

    pub(super) fn target(&self) -> Target {
        Target { node: self.number, address: self.address }
    }

    /// Waits until it has ended by itself.
    pub(super) async fn ended(self) {
        let began = std::time::Instant::now();
        self.tasks.finish(LONG).await;
        assert!(began.elapsed() < LONG, "it did not end");
    }

    pub(super) async fn stop(self) {
        self.drain.advance(Phase::Stopped);
        self.ended().await;
    }
}

/// Calls as no caller of ours makes them.
pub(super) mod raw {
    use std::{
        convert::Infallible,
        net::SocketAddr,
        pin::Pin,
        sync::{
            Arc, Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::{Context, Poll},
    };

    use bytes::Bytes;
    use http::{Request, Response, request::Builder};
    use http_body::{Body, Frame};
    use http_body_util::{Empty, combinators::UnsyncBoxBody};
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::{
        net::{TcpListener, TcpStream},
        task::JoinSet,
    };

    type Sent = UnsyncBoxBody<Bytes, Infallible>;

    pub(crate) fn request(method: &str, to: u64, deadline_ms: u64) -> Builder {
        Request::post(format!("http://node/v1/{method}"))
            .header("outrigger-cluster", "default")
            .header("outrigger-from", "3")
            .header("outrigger-to", to)
            .header("outrigger-deadline-ms", deadline_ms)
    }

    pub(crate) fn empty() -> Sent {
        UnsyncBoxBody::new(Empty::new())
    }

    struct Endless(Arc<AtomicUsize>);

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let piece = Bytes::from_static(&[0; 16 * 1024]);
            self.0.fetch_add(piece.len(), Relaxed);
            Poll::Ready(Some(Ok(Frame::data(piece))))
        }
    }

    /// A body without an end, and how much of it was taken.
    pub(crate) fn endless() -> (Sent, Arc<AtomicUsize>) {
        let pulled = Arc::new(AtomicUsize::new(0));
        (UnsyncBoxBody::new(Endless(pulled.clone())), pulled)
    }

    /// The head of the answer.
    pub(crate) async fn send(address: SocketAddr, request: Request<Sent>) -> Response<Incoming> {
        let stream = TcpStream::connect(address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    }

    /// A node that has no place for any call, and how many it turned away.
    pub(crate) async fn node_that_turns_calls_away(
        number: u64,
    ) -> (SocketAddr, Arc<AtomicUsize>, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, refused) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = refused.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/v1/hello" {
                    let hello = Response::builder().header("outrigger-from", number).body(()).unwrap();
                    respond.send_response(hello, true).unwrap();
                } else {
                    counted.fetch_add(1, Relaxed);
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            }
        });
        (address, refused, tasks)
    }

    /// A service that answers everything, and what it was asked.
    pub(crate) struct Service {
        pub(crate) address: SocketAddr,
        pub(crate) paths: Arc<Mutex<Vec<String>>>,
        _tasks: JoinSet<()>,
    }

    pub(crate) async fn service_that_says_yes() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let paths = Arc::new(Mutex::new(Vec::new()));
        let seen = paths.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                seen.lock().unwrap().push(request.uri().path().to_owned());
                async { Ok::<_, Infallible>(Response::new(empty())) }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        });
        Service { address, paths, _tasks: tasks }
    }
}
