//! `outrigger ca status`, for people and for tools.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Place, failure::Failure};
use crate::{
    cli::Output,
    identity::ca::{CopyStatus, Leaf, Node, RootStatus, Stamp, Status},
    rt,
};

#[derive(clap::Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    place: Place,
    /// `text` or `json`
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn status(args: &StatusArgs, notes: &mut Vec<String>) -> Result<String, Failure> {
    let now = rt::clock::wall();
    let status = args.place.open()?.status(now)?;
    let stale = status.stale_copies.iter();
    notes.extend(stale.map(|path| {
        format!(
            "warning: {} is not what the authority wrote; the next change puts that right",
            path.display()
        )
    }));
    Ok(match args.output {
        Output::Json => format!("{:#}\n", to_json(&status)),
        Output::Text => text(&status, now.into()),
    })
}

fn to_json(status: &Status) -> Value {
    let root = |root: &RootStatus| {
        json!({
            "generation": root.generation,
            "signing": root.is_signing,
            "fingerprint_sha256": root.fingerprint.to_string(),
            "not_before": root.not_before.to_string(),
            "not_after": root.not_after.to_string(),
            "live_certificates": root.live_leaves,
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "CertificateAuthority",
        "trust_domain": status.trust_domain.to_string(),
        "phase": status.phase.name(),
        "ttl_seconds": status.leaf_ttl.as_secs(),
        "roots": status.roots.iter().map(root).collect::<Vec<_>>(),
        "crl": {
            "number": status.crl_number,
            "next_update": status.crl_next_update.to_string(),
            "entries": status.crl_entries,
        },
        "usable_tokens": status.usable_tokens,
        "copy": status.copy.map(|copy| json!({
            "number": copy.last.to_string(),
            "kept": copy.is_kept,
            "current": copy.is_current,
            "superseded_by": copy.superseded_by.map(|by| by.to_string()),
        })),
        "certificates": status.leaves.iter().map(leaf).collect::<Vec<_>>(),
    })
}

fn leaf(leaf: &Leaf) -> Value {
    let revoked = leaf.revoked.map(
        |revocation| json!({ "at": revocation.at.to_string(), "reason": revocation.reason.to_string() }),
    );
    json!({
        "serial": leaf.serial.to_string(),
        "identity": leaf.identity.as_str(),
        "node": leaf.node.as_ref().map(Node::as_str),
        "root": leaf.root,
        "issued_at": leaf.issued_at.to_string(),
        "not_after": leaf.not_after.to_string(),
        "revoked": revoked,
    })
}

fn text(status: &Status, now: Stamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<13} {value}");
    };
    line("trust domain", status.trust_domain.to_string());
    line("rotation", status.phase.name().to_owned());
    for root in &status.roots {
        let role = if root.is_signing { "signs" } else { "trusted" };
        let left = left(root.not_after, now);
        line(
            &format!("root {}", root.generation),
            format!("{role}, {} live certificate(s), until {} ({left})", root.live_leaves, root.not_after),
        );
        line("", format!("sha256 {}", root.fingerprint));
    }
    line(
        "revocations",
        format!(
            "{} in list {}, good until {}",
            status.crl_entries, status.crl_number, status.crl_next_update
        ),
    );
    line("join tokens", format!("{} can be used", status.usable_tokens));
    if let Some(copy) = status.copy {
        line("copy", told(copy));
    }
    line("certificates", format!("{} not expired", status.leaves.len()));
    for leaf in &status.leaves {
        let node = leaf.node.as_ref().map_or("-", Node::as_str);
        let end = match leaf.revoked {
            Some(revocation) => format!("REVOKED at {} ({})", revocation.at, revocation.reason),
            None => left(leaf.not_after, now),
        };
        let _ = writeln!(text, "  {} {} {node} root {}, {end}", leaf.serial, leaf.identity, leaf.root);
    }
    text
}

fn told(copy: CopyStatus) -> String {
    let last = copy.last;
    match (copy.superseded_by, copy.is_kept, copy.is_current) {
        (Some(by), ..) => {
            format!(
                "SUPERSEDED by copy {by}: another directory holds the authority, and this one signs nothing any more"
            )
        }
        (None, true, true) => format!("{last} was in the store of the mesh, and nothing has changed since"),
        (None, true, false) => {
            format!("{last} was in the store of the mesh; the authority has CHANGED SINCE")
        }
        (None, false, _) => {
            format!("{last} is to be put into the store of the mesh, and was NOT SEEN there yet")
        }
    }
}

/// `3h 20m left`, to the minute.
pub(in crate::cli) fn left(end: Stamp, now: Stamp) -> String {
    if end <= now {
        return "EXPIRED".to_owned();
    }
    let left = end.since(now);
    let minutes = std::time::Duration::from_secs(left.as_secs() / 60 * 60);
    format!("{} left", humantime::format_duration(if minutes.is_zero() { left } else { minutes }))
}
