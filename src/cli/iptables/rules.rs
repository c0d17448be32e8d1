//! Which connections are redirected to the sidecar, as rules that can be written for iptables-restore and for nft.
//! Decides and writes text only; who runs the tools is apply.rs.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use super::ports::{InboundPorts, Ports};

/// Ports of the sidecar itself that nobody may be kept from: listeners, admin API, metrics; gossip.
pub(super) const OWN_PORTS: [std::ops::RangeInclusive<u16>; 2] = [7946..=7947, 15000..=15020];
/// Whoever repairs a machine comes in by SSH, whatever the sidecar does.
const SSH: u16 = 22;
/// Name servers are asked on the way to everything else.
const DNS: u16 = 53;

/// The table of nft that is ours as a whole.
const TABLE: &str = "outrigger";
/// What iptables takes as ports of one rule; a range counts twice.
const MULTIPORT: usize = 15;

/// What is to be redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interception {
    /// Port of the inbound listener, and which ports of this machine it stands for; `None` redirects nothing inbound.
    pub(super) inbound: Option<(u16, InboundPorts)>,
    /// Port of the outbound listener; `None` redirects nothing outbound.
    pub(super) outbound: Option<u16>,
    /// User of the sidecar, whose own connections go out as they are.
    pub(super) uid: u32,
    /// Ports of the sidecar: never redirected in any direction.
    pub(super) own: Ports,
    /// Ports of this machine that are left alone.
    pub(super) skip_inbound: Ports,
    /// Ports of others that are left alone.
    pub(super) skip_outbound: Ports,
    /// The application, if the sidecar reaches it by an address that is not loopback.
    pub(super) application: Option<SocketAddr>,
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    const fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1/128",
        }
    }

    /// From where the sidecar dials what came in by its inbound listener: a connection that must not come in again.
    /// The same addresses as `INBOUND_SOURCES` of the proxy.
    const fn inbound_source(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.6/32",
            Self::V6 => "::1/128",
        }
    }

    /// Neighbours on the wire and the metadata services of clouds, which identify a machine by its connection.
    const fn link_local(self) -> &'static [&'static str] {
        match self {
            Self::V4 => &["169.254.0.0/16"],
            Self::V6 => &["fe80::/10", "fd00:ec2::254/128"],
        }
    }
}

/// Our chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    Inbound,
    Outbound,
}

impl Chain {
    pub(super) const BOTH: [Self; 2] = [Self::Inbound, Self::Outbound];

    /// Its name for iptables, where chains of everybody share a table.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "OUTRIGGER_INBOUND",
            Self::Outbound => "OUTRIGGER_OUTBOUND",
        }
    }

    /// The rule that leads into it.
    pub(super) const fn jump(self) -> &'static str {
        match self {
            Self::Inbound => "-A PREROUTING -p tcp -j OUTRIGGER_INBOUND",
            Self::Outbound => "-A OUTPUT -p tcp -j OUTRIGGER_OUTBOUND",
        }
    }

    const fn nft_name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One rule; all its conditions must hold. Everything is about TCP.
#[derive(Clone, Debug)]
struct Rule {
    /// `None`: the same for both.
    family: Option<Family>,
    conditions: Vec<Condition>,
    verdict: Verdict,
    why: &'static str,
}

#[derive(Clone, Debug)]
enum Condition {
    Uid(u32),
    ToLoopbackDevice,
    From(String),
    To(String),
    NotTo(String),
    Ports(Ports),
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    LeaveAlone,
    Jump(Chain),
    Redirect(u16),
}

impl Interception {
    /// Chains that hold rules.
    pub(super) fn chains(&self) -> Vec<Chain> {
        let is_wanted = |chain: &Chain| match chain {
            Chain::Inbound => self.inbound.is_some(),
            Chain::Outbound => self.outbound.is_some(),
        };
        Chain::BOTH.into_iter().filter(is_wanted).collect()
    }

    fn rules(&self, chain: Chain) -> Vec<Rule> {
        match chain {
            Chain::Inbound => self.inbound_rules(),
            Chain::Outbound => self.outbound_rules(),
        }
    }

