//! Which path does what.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Backend, Problem, ReloadMode, Scope, SharedKind,
    answer::{self, Answer, Author, Detail},
    audit::Audit,
    author,
    gate::Gate,
    guard, keyring, kv, raft,
    server::Caller,
    shared,
    state::{self, Look},
};
use crate::{
    store::Store,
    telemetry::metrics::{AdminMetrics, AdminResult},
};

/// Largest body of a request.
const MAX_BODY: usize = 1 << 20;

/// Longest time a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Index,
    Live,
    Ready,
    Metrics,
    Status,
    Config,
    Services,
    Routes,
    Intentions,
    Policies,
    RateLimits,
    Shared(SharedKind),
    State(Look),
    Certificates,
    Members,
    Keyring,
    Kv,
    Leases,
    Lease,
    Raft,
    Seats,
    Order(raft::Verb),
    Snapshot,
    Reload,
    Renew,
    Log,
}

/// Path, meaning, methods (GET includes HEAD), the smallest scope that has it, purpose.
const ENDPOINTS: [(&str, Endpoint, &str, Scope, &str); 34] = [
    ("/", Endpoint::Index, "GET, HEAD", Scope::MetricsOnly, "this list"),
    (
        "/livez",
        Endpoint::Live,
        "GET, HEAD",
        Scope::MetricsOnly,
        "whether to leave the process running; ?verbose",
    ),
    ("/readyz", Endpoint::Ready, "GET, HEAD", Scope::MetricsOnly, "whether to send it traffic; ?verbose"),
    ("/metrics", Endpoint::Metrics, "GET, HEAD", Scope::MetricsOnly, "metrics in the Prometheus text format"),
    ("/v1/status", Endpoint::Status, "GET, HEAD", Scope::Full, "what the sidecar is doing"),
    ("/v1/config", Endpoint::Config, "GET, HEAD", Scope::Full, "the configuration that runs, secrets masked"),
    ("/v1/services", Endpoint::Services, "GET, HEAD", Scope::Full, "services and their endpoints"),
    ("/v1/routes", Endpoint::Routes, "GET, HEAD", Scope::Full, "routes in the order in which they are tried"),
    (
        "/v1/routes/{name}",
        Endpoint::Shared(SharedKind::Route),
        "PUT, DELETE",
        Scope::Full,
        "a route of all sidecars: the body is an item of `routes`, in YAML or JSON; ?if_revision=, or If-Match",
    ),
    ("/v1/intentions", Endpoint::Intentions, "GET, HEAD", Scope::Full, "who may call this service"),
    (
        "/v1/intentions/{name}",
        Endpoint::Shared(SharedKind::Intention),
        "PUT, DELETE",
        Scope::Full,
        "a rule of all sidecars: the body is an item of `intentions.rules`, perhaps with its `destination`",
    ),
    ("/v1/policies", Endpoint::Policies, "GET, HEAD", Scope::Full, "how services are called"),
    (
        "/v1/policies/{name}",
        Endpoint::Shared(SharedKind::Policy),
        "PUT, DELETE",
        Scope::Full,
        "how all sidecars call a service: the body has keys of `services.NAME`",
    ),
    ("/v1/ratelimits", Endpoint::RateLimits, "GET, HEAD", Scope::Full, "rate limits of this service"),
    (
        "/v1/ratelimits/{name}",
        Endpoint::Shared(SharedKind::Limit),
        "PUT, DELETE",
        Scope::Full,
        "a rate limit of all sidecars: the body is an item of `service.rate_limit`, perhaps with its `destination`",
    ),
    (
        "/v1/state",
        Endpoint::State(Look::At),
        "GET, HEAD",
        Scope::Full,
        "what all sidecars share, as it is or was; ?at=REVISION or a time",
    ),
    (
        "/v1/state/diff",
        Endpoint::State(Look::Diff),
        "GET, HEAD",
        Scope::Full,
        "what of it has changed, and by whom; ?from=&to=",
    ),
    ("/v1/state/log", Endpoint::State(Look::Log), "GET, HEAD", Scope::Full, "its last changes; ?limit="),
    (
        "/v1/state/revert",
        Endpoint::State(Look::Revert),
        "POST",
        Scope::Full,
        "puts it back; POST {\"revision\": 17}, perhaps with `only`, `if_revision`, `dry_run`",
    ),
    (
        "/v1/certificates",
        Endpoint::Certificates,
        "GET, HEAD",
        Scope::Full,
        "its certificates in PEM, without the key",
    ),
    ("/v1/members", Endpoint::Members, "GET, HEAD", Scope::Full, "who is in the mesh"),
    (
        KEYRING,
        Endpoint::Keyring,
        "GET, HEAD, POST",
        Scope::Full,
        "the keys of the gossip, by their marks; POST {\"install\": key}, {\"use\": mark} or {\"remove\": mark}",
    ),
    (
        KV,
        Endpoint::Kv,
        "GET, HEAD, PUT, DELETE, POST",
        Scope::Full,
        "the replicated store; ?key=, ?prefix=, ?watch=&after=; PUT {\"key\", \"value\"}, DELETE ?key=, POST a transaction",
    ),
    (
        "/v1/kv/leases",
        Endpoint::Leases,
        "POST",
        Scope::Full,
        "grants a lease of the store; POST {\"ttl\": \"30s\"}",
    ),
    (
        "/v1/kv/leases/{name}",
        Endpoint::Lease,
        "PUT, DELETE",
        Scope::Full,
        "PUT keeps a lease alive, DELETE ends it and removes its keys",
    ),
    (
        "/v1/raft",
        Endpoint::Raft,
        "GET, HEAD",
        Scope::Full,
        "how the store is: who leads, who votes, how far all are",
    ),
    (
        "/v1/raft/members",
        Endpoint::Seats,
        "GET, HEAD",
        Scope::Full,
        "who has the log of the store, and who may have it, as its leader sees them",
    ),
    (
        "/v1/raft/add",
        Endpoint::Order(raft::Verb::Add),
        "POST",
        Scope::Full,
        "{\"node\": name or id}: a server gets the log, and stands by",
    ),
    (
        "/v1/raft/remove",
        Endpoint::Order(raft::Verb::Remove),
        "POST",
        Scope::Full,
        "{\"node\": name or id}: it has the log no longer, for ever",
    ),
    (
        "/v1/raft/transfer-leader",
        Endpoint::Order(raft::Verb::Transfer),
        "POST",
        Scope::Full,
        "{\"node\": name or id}, or nothing: another voter leads",
    ),
    (
        "/v1/raft/snapshot",
        Endpoint::Snapshot,
        "GET",
        Scope::Full,
        "a copy of the whole store as a file; ?stale: as this server has it",
    ),
    ("/v1/reload", Endpoint::Reload, "POST", Scope::Full, "reads the configuration again; ?dry_run"),
    (
        "/v1/certificates/renew",
        Endpoint::Renew,
        "POST",
        Scope::Full,
        "gets new certificates, or looks at their files now",
    ),
    (
        "/v1/log",
        Endpoint::Log,
        "GET, HEAD, PUT",
        Scope::Full,
        "the level of the log; PUT {\"level\": \"debug\"}",
    ),
];

