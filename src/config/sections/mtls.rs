//! `mtls`: who proves who it is within the mesh, and with what.

use std::{path::PathBuf, time::Duration};

use super::intentions::Identities;
use crate::{
    config::{
        codes, defaults,
        fields::{Fields, MayLack, list},
        form,
        report::{Finding, Report, error, warning},
        schema,
        span::Span,
        tree::Node,
        value,
    },
    identity::{AuthorityPlace, Builtin, IdentityFiles, IdentityParams, IdentitySource, TlsVersion},
    proxy::{MtlsMode, MtlsParams},
    types::TrustDomain,
};

pub(in crate::config) const MODES: [(&str, MtlsMode); 3] =
    [("strict", MtlsMode::Strict), ("permissive", MtlsMode::Permissive), ("disabled", MtlsMode::Disabled)];
pub(in crate::config) const VERSIONS: [(&str, TlsVersion); 2] =
    [("1.3", TlsVersion::V13), ("1.2", TlsVersion::V12)];
const CA_MODES: [(&str, CaMode); 2] = [("files", CaMode::Files), ("builtin", CaMode::Builtin)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaMode {
    Files,
    Builtin,
}

/// The section as read.
#[derive(Clone, Debug)]
pub(in crate::config) struct Mtls {
    pub(in crate::config) listener: MtlsParams,
    pub(in crate::config) domain: TrustDomain,
    source: Option<Source>,
}

#[derive(Clone, Debug)]
struct Source {
    version: TlsVersion,
    source: IdentitySource,
}

impl Mtls {
    fn new(mode: MtlsMode) -> Self {
        let listener = MtlsParams { mode, ..defaults::MTLS };
        Self { listener, domain: TrustDomain::default(), source: None }
    }

    /// Whether callers prove who they are.
    pub(in crate::config) fn identities(&self) -> Identities {
        match self.listener.mode {
            MtlsMode::Disabled => Identities::None,
            MtlsMode::Strict | MtlsMode::Permissive => Identities::Proved,
        }
    }

    /// What the sidecar of `service` proves itself with; `None` without mTLS.
    pub(in crate::config) fn identity(&self, service: &str) -> Option<IdentityParams> {
        let Source { version, source } = self.source.clone()?;
        let domain = self.domain.clone();
        let own = domain.service(service).ok()?;
        Some(IdentityParams { own, domain, version, source })
    }
}

/// Reads the section. Nobody may take a plaintext mesh for an encrypted one: its absence has to be written down.
pub(in crate::config) fn read(root: &Fields<'_>, report: &mut Report) -> Mtls {
    let Some(node) = root.get("mtls") else {
        report.add::<()>(no_certificates(root.span, "`mtls` is missing").of_mapping());
        return Mtls::new(MtlsMode::Strict);
    };
    let Some(fields) = Fields::open(node, &schema::MTLS, report) else { return Mtls::new(MtlsMode::Strict) };
    let mode =
        fields.or("mode", MtlsMode::Strict, report, |node, report| value::word(node, &MODES, &[], report));
    let mut mtls = Mtls::new(mode);
    mtls.domain = fields.or("trust_domain", mtls.domain, report, trust_domain);
    let version = fields
        .or("min_version", TlsVersion::V13, report, |node, report| value::word(node, &VERSIONS, &[], report));
    mtls.listener.handshake_timeout =
        fields.or("handshake_timeout", mtls.listener.handshake_timeout, report, value::wait);
    mtls.listener.max_handshakes =
        fields.or("max_handshakes", mtls.listener.max_handshakes, report, |node, report| {
            value::number_u32(node, 1..=1_000_000, report)
        });
    let source = fields.get("ca").and_then(|node| ca(node, report));
    match mode {
        MtlsMode::Disabled => {
            if let Some(node) = fields.get("ca") {
                let message = "`ca` has no effect with `mode: disabled`";
                report
                    .add::<()>(warning(codes::NO_EFFECT, node.span, message).label("nobody proves anything"));
            }
            return mtls;
        }
        MtlsMode::Permissive => {
            let span = fields.get("mode").map_or(node.span, |node| node.span);
            report.add::<()>(
                warning(codes::PERMISSIVE, span, "callers without a certificate are let in")
                    .label("for the time of a migration")
                    .help(
                        "`outrigger_mtls_plaintext_connections_total` shows whether anybody still needs it",
                    ),
            );
        }
        MtlsMode::Strict => {}
    }
    if fields.get("ca").is_none() {
        report.add::<()>(no_certificates(node.span, "`ca` is missing in `mtls`").of_mapping());
    }
    mtls.source = source.map(|source| Source { version, source });
    mtls
}

fn no_certificates(span: Span, message: &str) -> Finding {
    error(codes::PLAINTEXT, span, message)
        .label("a sidecar proves who it is with a certificate")
        .help(
            "`outrigger ca issue` makes one: `mtls: { ca: { mode: files, cert_file: …, key_file: …, ca_file: … } }`; \
             `mtls: { ca: { mode: builtin, servers: […], token_file: … } }` asks for one; or confirm plaintext with `mtls: { mode: disabled }`",
        )
}

fn trust_domain(node: &Node, report: &mut Report) -> Option<TrustDomain> {
    let text = value::text(node, report)?;
    match text.parse() {
        Ok(domain) => Some(domain),
        Err(reason) => report.add(
            error(codes::MALFORMED, node.span, format!("{text:?} is no trust domain"))
                .label(format!("{reason}"))
                .help("for example `mesh.local`"),
        ),
    }
}

fn ca(node: &Node, report: &mut Report) -> Option<IdentitySource> {
    let fields = Fields::open(node, &schema::CA, report)?;
    let mode =
        fields.or("mode", CaMode::Files, report, |node, report| value::word(node, &CA_MODES, &[], report));
    let (foreign, others): (&[&str], _) = match mode {
        CaMode::Files => (&["authority", "servers", "token_file", "dir", "leaf_ttl", "node"], "builtin"),
        CaMode::Builtin => (&["cert_file", "key_file", "ca_file", "crl_file"], "files"),
    };
    for key in foreign {
        if let Some(node) = fields.get(key) {
            let message = format!("`{key}` belongs to `mode: {others}`");
            report.add::<()>(error(codes::CHOICE, node.span, message).label("has no effect here"));
        }
    }
    match mode {
        CaMode::Files => files(&fields, report).map(IdentitySource::Files),
        CaMode::Builtin => builtin(&fields, report).map(IdentitySource::Builtin),
    }
}

fn files(fields: &Fields<'_>, report: &mut Report) -> Option<IdentityFiles> {
    let cert = fields.require("cert_file", "cert_file: /etc/outrigger/tls.crt", report);
    let key = fields.require("key_file", "key_file: /etc/outrigger/tls.key", report);
    let roots = fields.require("ca_file", "ca_file: /etc/outrigger/ca.crt", report);
    let crl = fields.optional("crl_file", report, path);
    Some(IdentityFiles {
        cert: cert.and_then(|node| path(node, report))?,
        key: key.and_then(|node| path(node, report))?,
        ca: roots.and_then(|node| path(node, report))?,
        crl,
    })
}

fn builtin(fields: &Fields<'_>, report: &mut Report) -> Option<Builtin> {
    let (holder, _) = fields.one_of(&["authority", "servers"], MayLack::No, report)?;
    let authority = fields.optional("authority", report, authority);
    let servers = fields.optional("servers", report, |node, report| {
        let items = list(node, "addresses", report)?;
        if items.is_empty() {
            return report.add(
                error(codes::MISSING_KEY, node.span, "`servers` is empty")
                    .label("nobody to ask")
                    .help("for example `servers: [\"10.0.0.1:15012\"]`"),
            );
        }
        Some(items.iter().filter_map(|item| form::listen_address(item, report)).collect::<Vec<_>>())
    });
    let token_file = fields.optional("token_file", report, path);
    if let Some(node) = fields.get("token_file").filter(|_| holder == "authority") {
        let message = "`token_file` has no effect beside `authority`";
        report.add::<()>(
            warning(codes::NO_EFFECT, node.span, message).label("who holds the authority needs no token"),
        );
    }
    let leaf_ttl = fields.or("leaf_ttl", defaults::LEAF_TTL, report, |node, report| {
        value::duration_from(node, Duration::from_secs(60), report)
    });
    let node = fields.optional("node", report, |node, report| {
        let text = value::text(node, report)?;
        match text.parse() {
            Ok(name) => Some(name),
            Err(reason) => report.add(
                error(codes::MALFORMED, node.span, "not the name of an instance").label(format!("{reason}")),
            ),
        }
    });
    Some(Builtin {
        dir: fields.or("dir", PathBuf::from(defaults::IDENTITY_DIR), report, path),
        authority: if holder == "authority" { Some(authority?) } else { None },
        servers: if holder == "servers" { servers? } else { Vec::new() },
        token_file: token_file.filter(|_| holder == "servers"),
        leaf_ttl,
        node,
    })
}

fn authority(node: &Node, report: &mut Report) -> Option<AuthorityPlace> {
    let fields = Fields::open(node, &schema::AUTHORITY, report)?;
    let dir = fields.or("dir", PathBuf::from(defaults::AUTHORITY_DIR), report, path);
    // Beside the directory, where `outrigger ca init` puts it.
    let mut beside = dir.components().as_path().as_os_str().to_owned();
    beside.push(".key");
    Some(AuthorityPlace {
        key_file: fields.or("key_file", PathBuf::from(beside), report, path),
        address: fields.or("address", defaults::AUTHORITY, report, form::listen_address),
        dir,
    })
}

pub(super) fn path(node: &Node, report: &mut Report) -> Option<PathBuf> {
    let text = value::text(node, report)?;
    if text.is_empty() || text.contains('\0') {
        return report
            .add(error(codes::MALFORMED, node.span, "a path cannot be empty").label("expected a path"));
    }
    Some(PathBuf::from(text))
}
