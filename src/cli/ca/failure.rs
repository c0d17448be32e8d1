//! Why a command of `outrigger ca` failed: exit code, causes, and what to do about it.

use std::{error::Error, fmt};

use super::exit;
use crate::cli::admin::AskError;
use crate::identity::ca::{CaError, Leaf, Node};

/// Lines for standard error, and how the process ends.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    error: String,
    details: Vec<String>,
    hint: Option<&'static str>,
}

impl Failure {
    pub(super) fn new(code: u8, error: String) -> Self {
        Self { code, error, details: Vec::new(), hint: None }
    }

    pub(super) fn failed(error: String) -> Self {
        Self::new(exit::FAILED, error)
    }

    pub(super) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.error)?;
        self.details.iter().try_for_each(|detail| write!(f, "\n  {detail}"))?;
        self.hint.map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self { hint: error.hint(), ..Self::new(error.number(), error.to_string()) }
    }
}

impl From<CaError> for Failure {
    fn from(error: CaError) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        let details = match &error {
            CaError::InTheWay(leaves) | CaError::Unaware(leaves) => listed(leaves),
            _ => Vec::new(),
        };
        Self { code: code(&error), error: text, details, hint: hint(&error) }
    }
}

/// One line for each, as far as a screen goes.
pub(super) fn listed(leaves: &[Leaf]) -> Vec<String> {
    let line = |leaf: &Leaf| {
        let node = leaf.node.as_ref().map_or("-", Node::as_str);
        format!("{} {node} {} until {}", leaf.identity, leaf.serial, leaf.not_after)
    };
    let mut lines: Vec<String> = leaves.iter().take(MAX_LISTED).map(line).collect();
    if leaves.len() > MAX_LISTED {
        lines.push(format!("and {} more", leaves.len() - MAX_LISTED));
    }
    lines
}

fn code(error: &CaError) -> u8 {
    match error {
        CaError::Absent(_) | CaError::UnknownSerial(_) => exit::NOT_FOUND,
        CaError::WrongKey { .. } | CaError::KeyExposed { .. } | CaError::Token(_) | CaError::Renewal(_) => {
            exit::DENIED
        }
        CaError::Exists(_)
        | CaError::NotEmpty(_)
        | CaError::Busy(_)
        | CaError::Superseded { .. }
        | CaError::OtherAuthority(_)
        | CaError::InTheWay(_)
        | CaError::Unaware(_)
        | CaError::NotOurs { .. } => exit::CONFLICT,
        CaError::Lifetime { .. } => exit::USAGE,
        CaError::File { .. }
        | CaError::Damaged { .. }
        | CaError::OtherVersion { .. }
        | CaError::KeyText { .. }
        | CaError::Foreign { .. }
        | CaError::Request(_)
        | CaError::RootExpired { .. }
        | CaError::Full { .. }
        | CaError::Make { .. }
        | CaError::NoChance
        | CaError::Encrypt => exit::FAILED,
    }
}

fn hint(error: &CaError) -> Option<&'static str> {
    Some(match error {
        CaError::Absent(_) => {
            "`outrigger ca init --trust-domain NAME` makes one; another place is given with --dir"
        }
        CaError::WrongKey { .. } => {
            "give the key that `outrigger ca init` made, with --key-file or OUTRIGGER_CA_KEY"
        }
        CaError::KeyExposed { .. } => "chmod 600 it; if others may have read it, make a new authority",
        CaError::Damaged { .. } => "put back a backup of the whole directory",
        CaError::Superseded { .. } => {
            "work where the authority is held now; or hold it here: move the directory aside, and `outrigger ca restore`"
        }
        CaError::OtherAuthority(_) => "if that one is gone for good: `outrigger kv rm outrigger/authority`",
        CaError::OtherVersion { .. } => "use the version that wrote it, or a later one",
        CaError::InTheWay(_) => {
            "issue these anew, wait until they expire, or give --force: everybody refuses them then"
        }
        CaError::Unaware(_) => {
            "wait until they have fetched the bundle, issue them anew, or give --force if they have it from elsewhere"
        }
        CaError::NotOurs { .. } => "name another directory with --out, or give --force",
        CaError::RootExpired { .. } => "`outrigger ca rotate` makes a new root",
        CaError::UnknownSerial(_) => "`outrigger ca status` lists what has not expired",
        _ => return None,
    })
}

const MAX_LISTED: usize = 20;