/// What stands for a name in the list of paths.
const NAME: &str = "{name}";

/// Where a key travels in the body.
pub(super) const KEYRING: &str = "/v1/keyring";

/// Where the values of the store travel in the body.
pub(super) const KV: &str = "/v1/kv";

/// A listener as its requests see it.
pub(super) struct Context {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) scope: Scope,
    pub(super) hosts: Vec<String>,
    pub(super) gate: Gate,
    pub(super) metrics: AdminMetrics,
}

/// Answers one request.
pub(super) async fn answer(context: &Context, caller: &Caller, request: Request<Incoming>) -> Answer {
    let audit = guard::is_change(request.method()).then(|| Audit::begin(caller, &request));
    let answer = route(context, caller, request).await.unwrap_or_else(|problem| problem.answer());
    let result = match answer.status() {
        StatusCode::UNAUTHORIZED => AdminResult::Unauthenticated,
        status if status.is_client_error() => AdminResult::Refused,
        status if status.is_server_error() => AdminResult::Failed,
        _ => AdminResult::Ok,
    };
    if context.scope == Scope::Full {
        context.metrics.answered(result);
    }
    if let Some(audit) = audit {
        audit.end(&answer, result);
    }
    answer
}

async fn route(context: &Context, caller: &Caller, request: Request<Incoming>) -> Result<Answer, Problem> {
    guard::check_caller(&request, context.scope, caller, &context.hosts)?;
    // Probes know no tokens, and health tells no secrets.
    let is_open = matches!(request.uri().path(), "/livez" | "/readyz") && !guard::is_change(request.method());
    if !is_open && let Err(denied) = context.gate.admit(request.headers(), caller).await {
        return Ok(denied);
    }
    let known = ENDPOINTS.iter().find(|(path, _, _, scope, _)| {
        is_at(path, request.uri().path()) && (context.scope == Scope::Full || *scope == context.scope)
    });
    let Some((place, endpoint, methods, _, _)) = known else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "there is nothing at this path; / lists what there is",
        ));
    };
    if !methods.split(", ").any(|method| method == request.method().as_str()) {
        return Ok(answer::method_not_allowed(methods));
    }
    if guard::is_change(request.method()) {
        guard::check_change(request.headers())?;
    }
    let backend = &context.backend;
    match endpoint {
        Endpoint::Index => Ok(ok(&index(context.scope))),
        Endpoint::Live => Ok(answer::health(&backend.liveness(), is_verbose(&request)?)),
        Endpoint::Ready => Ok(answer::health(&backend.readiness(), is_verbose(&request)?)),
        Endpoint::Metrics => metrics(backend).await,
        Endpoint::Status => Ok(ok(&backend.status())),
        Endpoint::Config => Ok(ok(&backend.config())),
        Endpoint::Services => Ok(ok(&backend.services())),
        Endpoint::Routes => Ok(ok(&backend.routes())),
        Endpoint::Intentions => Ok(ok(&backend.intentions())),
        Endpoint::Policies => Ok(ok(&backend.policies())),
        Endpoint::RateLimits => Ok(ok(&backend.rate_limits())),
        Endpoint::Shared(kind) => {
            let name = name_in(place, request.uri().path()).unwrap_or_default().to_owned();
            let store = store(context, caller, &request).await;
            of(store.as_ref(), shared::answer(backend, store.clone(), *kind, &name, request).await)
        }
        Endpoint::State(look) => {
            let store = store(context, caller, &request).await;
            of(store.as_ref(), state::answer(backend, store.clone(), *look, request).await)
        }
        Endpoint::Certificates => backend.certificates().map(|told| ok(&told)),
        Endpoint::Members => backend.members().map(|told| ok(&told)),
        Endpoint::Keyring if guard::is_change(request.method()) => keyring_order(backend, request).await,
        Endpoint::Keyring => backend.keyring().map(|told| ok(&told)),
        Endpoint::Kv => {
            let store = store(context, caller, &request).await;
            of(store.as_ref(), kv::answer(store.clone(), request).await)
        }
        Endpoint::Leases => {
            let store = store(context, caller, &request).await;
            of(store.as_ref(), kv::leases::grant(store.clone(), request).await)
        }
        Endpoint::Lease => {
            let name = name_in(place, request.uri().path()).unwrap_or_default().to_owned();
            let store = store(context, caller, &request).await;
            of(store.as_ref(), kv::leases::one(store.clone(), &name, request).await)
        }
        Endpoint::Raft => kv::raft(backend.store()).map(|told| ok(&told)),
        Endpoint::Seats => raft::members(backend.store()).await.map(|told| ok(&told)),
        Endpoint::Order(verb) => {
            let store = backend.store();
            raft::order(store, *verb, &body(request).await?).await
        }
        Endpoint::Snapshot => raft::snapshot(backend.store(), switch(request.uri().query(), "stale")?).await,
        Endpoint::Reload => reload(backend, request).await,
        Endpoint::Renew => renew(backend, request).await,
        Endpoint::Log if guard::is_change(request.method()) => set_log_level(backend, request).await,
        Endpoint::Log => Ok(ok(&json!({ "level": backend.log_level() }))),
    }
}

