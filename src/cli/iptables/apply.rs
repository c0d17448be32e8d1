//! Runs the tools of the firewall, and says what to do when they cannot work.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use super::{
    change::{Installed, to_restore},
    rules::{Family, Interception, nft_removal},
};

/// Exists if the kernel has IPv6.
const IPV6_OF_THE_KERNEL: &str = "/proc/net/if_inet6";
/// Seconds that iptables may wait for another one that changes rules at the same time.
const LOCK_SECONDS: &str = "5";

/// A tool did not do its work; the rules are as they were.
#[derive(Debug, thiserror::Error)]
pub(super) enum ToolError {
    #[error("`{0}` is not installed")]
    Missing(&'static str),
    #[error("`{tool}` may not change the firewall: {said}")]
    Denied { tool: &'static str, said: String },
    #[error("`{tool}` failed: {said}")]
    Failed { tool: &'static str, said: String },
    #[error("`{tool}` could not be run: {source}")]
    Unusable { tool: &'static str, source: io::Error },
}

impl ToolError {
    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Missing("nft") => "install the package nftables, or leave --nft away to use iptables",
            Self::Missing(_) => "install the package iptables, or use --nft",
            Self::Denied { .. } => {
                "it needs CAP_NET_ADMIN (and CAP_NET_RAW): run it as root, or as an init container with these \
                 capabilities; `outrigger iptables print` shows the rules without any"
            }
            Self::Failed { .. } => {
                "`outrigger iptables print` shows the rules; `--nft` and the iptables-legacy alternative are other \
                 ways into the same kernel"
            }
            Self::Unusable { .. } => "is it an executable for this machine?",
        }
    }
}

/// What is done about IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ipv6 {
    /// As for IPv4, if this machine can.
    IfPossible,
    /// As for IPv4; if this machine cannot, that is an error.
    Required,
    /// It is left alone.
    Never,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// IP versions whose rules are now as they should be.
    pub(super) families: Vec<Family>,
    /// Whether anything of ours had been there before.
    pub(super) was_there: bool,
    /// Why IPv6 is not among them, if that was to be tried.
    pub(super) without_ipv6: Option<String>,
}

/// Brings the rules of iptables into force, or with `None` removes ours. IPv4 comes first.
///
/// # Errors
/// If a tool cannot do its work. If that is the one for IPv6, the rules of IPv4 are changed already; doing it again
/// is harmless.
pub(super) fn iptables(wanted: Option<&Interception>, ipv6: Ipv6) -> Result<Done, ToolError> {
    let mut done = Done::default();
    for family in Family::BOTH {
        if family == Family::V6 {
            if ipv6 == Ipv6::Never {
                continue;
            }
            if ipv6 == Ipv6::IfPossible && !Path::new(IPV6_OF_THE_KERNEL).exists() {
                done.without_ipv6 = Some("the kernel has no IPv6".to_owned());
                continue;
            }
        }
        match change(wanted, family) {
            Ok(was_there) => {
                done.was_there |= was_there;
                done.families.push(family);
            }
            Err(error) if family == Family::V6 && ipv6 == Ipv6::IfPossible => {
                done.without_ipv6 = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Changes the rules of one IP version; says whether some of ours were there before.
fn change(wanted: Option<&Interception>, family: Family) -> Result<bool, ToolError> {
    let (save, restore) = match family {
        Family::V4 => ("iptables-save", "iptables-restore"),
        Family::V6 => ("ip6tables-save", "ip6tables-restore"),
    };
    let installed = Installed::read(&run(save, &["-t", "nat"], "")?);
    if wanted.is_some() || !installed.is_empty() {
        let text = to_restore(&installed, wanted, family);
        run(restore, &["--noflush", "--wait", LOCK_SECONDS], &text)?;
    }
    Ok(!installed.is_empty())
}

/// Brings the table of nft into force, or with `None` removes it.
///
/// # Errors
/// If nft cannot do its work; then nothing has changed.
pub(super) fn nft(wanted: Option<&Interception>, ipv6: Ipv6) -> Result<Done, ToolError> {
    let both = ipv6 != Ipv6::Never;
    let was_there = run("nft", &["list", "tables"], "")?.lines().any(|line| line == "table inet outrigger");
    match wanted {
        Some(wanted) => run("nft", &["-f", "-"], &wanted.nft(both))?,
        None if was_there => run("nft", &["-f", "-"], &nft_removal())?,
        None => String::new(),
    };
    let families = if both { Family::BOTH.to_vec() } else { vec![Family::V4] };
    Ok(Done { families, was_there, without_ipv6: None })
}

fn run(tool: &'static str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
    let unusable = |source| ToolError::Unusable { tool, source };
    let started = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ToolError::Missing(tool)),
        Err(error) => return Err(unusable(error)),
    };
    let mut unheard = None;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends before it has read everything says why by itself.
        unheard = stdin.write_all(input.as_bytes()).err();
    }
    let output = child.wait_with_output().map_err(unusable)?;
    if output.status.success() && unheard.is_none() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(judge(tool, said.trim()))
}

/// What a tool meant by what it said.
fn judge(tool: &'static str, said: &str) -> ToolError {
    let said = if said.is_empty() {
        "it said nothing".to_owned()
    } else {
        said.lines().collect::<Vec<_>>().join("; ")
    };
    let is_denied = ["Permission denied", "Operation not permitted", "you must be root"];
    if is_denied.iter().any(|words| said.contains(words)) {
        ToolError::Denied { tool, said }
    } else {
        ToolError::Failed { tool, said }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_the_package_that_has_it() {
        let error = run("outrigger-no-such-tool", &[], "").unwrap_err();
        assert!(matches!(error, ToolError::Missing(_)), "{error}");
        assert!(ToolError::Missing("nft").hint().contains("nftables"));
        assert!(ToolError::Missing("iptables-save").hint().contains("--nft"));
    }

    #[test]
    fn a_lack_of_rights_is_told_from_other_failures() {
        for said in [
            "iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)",
            "netlink: Error: cache initialization failed: Operation not permitted",
        ] {
            let error = judge("iptables-restore", said);
            assert!(matches!(error, ToolError::Denied { .. }), "{error}");
            assert!(error.hint().contains("CAP_NET_ADMIN"));
        }
        let error = judge("iptables-restore", "line 3 failed\nline 4 failed");
        assert_eq!(error.to_string(), "`iptables-restore` failed: line 3 failed; line 4 failed");
    }

    #[test]
    fn what_a_tool_prints_is_returned_and_its_failure_is_not_lost() {
        assert_eq!(run("cat", &[], "through").unwrap(), "through");
        assert!(matches!(run("false", &[], ""), Err(ToolError::Failed { .. })));
    }
}
