//! The way from text to [`Bundle`]: read the tree, put substitutions in, read each section, check them against
//! each other. Everything is read even after an error, so that all problems are told at once.

use std::net::SocketAddr;

use super::{
    Bundle, Environment, Findings, Text, codes,
    defaults::Inherited,
    environment,
    fields::Fields,
    lint,
    report::{Report, error},
    schema,
    sections::{
        admin, ext_authz, intentions, jwt,
        listeners::{self, Bound},
        mesh, mtls, process, routes,
        services::{self, Discovery},
        store,
        tcp_listeners::{self, Forwards},
        telemetry, traffic,
    },
    source,
    span::Span,
    tree::{Content, Node},
    yaml,
};
use crate::{
    directory::{DirectoryParams, LocalServiceParams},
    snapshot::{EndpointSource, Protocol},
    types::EndpointAddress,
};

/// As [`parse`], for bytes that may not even be text.
///
/// # Errors
/// Everything that is wrong, by position, if anything is.
pub fn load(text: &Text, environment: &dyn Environment) -> Result<(Bundle, Findings), Findings> {
    decoded(text).and_then(|content| parse(text.name(), content, environment))
}

/// The content as text.
pub(super) fn decoded(text: &Text) -> Result<&str, Findings> {
    match std::str::from_utf8(text.bytes()) {
        Ok(content) => Ok(content),
        Err(problem) => {
            let mut report = Report::default();
            // Cut before the offending byte: the rest cannot be shown, and the place of the error is the end.
            let readable = text.bytes().get(..problem.valid_up_to()).unwrap_or_default();
            let readable = String::from_utf8_lossy(readable);
            let span = Span::new(readable.len(), readable.len());
            report.add::<()>(
                error(codes::UNREADABLE, span, "the file is not UTF-8 text").label("not UTF-8 from here"),
            );
            Err(Findings::new(text.name(), &readable, None, report))
        }
    }
}

/// Reads a configuration. `file` is the name that findings carry; `environment` is where `${env:…}` and
/// `${file:…}` are looked up. The findings of a success are warnings.
///
/// # Errors
/// Everything that is wrong, by position, if anything is.
pub fn parse(file: &str, text: &str, environment: &dyn Environment) -> Result<(Bundle, Findings), Findings> {
    let read = read(file, text, environment)?;
    Ok((read.bundle, read.findings))
}

/// A file, and all that was made of it.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// With everything put in.
    pub(super) root: Node,
    pub(super) bundle: Bundle,
    pub(super) findings: Findings,
}

/// As [`parse`], and keeps the tree.
pub(super) fn read(file: &str, text: &str, environment: &dyn Environment) -> Result<Read, Findings> {
    // A byte order mark is no character of the text; columns count from behind it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::default();
    if text.len() > source::MAX_BYTES {
        let message = format!("the file is larger than {} MiB", source::MAX_BYTES / 1024 / 1024);
        report.add::<()>(error(codes::UNREADABLE, Span::default(), message));
        return Err(Findings::new(file, "", None, report));
    }
    let Some(mut root) = yaml::read(text, &mut report) else {
        return Err(Findings::new(file, text, None, report));
    };
    lint::yaml_words(&root, &mut report);
    let masked = environment::substitute(&mut root, environment, &mut report);
    let bundle = bundle(&root, masked, environment, &mut report);
    let failed = report.failed();
    let findings = Findings::new(file, text, Some(&root), report);
    match bundle {
        Some(bundle) if !failed => Ok(Read { root, bundle, findings }),
        _ => Err(findings),
    }
}