/// The store on behalf of whoever asks, if it is for a change.
async fn store<B>(context: &Context, caller: &Caller, request: &Request<B>) -> Option<Store> {
    let store = context.backend.store()?;
    if !guard::is_change(request.method()) {
        return Some(store);
    }
    let who = author::author(caller, context.gate.asks()).await;
    Some(store.on_behalf_of(&who))
}

/// Says for the audit log on whose behalf the store was asked.
fn of(store: Option<&Store>, answered: Result<Answer, Problem>) -> Result<Answer, Problem> {
    // A refusal is an answer, too.
    let mut answer = answered.unwrap_or_else(|problem| problem.answer());
    if let Some(store) = store {
        answer.extensions_mut().insert(Author(store.author().to_owned()));
    }
    Ok(answer)
}

/// Whether a request for `path` is for what is listed at `place`.
fn is_at(place: &str, path: &str) -> bool {
    place == path || name_in(place, path).is_some()
}

/// The name in `path` where `place` has room for one. It may have slashes.
fn name_in<'p>(place: &str, path: &'p str) -> Option<&'p str> {
    place.strip_suffix(NAME).and_then(|before| path.strip_prefix(before)).filter(|name| !name.is_empty())
}

fn ok(value: &Value) -> Answer {
    answer::json(StatusCode::OK, value)
}

