//! What this server sends to others: some packets at once to each, the rest put together while it waits. What cannot be
//! sent in time is lost, as on the way: whoever waits for an answer asks again or gives up.

use std::{collections::HashMap, time::Duration};

use tokio::task::JoinSet;

use super::{
    core::message::{Message, Packet},
    handle::PACKET,
};
use crate::{
    peer::rpc::{Caller, Lane, Target},
    store::{fence::Fence, peers::Peers},
};

/// For one packet.
const LIMIT: Duration = Duration::from_secs(2);
/// Packets to one server that are on their way.
const MOST_SENT: usize = 4;
/// Bytes of one packet, and of what waits for one server. A message has at most 1 MiB and some.
const LARGEST: usize = 2 << 20;
const MOST_WAITING: usize = 8 << 20;
/// What is larger must not delay what is small.
const SMALL: usize = 64 << 10;

/// The ways to all other servers.
pub(super) struct Links {
    caller: Caller,
    peers: Peers,
    fence: Fence,
    links: HashMap<u64, Link>,
    sending: JoinSet<(u64, bool)>,
}

#[derive(Default)]
struct Link {
    sent: usize,
    waiting: Option<Packet>,
    bytes: usize,
}

impl Links {
    pub(super) fn new(caller: Caller, peers: Peers, fence: Fence) -> Self {
        Self { caller, peers, fence, links: HashMap::new(), sending: JoinSet::new() }
    }

    /// Sends it, or keeps it until others have got there.
    pub(super) fn send(&mut self, to: u64, packet: Packet) {
        let link = self.links.entry(to).or_default();
        let waiting = link.waiting.get_or_insert_with(|| Packet { messages: Vec::new(), ..packet.clone() });
        (waiting.members, waiting.before, waiting.standing) =
            (packet.members, packet.before, packet.standing);
        for message in packet.messages {
            let size = message.size();
            if link.bytes + size <= MOST_WAITING {
                link.bytes += size;
                waiting.messages.push(message);
            }
        }
        self.flush(to);
    }

    fn flush(&mut self, to: u64) {
        let Some(link) = self.links.get_mut(&to) else { return };
        let address = crate::store::peers::address(&self.peers, to);
        while link.sent < MOST_SENT
            && let Some(waiting) = &mut link.waiting
        {
            let mut bytes = 0;
            let fitting = waiting.messages.iter().take_while(|message| {
                bytes += message.size();
                bytes <= LARGEST
            });
            let count = fitting.count().max(1).min(waiting.messages.len());
            let rest: Vec<Message> = waiting.messages.split_off(count);
            let packet = Packet { messages: std::mem::take(&mut waiting.messages), ..waiting.clone() };
            let size: usize = packet.messages.iter().map(Message::size).sum();
            link.bytes -= size;
            if rest.is_empty() {
                link.waiting = None;
            } else {
                waiting.messages = rest;
            }
            let Some(address) = address else { continue };
            let (caller, body) = (self.caller.clone(), self.fence.of_replica(&packet));
            let lane = if size > SMALL { Lane::Bulk } else { Lane::Log };
            link.sent += 1;
            self.sending.spawn(async move {
                let sent = caller.call(&Target { node: to, address }, lane, PACKET, body, LIMIT).await;
                (to, sent.is_ok())
            });
        }
    }

    /// Waits until one has got there, or is lost. Cancel-safe. Never returns while nothing is on its way.
    pub(super) async fn sent(&mut self) {
        let Some(Ok((to, is_sent))) = self.sending.join_next().await else {
            return std::future::pending().await;
        };
        if let Some(link) = self.links.get_mut(&to) {
            link.sent -= 1;
            if !is_sent {
                // By the time that it can be reached again nobody waits for these answers.
                (link.waiting, link.bytes) = (None, 0);
            }
        }
        self.flush(to);
    }
}
