//! TLS around what tests are made of: a client that shows any certificate, or none, and says what it saw; a server in
//! front of an application. Both believe anybody, so that it is the sidecar who refuses. The certificates are of
//! authority.rs beside it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, HandshakeKind,
    ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Client, authority::Credentials, http2::Http2, within};

/// A client's side of a connection.
pub(crate) type Secure = tokio_rustls::client::TlsStream<TcpStream>;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// ALPN of connections whose bytes are passed on.
pub(crate) const BYTES: &str = "outrigger/bytes";

/// Makes connections. Keeps the tickets that it is given and takes sessions up again.
#[derive(Clone)]
pub(crate) struct Dialer {
    config: ClientConfig,
    name: ServerName<'static>,
}

impl Dialer {
    /// Shows `credentials`; asks for no name.
    pub(crate) fn showing(credentials: &Credentials) -> Self {
        Self::new(Some(credentials), &[&version::TLS13])
    }

    /// Shows nothing.
    pub(crate) fn anonymous() -> Self {
        Self::new(None, &[&version::TLS13])
    }

    /// Shows `credentials` and speaks TLS 1.2.
    pub(crate) fn of_old(credentials: &Credentials) -> Self {
        Self::new(Some(credentials), &[&version::TLS12])
    }

    /// Shows a certificate whose key it does not have: it signs with another one.
    pub(crate) fn pretending(credentials: &Credentials) -> Self {
        let key = PROVIDER.key_provider.load_private_key(credentials.private()).expect("a key");
        let pair = CertifiedKey::new(vec![credentials.leaf()], key);
        let mut dialer = Self::anonymous();
        dialer.config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(pair));
        dialer
    }

    fn new(
        credentials: Option<&Credentials>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(versions)
            .expect("versions that exist")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let config = match credentials {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                builder.with_client_auth_cert(vec![shown.leaf()], shown.private()).expect("a pair")
            }
        };
        Self { config, name: ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into()) }
    }

    /// Asks for a name (SNI).
    pub(crate) fn asking_for(mut self, name: &'static str) -> Self {
        self.name = ServerName::try_from(name).expect("a name");
        self
    }

    /// Offers this and nothing else by ALPN.
    pub(crate) fn speaking(mut self, protocol: &str) -> Self {
        self.config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        self
    }

    /// Connects and shakes hands. With TLS 1.3 that says nothing yet about whether the other side agrees.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<Secure> {
        let stream = within("connect", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        within("the handshake", connector.connect(self.name.clone(), stream)).await
    }

    /// A client of HTTP/1.1.
    pub(crate) async fn http1(&self, address: SocketAddr) -> Client<Secure> {
        let stream = self.clone().speaking("http/1.1").connect(address).await;
        Client::over(stream.expect("a handshake"))
    }

    /// A client of HTTP/2.
    pub(crate) async fn http2(&self, address: SocketAddr) -> Http2 {
        let stream = self.clone().speaking("h2").connect(address).await;
        Http2::over(stream.expect("a handshake")).await
    }

    /// A client of whatever is passed on as bytes.
    pub(crate) async fn bytes(&self, address: SocketAddr) -> Client<Secure> {
        let stream = self.clone().speaking(BYTES).connect(address).await;
        Client::over(stream.expect("a handshake"))
    }

    /// The alert by which a connection is refused. Fails if it is not, or without a word.
    pub(crate) async fn refusal(&self, address: SocketAddr) -> AlertDescription {
        let error = match self.connect(address).await {
            Err(error) => error,
            Ok(mut stream) => within("an alert", stream.read_u8()).await.expect_err("no byte is served"),
        };
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match inner {
            Some(Error::AlertReceived(alert)) => *alert,
            _ => panic!("refused without an alert: {error}"),
        }
    }
}

/// The certificate that the other side showed.
pub(crate) fn shown(stream: &Secure) -> CertificateDer<'static> {
    let certificates = stream.get_ref().1.peer_certificates().expect("a server shows one");
    certificates[0].clone().into_owned()
}

/// Whether a session was taken up again.
pub(crate) fn is_resumed(stream: &Secure) -> bool {
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// A TLS server that passes what it decrypts on to an application, and brings back what that says.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// Handshakes that the server found good.
    shaken: AtomicUsize,
    callers: Mutex<Vec<CertificateDer<'static>>>,
    /// Connections that carried any byte.
    carried: AtomicUsize,
}

impl Front {
    /// Speaks any of `protocols`, or none, as the caller likes; asks for a certificate and takes any.
    pub(crate) async fn before(app: SocketAddr, credentials: &Credentials, protocols: &[&str]) -> Self {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_safe_default_protocol_versions()
            .expect("versions that exist")
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_single_cert(vec![credentials.leaf()], credentials.private())
            .expect("a pair");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback address can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let seen = Arc::new(Seen::default());
        let (acceptor, shared) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, acceptor.clone(), app, Arc::clone(&shared)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, seen, task }
    }

    /// What the configuration calls it.
    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Connections on which a byte arrived that was no part of a handshake.
    pub(crate) fn carried(&self) -> usize {
        self.seen.carried.load(Ordering::SeqCst)
    }

    /// Handshakes that went well, as it saw them.
    pub(crate) fn shaken(&self) -> usize {
        self.seen.shaken.load(Ordering::SeqCst)
    }

    /// The certificates that callers showed, in order.
    pub(crate) fn callers(&self) -> Vec<CertificateDer<'static>> {
        self.seen.callers.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, app: SocketAddr, seen: Arc<Seen>) {
    // Who breaks off is seen by what does not arrive.
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    seen.shaken.fetch_add(1, Ordering::SeqCst);
    if let Some(caller) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        let mut callers = seen.callers.lock().expect("nobody panics with it");
        callers.push(caller.clone().into_owned());
    }
    let mut first = vec![0; 16 * 1024];
    let Ok(count @ 1..) = stream.read(&mut first).await else { return };
    seen.carried.fetch_add(1, Ordering::SeqCst);
    let Ok(mut inner) = TcpStream::connect(app).await else { return };
    if inner.write_all(&first[..count]).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
    }
}

/// Believes anybody; checks that they have the keys of what they show.
#[derive(Debug)]
struct Anybody;

impl Anybody {
    fn signed_in_1_2(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn signed_in_1_3(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn schemes() -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed_in_1_2(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed_in_1_3(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed_in_1_2(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signed_in_1_3(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}
