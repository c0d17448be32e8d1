//! The TLS of one sidecar within its mesh: how it is spoken, with what, and what a change of certificates means for it.
//! Configurations of rustls are made once; what they use changes beneath them, so that a new certificate costs no
//! connection.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Release},
        },
    },
    time::SystemTime,
};

use rustls::{
    ClientConfig, ServerConfig, SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs, aws_lc_rs::kx_group},
    pki_types::{CertificateDer, ServerName},
    version,
};

use super::{
    Material, NewTrust,
    material::unix,
    sessions::{ClientSessions, ticketer},
    trust::Purpose,
    verify::{Called, Callers, Ours},
};
use crate::types::{IdentityError, Live, SpiffeId, TrustDomain};

/// What stands in the place of a name where none is sent.
const NO_NAME: [u8; 4] = [0, 0, 0, 0];

/// ALPN of a connection whose bytes are not looked at; no registered name exists for that.
const BYTES: &[u8] = b"outrigger/bytes";

/// What is spoken within TLS, agreed upon by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Anything: the connection is passed on as bytes.
    Bytes,
}

impl Alpn {
    /// As it is sent.
    #[must_use]
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
            Self::Bytes => BYTES,
        }
    }

    /// Its place in a table of all.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Http1 => 0,
            Self::Http2 => 1,
            Self::Bytes => 2,
        }
    }

    /// What a handshake agreed upon; `None` if it did not say, or said something else.
    #[must_use]
    pub fn agreed(protocol: Option<&[u8]>) -> Option<Self> {
        [Self::Http1, Self::Http2, Self::Bytes].into_iter().find(|known| Some(known.as_bytes()) == protocol)
    }
}

static SINCE_1_2: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
static SINCE_1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 or 1.3.
    V12,
    /// TLS 1.3 alone.
    #[default]
    V13,
}

impl TlsVersion {
    /// All that are spoken.
    #[must_use]
    pub fn spoken(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::V12 => SINCE_1_2,
            Self::V13 => SINCE_1_3,
        }
    }
}

/// What encrypts and signs, for the whole process: aws-lc-rs. The key exchange that withstands quantum computers comes
/// first: recorded traffic stays secret, and connections between sidecars are long-lived enough to pay for it.
pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups =
            vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
        Arc::new(provider)
    });
    &PROVIDER
}

pub(super) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from(NO_NAME).into())
}

/// Material that can be replaced, and what must be forgotten when it is.
#[derive(Debug)]
pub struct MeshTls {
    own: SpiffeId,
    domain: TrustDomain,
    version: TlsVersion,
    material: Arc<Live<Material>>,
    /// How often it changed whom we believe.
    epoch: AtomicU64,
    /// How often the material was replaced.
    generation: Arc<AtomicU64>,
    inbound: InboundTls,
}

/// How callers are received.
#[derive(Clone, Debug)]
pub struct InboundTls(Arc<Live<ServerConfig>>);

impl InboundTls {
    /// For rustls.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.load()
    }
}

/// A service of the mesh cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// By its name.
    #[error("no identity can have this name")]
    Name(#[from] IdentityError),
    /// By a defect of ours.
    #[error("the TLS library refuses its settings")]
    Tls(#[from] rustls::Error),
}

/// How one service of the mesh is called: only a holder of its identity is believed.
#[derive(Clone, Debug)]
pub struct PeerTls {
    expected: SpiffeId,
    name: ServerName<'static>,
    configs: Arc<Live<Configs>>,
    generation: Arc<AtomicU64>,
}

/// How any member of the mesh is called.
#[derive(Clone, Debug)]
pub struct AnyoneTls {
    by_alpn: [Arc<ClientConfig>; 3],
    generation: Arc<AtomicU64>,
}

impl AnyoneTls {
    /// For rustls, to speak `alpn`.
    #[must_use]
    pub fn config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        Arc::clone(&self.by_alpn[alpn.index()])
    }

    /// As [`PeerTls::epoch`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// No name is asked for.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        no_name()
    }
}

/// Configurations of one generation of the material, with the sessions that were made in it.
#[derive(Debug)]
struct Configs {
    generation: u64,
    by_alpn: [Arc<ClientConfig>; 3],
}

impl Configs {
    /// The same, without a session.
    fn renewed(&self, generation: u64) -> Self {
        let sessions = Arc::new(ClientSessions::default());
        let by_alpn = self.by_alpn.each_ref().map(|config| {
            let mut config = ClientConfig::clone(config);
            config.resumption = Resumption::store(Arc::clone(&sessions) as _);
            Arc::new(config)
        });
        Self { generation, by_alpn }
    }
}

impl PeerTls {
    /// Whom it must be.
    #[must_use]
    pub fn expected(&self) -> &SpiffeId {
        &self.expected
    }

    /// What is asked for (SNI).
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// For rustls, to speak `alpn`.
    #[must_use]
    pub fn config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        let generation = self.generation.load(Acquire);
        let mut configs = self.configs.load();
        if configs.generation != generation {
            // Several may do so at once; each has a store of its own, and the last one is kept.
            configs = Arc::new(configs.renewed(generation));
            drop(self.configs.swap(Arc::clone(&configs)));
        }
        Arc::clone(&configs.by_alpn[alpn.index()])
    }

    /// How often the material was replaced: a connection from before that takes no new requests. It was made by showing a
    /// certificate that is not ours any more, or by believing one that may not be good any more.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.generation.load(Acquire)
    }
}

