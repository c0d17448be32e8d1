//! What the sidecars of a show find each other by: a key that is drawn for it, and the address of the first of them.

use std::{io, net::SocketAddr, path::PathBuf};

use super::{DemoError, workspace::Workspace};
use crate::identity;

/// What all of them need. Nobody is told of anybody but the first.
#[derive(Clone, Debug)]
pub(super) struct Gossip {
    key: PathBuf,
    /// Where each keeps who it is, in a directory of its own.
    homes: PathBuf,
    /// Where the first one is; `None` as long as there is none.
    pub(super) join: Option<SocketAddr>,
}

impl Gossip {
    /// Draws a key and writes it into the workspace. Nobody has it but who can read that.
    pub(super) fn start(workspace: &Workspace) -> Result<Self, DemoError> {
        let drawn: [u8; 32] =
            identity::unforeseeable().map_err(|error| DemoError::Workspace(io::Error::other(error)))?;
        let digits: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
        let key =
            workspace.write_secret("gossip.key", &format!("{digits}\n")).map_err(DemoError::Workspace)?;
        Ok(Self { key, homes: workspace.path().to_owned(), join: None })
    }

    /// Where the sidecar called `node` keeps who it is.
    pub(super) fn home(&self, node: &str) -> PathBuf {
        self.homes.join(node)
    }

    /// The section of the configuration of the sidecar called `node`, which gossips at `bind`.
    pub(super) fn section(&self, node: &str, bind: SocketAddr) -> String {
        let Self { key, join, .. } = self;
        let (key, home) = (key.display(), self.home(node));
        let home = home.display();
        let join = join.map_or_else(String::new, |first| format!("  join: [\"{first}\"]\n"));
        format!(
            "mesh:\n  \
               node: {node}\n  \
               bind: {bind}\n\
             {join}  \
               gossip_key: ${{file:{key}}}\n  \
               profile: local\n  \
               data_dir: {home}\n"
        )
    }
}
