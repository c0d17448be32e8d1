//! Whether all nodes have the same keyspaces. Each says in the mesh what its own come to; who differs is told once, to both,
//! and is refused nothing: what is configured is changed node by node (docs/adr/0029).

use std::collections::BTreeMap;

use super::keyspaces::Keyspaces;

/// What others say of their keyspaces, beside those of this node.
#[derive(Debug)]
pub struct Agreement {
    own: Keyspaces,
    /// Nodes that have others, and which.
    differing: BTreeMap<u64, u32>,
}

/// What a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Says<'a> {
    /// Who.
    pub id: u64,
    /// Its name.
    pub name: &'a str,
    /// [`Keyspaces::digest`] of its own.
    pub digest: u32,
}

impl Agreement {
    /// Of a node that has these.
    #[must_use]
    pub fn new(own: Keyspaces) -> Self {
        Self { own, differing: BTreeMap::new() }
    }

    /// Takes in what all who are there say, logs whatever that changes, and tells how many have other keyspaces.
    pub fn compare<'a>(&mut self, others: impl IntoIterator<Item = Says<'a>>) -> usize {
        let own = self.own.digest();
        let mut differing = BTreeMap::new();
        for Says { id, name, digest } in others {
            let before = self.differing.get(&id);
            if digest == own {
                if before.is_some() {
                    tracing::info!(node = %name, "it has the same keyspaces as this node now");
                }
                continue;
            }
            if before != Some(&digest) {
                tracing::warn!(
                    node = %name,
                    theirs = %format_args!("{digest:08x}"),
                    ours = %format_args!("{own:08x}"),
                    keyspaces = %self.own,
                    "it has other keyspaces than this node (store.keyspaces): until they are the same, reads by quorum may \
                     miss writes, and what is only its or only this node's is looked for in the log by the other. \
                     `keyspaces` are those of this node, and it logs its own"
                );
            }
            differing.insert(id, digest);
        }
        self.differing = differing;
        self.differing.len()
    }
}