/// What a tree means.
pub(super) fn bundle(
    root: &Node,
    masked: Vec<String>,
    environment: &dyn Environment,
    report: &mut Report,
) -> Option<Bundle> {
    let fields = Fields::open(root, &schema::ROOT, report)?;
    process::version(&fields, report);
    let mtls = mtls::read(&fields, report);
    let workers = process::workers(&fields, report);
    let inherited: Inherited = process::inherited(&fields, &mtls, report);
    let local = services::local(&fields, &inherited, report);
    let mut bound = Vec::new();
    let mut forwards = Vec::new();
    let mut listeners = listeners::read(&fields, &mut bound, &mut forwards, report);
    listeners.mtls = mtls.listener.clone();
    let admin = admin::read(&fields, &mut bound, report);
    let mesh = mesh::read(&fields, listeners.inbound.is_some(), environment, &mut bound, report);
    let store = store::read(&fields, mesh.as_ref(), &mut bound, report);
    store::check(&fields, mesh.as_ref(), store.as_ref(), mtls.identities(), report);
    // Also if something about the section is wrong: one mistake is not to look like many.
    let discovery = fields.get("mesh").map_or(Discovery::None, |_| Discovery::Mesh);
    let mut services = services::read(&fields, &inherited, discovery, report);
    let intentions =
        fields.optional("intentions", report, |node, report| Fields::open(node, &schema::INTENTIONS, report));
    let jwt = intentions.as_ref().and_then(|fields| fields.optional("jwt", report, jwt::read));
    let ext_authz =
        intentions.as_ref().and_then(|fields| fields.optional("ext_authz", report, ext_authz::read));
    // No issuers: nobody's tokens are looked at.
    let jwt = jwt.filter(|jwt| !jwt.issuers.is_empty());
    let routes = routes::read(&fields, &inherited, report);
    let rules = intentions::read(&fields, intentions.as_ref(), mtls.identities(), &mtls.domain, report);
    let telemetry = telemetry::read(&fields, report);
    let reload = process::reload(&fields, report);
    let overload = traffic::overload(&fields, report);
    let shutdown = process::shutdown(&fields, report);

    if discovery == Discovery::Mesh {
        let asked = ext_authz.iter().map(|(params, span)| ext_authz::named(params, *span));
        let named = routes.named().chain(forwards.iter().map(Forwards::named)).chain(asked);
        services.discover(named, &inherited, report);
    }
    listeners::check_clashes(&bound, report);
    routes.check_references(&services.names, report);
    tcp_listeners::check(&forwards, &services, report);
    if let Some((params, span)) = &ext_authz {
        ext_authz::check(params, *span, &services, report);
    }
    routes.check_protocols(&services.read, report);
    routes.check_subsets(&services.read, report);
    lint::shadowed_routes(&routes, report);
    if let Some((local, span)) = &local {
        check_unread(local, &fields, report);
        check_loop(&local.address, *span, &bound, report);
    }
    for service in &services.read {
        check_endpoints(service, &bound, report);
    }
    let (local, _) = local?;
    Some(Bundle {
        workers,
        identity: mtls.identity(&local.name),
        mesh,
        store,
        directory: DirectoryParams {
            local,
            intentions: rules,
            trust_domain: mtls.domain.clone(),
            jwt,
            ext_authz: ext_authz.map(|(params, _)| params),
            routes: routes.params,
            clusters: services.read.into_iter().map(|service| service.params).collect(),
            passthrough: listeners::passthrough(&listeners),
        },
        listeners,
        admin,
        telemetry,
        reload,
        overload,
        shutdown,
        masked,
    })
}

fn check_endpoints(service: &services::Service, bound: &[Bound], report: &mut Report) {
    let EndpointSource::Static(endpoints) = &service.params.source else { return };
    // The outbound listener routes; what it is sent by itself it would route to itself again.
    let outbound: Vec<Bound> =
        bound.iter().filter(|bound| bound.name == "listeners.outbound").copied().collect();
    for (endpoint, span) in endpoints.iter().zip(&service.endpoints) {
        check_loop(&endpoint.address, *span, &outbound, report);
    }
}

/// Bytes carry no token that could be looked at, and nothing by which another service could decide.
fn check_unread(local: &LocalServiceParams, root: &Fields<'_>, report: &mut Report) {
    if local.protocol != Protocol::Tcp {
        return;
    }
    let within = |section: &str, key: &str| match &root.get(section)?.content {
        Content::Map(entries) => entries.iter().find(|entry| entry.key == key),
        Content::Scalar(_) | Content::List(_) => None,
    };
    let protocol = within("service", "protocol");
    for key in ["jwt", "ext_authz"] {
        let Some(entry) = within("intentions", key) else { continue };
        let what = format!("`intentions.{key}` is about requests, and the application takes bytes");
        let mut finding = error(codes::UNREAD, entry.key_span, what)
            .label("cannot be enforced")
            .help("remove it, or say what the application speaks, if that is HTTP");
        if let Some(protocol) = protocol {
            finding = finding.also(protocol.value.span, "so nobody reads what it is sent");
        }
        report.add::<()>(finding);
    }
}

fn check_loop(address: &EndpointAddress, span: Span, bound: &[Bound], report: &mut Report) {
    let EndpointAddress::Tcp(address) = address else { return };
    let Some(listener) = bound.iter().find(|bound| reaches(*address, bound.address)) else { return };
    report.add::<()>(
        error(codes::LOOP, span, format!("requests would come back to `{}`", listener.name))
            .label(format!("`{}` is {}", listener.name, listener.address))
            .help("point this at the application or the other service itself"),
    );
}

/// Whether a connection to `address` surely ends at a listener bound to `listener` on this machine.
fn reaches(address: SocketAddr, listener: SocketAddr) -> bool {
    listener.port() != 0
        && address.port() == listener.port()
        && (address.ip() == listener.ip() || (listener.ip().is_unspecified() && address.ip().is_loopback()))
}
