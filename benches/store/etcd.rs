//! Three etcd servers as processes, and a client of them: gRPC with messages that are written by hand, over the same
//! HTTP/2 library as ours. Its JSON gateway would cost it a second server and a second encoding for each request.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{
    http::Grpc,
    machine::{Directory, Process, free_address, said, until},
};

/// A cluster of three. Dropping it ends it.
pub(crate) struct Etcd {
    processes: Vec<Process>,
    leader: SocketAddr,
    _directory: Directory,
}

impl Etcd {
    /// Starts it with the defaults of etcd, on the disk on which ours are.
    pub(crate) async fn start() -> Result<Self> {
        let directory = Directory::new("etcd")?;
        let mut places = Vec::new();
        for at in 0..3 {
            places.push((format!("node-{at}"), free_address()?, free_address()?));
        }
        let all: Vec<_> = places.iter().map(|(name, _, peer)| format!("{name}=http://{peer}")).collect();
        let mut processes = Vec::new();
        for (name, client, peer) in &places {
            let path: PathBuf = directory.0.join(name);
            let mut command = Command::new("etcd");
            command.args(["--name", name, "--data-dir"]).arg(&path);
            command.args(["--listen-client-urls", &format!("http://{client}")]);
            command.args(["--advertise-client-urls", &format!("http://{client}")]);
            command.args(["--listen-peer-urls", &format!("http://{peer}")]);
            command.args(["--initial-advertise-peer-urls", &format!("http://{peer}")]);
            command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
            command.args(["--logger", "zap", "--log-level", "error"]);
            processes.push(Process::start(&mut command, &path.with_extension("log"))?);
        }
        let leader = until("etcd has a leader", async || {
            for (_, client, _) in &places {
                if leads(*client).await.ok()? {
                    return Some(*client);
                }
            }
            None
        });
        let leader = leader.await?;
        Ok(Self { processes, leader, _directory: directory })
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        self.processes.iter().map(Process::id).collect()
    }

    /// A client of the leader, with so many connections.
    pub(crate) async fn client(&self, connections: usize) -> Result<Vec<EtcdClient>> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let mut drivers = JoinSet::new();
            let grpc = Grpc::connect(self.leader, &mut drivers).await?;
            // Ends with its connection.
            drivers.detach_all();
            clients.push(EtcdClient(grpc));
        }
        Ok(clients)
    }
}

/// The version of the server, if there is one.
pub(crate) fn version() -> Option<String> {
    let text = said("etcd", &["--version"]);
    text.strip_prefix("etcd Version: ").map(str::to_owned)
}

#[derive(Clone)]
pub(crate) struct EtcdClient(Grpc);

impl EtcdClient {
    pub(crate) async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let mut message = Vec::new();
        bytes_field(&mut message, 1, key.as_bytes());
        bytes_field(&mut message, 2, value);
        self.0.call("/etcdserverpb.KV/Put", &message).await.map(drop)
    }

    /// A linearizable read, which is etcd's default.
    pub(crate) async fn get(&self, key: &str) -> Result<()> {
        let mut message = Vec::new();
        bytes_field(&mut message, 1, key.as_bytes());
        self.0.call("/etcdserverpb.KV/Range", &message).await.map(drop)
    }
}

/// Whether the server at `client` is the leader: `StatusResponse.leader` is `header.member_id`.
async fn leads(client: SocketAddr) -> Result<bool> {
    let mut drivers = JoinSet::new();
    let grpc = Grpc::connect(client, &mut drivers).await?;
    let answer = grpc.call("/etcdserverpb.Maintenance/Status", &[]).await?;
    let status = fields(&answer)?;
    let of = |fields: &[(u64, Value)], number: u64| {
        fields.iter().find(|(field, _)| *field == number).map(|(_, value)| value.clone())
    };
    let Some(Value::Bytes(header)) = of(&status, 1) else { return Ok(false) };
    let Some(Value::Number(member)) = of(&fields(&header)?, 2) else { return Ok(false) };
    Ok(matches!(of(&status, 4), Some(Value::Number(leader)) if leader == member))
}

#[derive(Clone)]
enum Value {
    Number(u64),
    Bytes(Bytes),
}

/// The fields of a message of protobuf that has only numbers and bytes.
fn fields(message: &Bytes) -> Result<Vec<(u64, Value)>> {
    let mut rest = message.clone();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let tag = number(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(number(&mut rest)?),
            2 => {
                let length = usize::try_from(number(&mut rest)?)?;
                anyhow::ensure!(length <= rest.len(), "a message of etcd is cut off");
                Value::Bytes(rest.split_to(length))
            }
            other => anyhow::bail!("a field of kind {other}"),
        };
        found.push((tag >> 3, value));
    }
    Ok(found)
}

fn number(rest: &mut Bytes) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte =
            rest.split_to(1.min(rest.len())).first().copied().context("a message of etcd is cut off")?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    Ok(number)
}

fn bytes_field(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend(bytes);
}
