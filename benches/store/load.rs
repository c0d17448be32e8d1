//! Load in a closed loop: so many clients, each of which asks again as soon as it is answered.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use outrigger::store::{
    Level, Readable as _, Store, Writable as _,
    core::{command::Stay, key::Key},
};
use tokio::task::JoinSet;

use crate::{
    etcd::EtcdClient,
    machine::{Meter, Used},
};

/// A client of a store.
#[derive(Clone)]
pub(crate) enum Client {
    Ours(Store),
    Etcd(EtcdClient),
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    /// Linearizable.
    Get,
    /// By the leader's lease.
    Lease,
}

impl Client {
    async fn ask(&self, verb: Verb, key: &str) -> Result<()> {
        match (self, verb) {
            (Self::Ours(store), Verb::Put) => {
                store.put(Store::next_op()?, Key::new(key)?, VALUE, Stay::Forever).await?;
            }
            (Self::Ours(store), Verb::Get) => drop(store.get(&Key::new(key)?, Level::Strong).await?),
            (Self::Ours(store), Verb::Lease) => drop(store.get(&Key::new(key)?, Level::Lease).await?),
            (Self::Etcd(etcd), Verb::Put) => etcd.put(key, &VALUE).await?,
            (Self::Etcd(etcd), Verb::Get | Verb::Lease) => etcd.get(key).await?,
        }
        Ok(())
    }
}

/// What a load has come to.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Of all servers together, for one operation.
    pub(crate) cpu_us: f64,
    /// The share of the machine that others used.
    pub(crate) others: f64,
}

impl Sample {
    fn of(mut times: Vec<Duration>, used: Used) -> Self {
        times.sort_unstable();
        let at = |share: f64| percentile(&times, share).as_secs_f64() * 1e3;
        let count = times.len() as f64;
        Self {
            per_second: count / used.time.as_secs_f64(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            cpu_us: used.cpu.as_secs_f64() * 1e6 / count,
            others: used.others,
        }
    }
}

/// The time that so large a share of `times`, which are in order, does not exceed; zero if there are none.
pub(crate) fn percentile(times: &[Duration], share: f64) -> Duration {
    let at = (times.len() as f64 * share).ceil() as usize;
    times.get(at.max(1) - 1).copied().unwrap_or_default()
}

/// Has `clients` tasks ask for `length`; those of `of` take turns in being used. `servers` are the processes that answer.
/// One that is refused fails all.
pub(crate) async fn run(
    of: &[Client],
    clients: usize,
    verb: Verb,
    length: Duration,
    servers: Vec<u32>,
) -> Result<Sample> {
    let meter = Meter::start(servers)?;
    let end = Instant::now() + length;
    let mut tasks = JoinSet::new();
    for (number, client) in (0..clients).zip(of.iter().cycle()) {
        let client = client.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            for round in 0_usize.. {
                let key = format!("bench/{number}/{}", round % KEYS);
                let began = Instant::now();
                client.ask(verb, &key).await?;
                times.push(began.elapsed());
                if Instant::now() > end {
                    break;
                }
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.append(&mut done??);
    }
    Ok(Sample::of(times, meter.stop()?))
}

const VALUE: Bytes = Bytes::from_static(&LETTERS);

const LETTERS: [u8; 128] = {
    let mut value = [0; 128];
    let mut at = 0;
    while at < value.len() {
        value[at] = b'a' + at as u8 % 26;
        at += 1;
    }
    value
};

/// Different keys of each client.
const KEYS: usize = 100;