fn index(scope: Scope) -> Value {
    let offered =
        ENDPOINTS.iter().filter(|(_, _, _, smallest, _)| scope == Scope::Full || *smallest == scope);
    let endpoints: Vec<Value> = offered
        .map(|(path, _, methods, _, purpose)| {
            json!({ "path": path, "methods": methods.split(", ").collect::<Vec<_>>(), "purpose": purpose })
        })
        .collect();
    json!({ "name": "outrigger", "version": env!("CARGO_PKG_VERSION"), "endpoints": endpoints })
}

fn is_verbose<B>(request: &Request<B>) -> Result<bool, Problem> {
    switch(request.uri().query(), "verbose")
}

async fn metrics(backend: &Arc<dyn Backend>) -> Result<Answer, Problem> {
    let backend = Arc::clone(backend);
    let rendered = tokio::task::spawn_blocking(move || backend.metrics()).await;
    rendered.map(answer::metrics).map_err(|error| internal("metrics", &error))
}

async fn reload(backend: &Arc<dyn Backend>, request: Request<Incoming>) -> Result<Answer, Problem> {
    let dry_run = switch(request.uri().query(), "dry_run")?;
    let mode = if dry_run { ReloadMode::DryRun } else { ReloadMode::Apply };
    body(request).await?;
    // A task of its own: a client that goes away drops this future, and a reload must not stop half way.
    let reload = tokio::spawn(Arc::clone(backend).reload(mode));
    let report = reload.await.map_err(|error| internal("reload", &error))??;
    let mut answer = ok(&report);
    answer.extensions_mut().insert(Detail(format!("changed: {}", report["changed"])));
    Ok(answer)
}

async fn renew(backend: &Arc<dyn Backend>, request: Request<Incoming>) -> Result<Answer, Problem> {
    body(request).await?;
    // A task of its own: a token is good for one time, and what it was spent for must be taken up.
    let renewal = tokio::spawn(Arc::clone(backend).renew());
    renewal.await.map_err(|error| internal("renewal", &error))?.map(|report| ok(&report))
}

async fn keyring_order(backend: &Arc<dyn Backend>, request: Request<Incoming>) -> Result<Answer, Problem> {
    if request.uri().query().is_some() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "there is no query here; the body says what to do",
        ));
    }
    let order = keyring::order(&body(request).await?)?;
    let named = keyring::named(&order);
    // A task of its own: an order that was half given must not depend on whoever gave it.
    let ordered = tokio::spawn(Arc::clone(backend).keyring_order(order));
    let (mut answer, came) = match ordered.await.map_err(|error| internal("keyring order", &error))? {
        Ok(report) => (ok(&report), keyring::outcome(&report)),
        Err(problem) => (problem.answer(), problem.detail().to_owned()),
    };
    answer.extensions_mut().insert(Detail(format!("{named}: {came}")));
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogChange {
    level: String,
}

async fn set_log_level(backend: &Arc<dyn Backend>, request: Request<Incoming>) -> Result<Answer, Problem> {
    let body = body(request).await?;
    let change: LogChange = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("expected a body like {{\"level\": \"debug\"}}: {error}");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })?;
    backend
        .set_log_level(&change.level)
        .map_err(|detail| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))?;
    let mut answer = ok(&json!({ "level": backend.log_level() }));
    answer.extensions_mut().insert(Detail(format!("level: {}", backend.log_level())));
    Ok(answer)
}

/// The whole body, within its limits of size and time.
pub(super) async fn body(request: Request<Incoming>) -> Result<Bytes, Problem> {
    let collected = Limited::new(request.into_body(), MAX_BODY).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB"))
        }
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body could not be read")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than 10 s")),
    }
}

/// Reads a query that may hold nothing but one switch: `name`, `name=true` or `name=false`. Anything else is
/// refused, because a misspelt `dry_run` would otherwise reload.
fn switch(query: Option<&str>, name: &str) -> Result<bool, Problem> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(false) };
    let (key, value) = query.split_once('=').unwrap_or((query, "true"));
    match value {
        "true" | "1" | "" if key == name => Ok(true),
        "false" | "0" if key == name => Ok(false),
        _ => {
            let detail = format!("the only query here is `?{name}`, or `?{name}=false`");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

fn internal(what: &str, error: &tokio::task::JoinError) -> Problem {
    tracing::error!(what, %error, "admin request failed");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a defect of the sidecar; its log says more")
}