impl MeshTls {
    /// The TLS of the workload that `material` is of.
    ///
    /// # Errors
    /// If the TLS library finds its settings inconsistent, which would be a defect of ours.
    pub fn new(material: Material, version: TlsVersion) -> Result<Self, rustls::Error> {
        let own = material.leaf.facts.id.clone();
        let domain = material.trust.domain().clone();
        let hints = material.trust.hints().to_vec();
        let material = Arc::new(Live::new(Arc::new(material)));
        let names = names(&own);
        let callers = Callers { material: Arc::clone(&material), hints };
        let mut server = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(version.spoken())?
            .with_client_cert_verifier(Arc::new(callers))
            .with_cert_resolver(Arc::new(Ours { material: Arc::clone(&material), names }));
        server.alpn_protocols =
            [Alpn::Http2, Alpn::Http1, Alpn::Bytes].map(|alpn| alpn.as_bytes().to_vec()).into();
        server.ticketer = ticketer();
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        // A sidecar takes up one session per connection that it opens.
        server.send_tls13_tickets = 1;
        // What arrives before the handshake has ended could be sent by anybody a second time.
        server.max_early_data_size = 0;
        Ok(Self {
            own,
            domain,
            version,
            material,
            epoch: AtomicU64::default(),
            generation: Arc::default(),
            inbound: InboundTls(Arc::new(Live::new(Arc::new(server)))),
        })
    }

    /// Who we are.
    #[must_use]
    pub fn own(&self) -> &SpiffeId {
        &self.own
    }

    /// The mesh that we belong to.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The material in use.
    #[must_use]
    pub fn material(&self) -> Arc<Material> {
        self.material.load()
    }

    /// How callers are received.
    #[must_use]
    pub fn inbound(&self) -> &InboundTls {
        &self.inbound
    }

    /// How often it has changed whom we believe: connections from before should end soon.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Uses `material`, which must be of the same workload, from the next handshake on. Open connections go on. No
    /// session from before can be taken up: a resumed one would show certificates of its first handshake, and would not be
    /// judged anew. If it changes whom we believe, [`MeshTls::epoch`] rises; returns whether that is so.
    pub fn replace(&self, material: Material) -> bool {
        let old = self.material.swap(Arc::new(material));
        let changed = !old.trust.equals(&self.material.peek().trust);
        // After the swap. A handshake that began before it, and ends after it, makes a ticket that nobody takes any more:
        // it belongs to the configuration that it began with.
        let mut server = ServerConfig::clone(&self.inbound.config());
        server.ticketer = ticketer();
        drop(self.inbound.0.swap(Arc::new(server)));
        self.generation.fetch_add(1, Release);
        if changed {
            self.epoch.fetch_add(1, Release);
        }
        changed
    }

    /// Believes whom `trust` says from the next handshake on, and goes on to show the certificate that it has: for the
    /// time in which that has expired or was revoked, and there is no other. Returns as [`MeshTls::replace`].
    pub fn replace_trust(&self, trust: NewTrust) -> bool {
        self.replace(self.material().with(trust))
    }

    /// Whether a caller who showed `chain` would still be let in at `now`.
    #[must_use]
    pub fn believes(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        self.material.load().trust.judge(leaf, intermediates, unix(now), Purpose::Client).is_ok()
    }

    /// How any member of the mesh is called, to be told who it is: for what members say to each other.
    ///
    /// # Errors
    /// As [`MeshTls::new`].
    pub fn anyone(&self) -> Result<AnyoneTls, rustls::Error> {
        let called = Arc::new(Called { material: Arc::clone(&self.material), expected: None });
        let ours = Arc::new(Ours { material: Arc::clone(&self.material), names: Vec::new() });
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(self.version.spoken())?
            .dangerous()
            .with_custom_certificate_verifier(called)
            .with_client_cert_resolver(ours);
        // Who it is must be proved each time.
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let by_alpn = [Alpn::Http1, Alpn::Http2, Alpn::Bytes].map(|alpn| {
            let mut config = config.clone();
            config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
            Arc::new(config)
        });
        Ok(AnyoneTls { by_alpn, generation: Arc::clone(&self.generation) })
    }

    /// How the service `name` of the mesh is called.
    ///
    /// # Errors
    /// If no identity can have this name, or as [`MeshTls::new`].
    pub fn peer(&self, name: &str) -> Result<PeerTls, PeerError> {
        let expected = self.domain.service(name)?;
        let generation = self.generation.load(Acquire);
        let sessions = Arc::new(ClientSessions::default());
        let called =
            Arc::new(Called { material: Arc::clone(&self.material), expected: Some(expected.clone()) });
        let ours = Arc::new(Ours { material: Arc::clone(&self.material), names: Vec::new() });
        let server_name = server_name(&expected);
        let config = |alpn: Alpn| {
            let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
                .with_protocol_versions(self.version.spoken())?;
            let mut config = builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&called) as _)
                .with_client_cert_resolver(Arc::clone(&ours) as _);
            config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
            config.resumption = Resumption::store(Arc::clone(&sessions) as _);
            config.enable_sni = matches!(server_name, ServerName::DnsName(_));
            Ok::<_, rustls::Error>(Arc::new(config))
        };
        let by_alpn = [config(Alpn::Http1)?, config(Alpn::Http2)?, config(Alpn::Bytes)?];
        Ok(PeerTls {
            configs: Arc::new(Live::new(Arc::new(Configs { generation, by_alpn }))),
            generation: Arc::clone(&self.generation),
            name: server_name,
            expected,
        })
    }
}

/// The names by which callers may ask for us.
fn names(own: &SpiffeId) -> Vec<String> {
    let service = own.service().unwrap_or_default();
    vec![service.to_owned(), format!("{service}.{}", own.trust_domain())]
}

/// The name that is asked for, where it can be one of DNS.
fn server_name(expected: &SpiffeId) -> ServerName<'static> {
    let service = expected.service().unwrap_or_default();
    ServerName::try_from(format!("{service}.{}", expected.trust_domain())).unwrap_or_else(|_| no_name())
}
