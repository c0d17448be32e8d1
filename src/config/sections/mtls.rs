//! `mtls`: who proves who it is within the mesh, and with what.

use std::path::PathBuf;

use super::intentions::Identities;
use crate::{
    config::{
        codes, defaults,
        fields::Fields,
        report::{Finding, Report, error, warning},
        schema,
        span::Span,
        tree::Node,
        value,
    },
    identity::{IdentityFiles, IdentityParams, TlsVersion},
    proxy::{MtlsMode, MtlsParams},
    types::TrustDomain,
};

pub(in crate::config) const MODES: [(&str, MtlsMode); 3] =
    [("strict", MtlsMode::Strict), ("permissive", MtlsMode::Permissive), ("disabled", MtlsMode::Disabled)];
pub(in crate::config) const VERSIONS: [(&str, TlsVersion); 2] =
    [("1.3", TlsVersion::V13), ("1.2", TlsVersion::V12)];
const CA_MODES: [(&str, ()); 1] = [("files", ())];

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
    files: IdentityFiles,
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
        let Source { version, files } = self.source.clone()?;
        let domain = self.domain.clone();
        let own = domain.service(service).ok()?;
        Some(IdentityParams { own, domain, version, files })
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
    let files = fields.get("ca").and_then(|node| ca(node, report));
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
    mtls.source = files.map(|files| Source { version, files });
    mtls
}

fn no_certificates(span: Span, message: &str) -> Finding {
    error(codes::PLAINTEXT, span, message)
        .label("a sidecar proves who it is with a certificate")
        .help(
            "`outrigger ca issue` makes one: `mtls: { ca: { mode: files, cert_file: …, key_file: …, ca_file: … } }`; \
             or confirm plaintext with `mtls: { mode: disabled }`",
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

fn ca(node: &Node, report: &mut Report) -> Option<IdentityFiles> {
    let fields = Fields::open(node, &schema::CA, report)?;
    fields.or("mode", (), report, |node, report| value::word(node, &CA_MODES, &["builtin"], report));
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

fn path(node: &Node, report: &mut Report) -> Option<PathBuf> {
    let text = value::text(node, report)?;
    if text.is_empty() || text.contains('\0') {
        return report
            .add(error(codes::MALFORMED, node.span, "a path cannot be empty").label("expected a path"));
    }
    Some(PathBuf::from(text))
}