    fn inbound_rules(&self) -> Vec<Rule> {
        let Some((to, ports)) = &self.inbound else { return Vec::new() };
        let skipped = self.skip_inbound.and(self.own.ranges().iter().cloned()).and([SSH..=SSH]);
        let redirected = match ports {
            InboundPorts::All => Vec::new(),
            InboundPorts::Only(ports) => vec![Condition::Ports(ports.clone())],
        };
        vec![
            rule(
                vec![Condition::Ports(skipped)],
                Verdict::LeaveAlone,
                "own ports, SSH, and what was asked for",
            ),
            rule(redirected, Verdict::Redirect(*to), "the rest goes to the inbound listener"),
        ]
    }

    fn outbound_rules(&self) -> Vec<Rule> {
        let Some(to) = self.outbound else { return Vec::new() };
        let own = || Condition::Uid(self.uid);
        let mut rules = Vec::new();
        if self.inbound.is_some() {
            for family in Family::BOTH {
                let from = Condition::From(family.inbound_source().to_owned());
                let conditions = vec![own(), Condition::ToLoopbackDevice, from];
                rules.push(
                    rule(conditions, Verdict::LeaveAlone, "came in by the inbound listener already")
                        .only(family),
                );
            }
            if let Some(application) = self.application {
                let (family, bits) = if application.is_ipv4() { (Family::V4, 32) } else { (Family::V6, 128) };
                let to = Condition::To(format!("{}/{bits}", application.ip()));
                let port = Condition::Ports(Ports::new([application.port()..=application.port()]));
                let conditions = vec![own(), to, port];
                rules.push(
                    rule(conditions, Verdict::LeaveAlone, "the sidecar to its application").only(family),
                );
            }
            for family in Family::BOTH {
                let elsewhere = Condition::NotTo(family.loopback().to_owned());
                let conditions = vec![own(), Condition::ToLoopbackDevice, elsewhere];
                let why = "a service that calls itself comes in like others";
                rules.push(rule(conditions, Verdict::Jump(Chain::Inbound), why).only(family));
            }
        }
        rules.push(rule(vec![Condition::ToLoopbackDevice], Verdict::LeaveAlone, "within this machine"));
        rules.push(rule(vec![own()], Verdict::LeaveAlone, "what the sidecar dials"));
        for family in Family::BOTH {
            for net in [family.loopback()].iter().chain(family.link_local()) {
                let why = "loopback, neighbours, metadata services";
                rules.push(
                    rule(vec![Condition::To((*net).to_owned())], Verdict::LeaveAlone, why).only(family),
                );
            }
        }
        let skipped = self.skip_outbound.and(self.own.ranges().iter().cloned()).and([SSH..=SSH, DNS..=DNS]);
        let why = "own ports, SSH, DNS, and what was asked for";
        rules.push(rule(vec![Condition::Ports(skipped)], Verdict::LeaveAlone, why));
        rules.push(rule(Vec::new(), Verdict::Redirect(to), "the rest goes to the outbound listener"));
        rules
    }

    /// The rules of one chain, each as a line of iptables.
    pub(super) fn iptables(&self, chain: Chain, family: Family) -> Vec<String> {
        let of_family = |rule: &Rule| rule.family.is_none_or(|only| only == family);
        self.rules(chain).into_iter().filter(of_family).flat_map(|rule| rule.iptables(chain)).collect()
    }

    /// The whole as a script of nft that takes the place of what an earlier one left.
    pub(super) fn nft(&self, ipv6: bool) -> String {
        let mut text = nft_removal();
        let _ = writeln!(text, "table inet {TABLE} {{");
        for chain in self.chains() {
            let _ = writeln!(text, "  chain {} {{", chain.nft_name());
            for rule in self.rules(chain) {
                if ipv6 || rule.family != Some(Family::V6) {
                    let _ = writeln!(text, "    {} comment \"{}\"", rule.nft(), rule.why);
                }
            }
            text.push_str("  }\n");
        }
        for chain in self.chains() {
            // Numbers: the word `dstnat` is not known for every hook by every version of nft.
            let hook = match chain {
                Chain::Inbound => "prerouting",
                Chain::Outbound => "output",
            };
            let _ = writeln!(text, "  chain {hook} {{");
            let _ = writeln!(text, "    type nat hook {hook} priority -100; policy accept;");
            if !ipv6 {
                text.push_str("    meta nfproto ipv6 return\n");
            }
            let _ = writeln!(text, "    meta l4proto tcp jump {}", chain.nft_name());
            text.push_str("  }\n");
        }
        text.push_str("}\n");
        text
    }
}

