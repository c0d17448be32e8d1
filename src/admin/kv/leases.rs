//! Leases over HTTP: granting, keeping alive, revoking.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{PATIENCE, present};
use crate::{
    admin::{
        API, Problem,
        answer::{self, Answer, Detail},
        dispatch::body,
        query::Query,
    },
    store::{Leasable as _, Store, StoreError, core::key::LeaseId},
};

/// What a grant asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    ttl: String,
}

/// Grants a lease.
pub(in crate::admin) async fn grant(
    store: Option<Store>,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let store = present(store)?;
    Query::parse(request.uri().query())?.end()?;
    let written: Grant = serde_json::from_slice(&body(request).await?).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("expected {{\"ttl\": \"30s\"}}: {error}"))
    })?;
    let ttl = humantime::parse_duration(&written.ttl)
        .map_err(|_| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "`ttl` must be a duration, as 30s"))?;
    let lease = in_time(store.grant(Store::next_op()?, ttl)).await?;
    Ok(done(&told(lease, ttl), format!("granted lease {}", lease.0)))
}

/// Keeps the lease alive that `name` is the number of, or revokes it.
pub(in crate::admin) async fn one(
    store: Option<Store>,
    name: &str,
    request: Request<Incoming>,
) -> Result<Answer, Problem> {
    let store = present(store)?;
    Query::parse(request.uri().query())?.end()?;
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let lease = name.parse().ok().filter(|_| is_number).map(LeaseId);
    let lease =
        lease.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "a lease is called by its number"))?;
    let is_revoked = *request.method() == Method::DELETE;
    body(request).await?;
    if is_revoked {
        let keys = in_time(store.revoke(Store::next_op()?, lease)).await?;
        let told = json!({ "apiVersion": API, "kind": "Lease", "lease": lease, "keys": keys });
        return Ok(done(&told, format!("revoked, and {keys} keys with it")));
    }
    let ttl = in_time(store.keep_alive(lease)).await?;
    Ok(done(&told(lease, ttl), "kept alive".to_owned()))
}

fn told(lease: LeaseId, ttl: Duration) -> Value {
    json!({ "apiVersion": API, "kind": "Lease", "lease": lease, "ttl_seconds": ttl.as_secs_f64() })
}

fn done(told: &Value, came: String) -> Answer {
    let mut answer = answer::json(StatusCode::OK, told);
    answer.extensions_mut().insert(Detail(came));
    answer
}

async fn in_time<T>(asking: impl Future<Output = Result<T, StoreError>>) -> Result<T, Problem> {
    Ok(tokio::time::timeout(PATIENCE, asking).await.map_err(|_| StoreError::TimedOut)??)
}
