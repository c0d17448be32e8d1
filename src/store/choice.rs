//! Whom a node asks of the servers, and in which order.

use std::cmp::Reverse;

use super::peers::{Peer, Standing};
use crate::peer::rpc::Target;

/// All servers that may answer `own`: those of the store that `is_latest` before all others, of these `first`, then those that are not `avoided` and whom nothing is
/// said against. Among equals each node has an order of its own (rendezvous hashing), so that many spread over all, and
/// stay where they are if one comes or goes.
pub(super) fn ranked(
    peers: &[Peer],
    own: u64,
    first: Option<u64>,
    avoided: impl Fn(u64) -> bool,
    is_latest: impl Fn(u64) -> bool,
) -> Vec<Target> {
    let is_there = |peer: &&Peer| peer.is_server && peer.id != own && peer.standing != Standing::Gone;
    let mut servers: Vec<&Peer> = peers.iter().filter(is_there).collect();
    servers.sort_by_cached_key(|peer| {
        let is_elsewhere = peer.founded.is_none_or(|store| !is_latest(store));
        let doubts = (avoided(peer.id), peer.standing == Standing::Suspect);
        (is_elsewhere, Some(peer.id) != first, doubts, peer.is_draining, Reverse(weight(own, peer.id)))
    });
    servers.iter().map(|peer| Target { node: peer.id, address: peer.address }).collect()
}

fn weight(own: u64, server: u64) -> u64 {
    let pair = [own.to_le_bytes(), server.to_le_bytes()].concat();
    xxhash_rust::xxh64::xxh64(&pair, 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::types::Mono;

    fn server(id: u64) -> Peer {
        Peer {
            id,
            name: "node".into(),
            address: ([127, 0, 0, 1], 7947).into(),
            is_server: true,
            is_seed: false,
            founded: Some(1),
            standing: Standing::Alive,
            since: Mono::ZERO,
            zone: "".into(),
            is_draining: false,
        }
    }

    fn order(peers: &[Peer], own: u64, first: Option<u64>, avoided: u64) -> Vec<u64> {
        ranked(peers, own, first, |id| id == avoided, |store| store == 1)
            .iter()
            .map(|target| target.node)
            .collect()
    }

    #[test]
    fn many_nodes_spread_over_the_servers_and_stay_there_if_another_one_goes() {
        let peers = [1, 2, 3].map(server);
        let mut chosen: BTreeMap<u64, u32> = BTreeMap::new();
        for own in 1000..1300 {
            let all = order(&peers, own, None, 0);
            *chosen.entry(all[0]).or_default() += 1;
            let without = order(&peers[..2], own, None, 0);
            assert_eq!(without, all.iter().copied().filter(|id| *id != 3).collect::<Vec<_>>());
        }
        assert!(chosen.len() == 3 && chosen.values().all(|count| *count > 50), "{chosen:?}");
    }

    #[test]
    fn whoever_is_wanted_comes_first_and_whoever_is_doubted_last() {
        let mut peers = [1, 2, 3, 4, 5].map(server);
        peers[1].standing = Standing::Suspect;
        peers[2].founded = None;
        peers[3].standing = Standing::Gone;
        assert_eq!(order(&peers, 7, Some(2), 1), [2, 5, 1, 3]);
        assert_eq!(order(&peers, 7, None, 1), [5, 2, 1, 3]);
        // Neither itself, nor one that has no replica.
        peers[4].is_server = false;
        assert_eq!(order(&peers, 1, None, 0), [2, 3]);
    }
}