/// A script of nft that removes what an earlier one left, if it did. Making the table first keeps the removal from
/// failing; nothing of this is seen before the end of the script.
pub(super) fn nft_removal() -> String {
    format!("table inet {TABLE} {{}}\ndelete table inet {TABLE}\n")
}

fn rule(conditions: Vec<Condition>, verdict: Verdict, why: &'static str) -> Rule {
    Rule { family: None, conditions, verdict, why }
}

impl Rule {
    fn only(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// More than one line if there are more ports than iptables takes in one.
    fn iptables(&self, chain: Chain) -> Vec<String> {
        let mut start = format!("-A {} -p tcp", chain.name());
        let mut ports = None;
        for condition in &self.conditions {
            let _ = match condition {
                Condition::Uid(uid) => write!(start, " -m owner --uid-owner {uid}"),
                Condition::ToLoopbackDevice => write!(start, " -o lo"),
                Condition::From(net) => write!(start, " -s {net}"),
                Condition::To(net) => write!(start, " -d {net}"),
                Condition::NotTo(net) => write!(start, " ! -d {net}"),
                Condition::Ports(these) => {
                    ports = Some(these);
                    Ok(())
                }
            };
        }
        let end = match self.verdict {
            Verdict::LeaveAlone => "-j RETURN".to_owned(),
            Verdict::Jump(to) => format!("-j {}", to.name()),
            Verdict::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        };
        match ports {
            None => vec![format!("{start} {end}")],
            Some(ports) => {
                let line = |ports: String| format!("{start} -m multiport --dports {ports} {end}");
                multiports(ports).into_iter().map(line).collect()
            }
        }
    }

    fn nft(&self) -> String {
        let ip = if self.family == Some(Family::V6) { "ip6" } else { "ip" };
        let mut text = String::new();
        let mut names_tcp = false;
        for condition in &self.conditions {
            let _ = match condition {
                Condition::Uid(uid) => write!(text, "meta skuid {uid} "),
                Condition::ToLoopbackDevice => write!(text, "oifname \"lo\" "),
                Condition::From(net) => write!(text, "{ip} saddr {net} "),
                Condition::To(net) => write!(text, "{ip} daddr {net} "),
                Condition::NotTo(net) => write!(text, "{ip} daddr != {net} "),
                Condition::Ports(ports) => {
                    names_tcp = true;
                    write!(text, "tcp dport {{ {ports} }} ")
                }
            };
        }
        match self.verdict {
            Verdict::LeaveAlone => text.push_str("return"),
            Verdict::Jump(to) => text.push_str(&format!("jump {}", to.nft_name())),
            // A port to redirect to needs a rule that names the protocol.
            Verdict::Redirect(port) => {
                let protocol = if names_tcp { "" } else { "meta l4proto tcp " };
                text.push_str(&format!("{protocol}redirect to :{port}"));
            }
        }
        text
    }
}

/// The ports in lists that iptables takes.
fn multiports(ports: &Ports) -> Vec<String> {
    let mut lists: Vec<String> = Vec::new();
    let mut room = 0;
    for range in ports.ranges() {
        let (text, needs) = if range.start() == range.end() {
            (range.start().to_string(), 1)
        } else {
            (format!("{}:{}", range.start(), range.end()), 2)
        };
        match lists.last_mut() {
            Some(list) if needs <= room => {
                list.push(',');
                list.push_str(&text);
            }
            _ => {
                room = MULTIPORT;
                lists.push(text);
            }
        }
        room -= needs;
    }
    lists
}

/// Where the sidecar reaches its application, if a rule has to know: not by loopback, which is never redirected.
pub(super) fn to_except(application: SocketAddr) -> Option<SocketAddr> {
    let is_loopback = match application.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    (!is_loopback).then_some(application)
}

#[cfg(test)]
mod tests;
