//! What tests of a running sidecar are made of: the binary as a child process, applications that follow a script,
//! clients that write bytes. Everything is on loopback, has a time limit, and ends with the test.

pub(crate) mod app;
pub(crate) mod authority;
pub(crate) mod client;
pub(crate) mod footprint;
pub(crate) mod frames;
pub(crate) mod http2;
pub(crate) mod sidecar;
pub(crate) mod streams;
pub(crate) mod tls;
pub(crate) mod wire;

use std::{future::Future, time::Duration};

pub(crate) use app::{App, Connection, ok};
pub(crate) use client::{Client, Response, get, send};
pub(crate) use sidecar::Sidecar;

/// How long anything may take that takes milliseconds when all is well: only a broken program reaches it.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Waits for `work`; fails the test at the limit.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {LIMIT:?} in vain: {what}"),
    }
}

/// Waits until `holds`; fails the test at the limit.
pub(crate) async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, async || holds().then_some(())).await;
}

/// Tries until there is something; fails the test at the limit.
pub(crate) async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
    .await
}
