//! Watches, through the admin API of the client's sidecar, which instances are in rotation.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::client::Connection;

/// How often the admin API is asked.
const INTERVAL: Duration = Duration::from_millis(200);

/// Longest wait for its answer.
const LIMIT: Duration = Duration::from_secs(2);

/// What the sidecar says of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    address: String,
    healthy: bool,
    reason: Option<String>,
}

/// An instance left rotation or returned to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It gets no more traffic, for this reason.
    Left {
        /// Which.
        instance: usize,
        /// Why, as the sidecar says.
        reason: String,
    },
    /// It gets traffic again.
    Returned {
        /// Which.
        instance: usize,
    },
}

/// Which instances are in rotation, by what was seen last.
#[derive(Debug)]
pub(super) struct Rotation {
    /// Address and whether it is in rotation; all are at the beginning.
    instances: Vec<(String, bool)>,
}

impl Rotation {
    /// All of `addresses` are in rotation.
    pub(super) fn new(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        Self { instances: addresses.map(|address| (address.to_string(), true)).collect() }
    }

    /// From now on the instance is at `address`.
    pub(super) fn moved(&mut self, instance: usize, address: SocketAddr) {
        if let Some((known, _)) = self.instances.get_mut(instance) {
            *known = address.to_string();
        }
    }

    /// What changed with these sightings. Addresses of no instance are ignored.
    pub(super) fn observe(&mut self, sightings: &[Sighting]) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (instance, (address, in_rotation)) in self.instances.iter_mut().enumerate() {
            let seen = sightings.iter().find(|sighting| sighting.address == *address);
            let Some(seen) = seen.filter(|seen| seen.healthy != *in_rotation) else { continue };
            *in_rotation = seen.healthy;
            turns.push(if seen.healthy {
                Turn::Returned { instance }
            } else {
                Turn::Left { instance, reason: seen.reason.clone().unwrap_or_default() }
            });
        }
        turns
    }
}

/// Asks the admin API again and again and sends on what it says, until the receiver is gone. An answer that does
/// not come is skipped: the next question follows at once.
pub(super) async fn watch(admin: SocketAddr, report: mpsc::Sender<Vec<Sighting>>) {
    let mut connection = Connection::new(admin);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(answer) = connection.get("/v1/services", LIMIT).await else { continue };
        let Ok(services) = serde_json::from_slice::<Value>(&answer.body) else { continue };
        if report.send(sightings(&services)).await.is_err() {
            return;
        }
    }
}

/// The endpoints of all services.
fn sightings(services: &Value) -> Vec<Sighting> {
    let items = services["items"].as_array().into_iter().flatten();
    let endpoints = items.filter_map(|service| service["endpoints"].as_array()).flatten();
    endpoints
        .filter_map(|endpoint| {
            Some(Sighting {
                address: endpoint["address"].as_str()?.to_owned(),
                healthy: endpoint["state"].as_str()? == "healthy",
                reason: endpoint["reason"].as_str().map(str::to_owned),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(state: &str, reason: Option<&str>) -> Vec<Sighting> {
        sightings(&json!({ "items": [{ "name": "api", "endpoints": [
            { "address": "127.0.0.1:1", "state": "healthy", "reason": null },
            { "address": "127.0.0.1:2", "state": state, "reason": reason },
        ] }] }))
    }

    #[test]
    fn each_change_is_told_once() {
        let mut rotation = Rotation::new((1..=2).map(|port| ([127, 0, 0, 1], port).into()));
        assert_eq!(rotation.observe(&seen("healthy", None)), []);
        let left = Turn::Left { instance: 1, reason: "cannot connect".to_owned() };
        assert_eq!(rotation.observe(&seen("unhealthy", Some("cannot connect"))), [left]);
        assert_eq!(rotation.observe(&seen("unhealthy", Some("timed out"))), []);
        assert_eq!(rotation.observe(&[]), []);
        assert_eq!(rotation.observe(&seen("healthy", None)), [Turn::Returned { instance: 1 }]);
    }

    #[test]
    fn an_instance_that_moved_is_known_by_its_new_address() {
        let mut rotation = Rotation::new((1..=2).map(|port| ([127, 0, 0, 1], port + 10).into()));
        rotation.moved(1, ([127, 0, 0, 1], 2).into());
        assert_eq!(rotation.observe(&seen("unhealthy", None)).len(), 1);
    }
}
