//! The rules as text, compared as a whole: a changed line is a changed firewall.

use super::*;

fn interception() -> Interception {
    Interception {
        inbound: Some((15006, InboundPorts::All)),
        outbound: Some(15001),
        uid: 1337,
        own: Ports::new(OWN_PORTS),
        skip_inbound: Ports::default(),
        skip_outbound: Ports::default(),
        application: None,
    }
}

fn lines(interception: &Interception, family: Family) -> String {
    let lines: Vec<String> =
        Chain::BOTH.iter().flat_map(|chain| interception.iptables(*chain, family)).collect();
    lines.join("\n")
}

#[test]
fn everything_is_redirected_but_what_must_not_be_ipv4() {
    let expected = "\
-A OUTRIGGER_INBOUND -p tcp -m multiport --dports 22,7946:7947,15000:15020 -j RETURN
-A OUTRIGGER_INBOUND -p tcp -j REDIRECT --to-ports 15006
-A OUTRIGGER_OUTBOUND -p tcp -m owner --uid-owner 1337 -o lo -s 127.0.0.6/32 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -m owner --uid-owner 1337 -o lo ! -d 127.0.0.0/8 -j OUTRIGGER_INBOUND
-A OUTRIGGER_OUTBOUND -p tcp -o lo -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -m owner --uid-owner 1337 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -d 127.0.0.0/8 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -d 169.254.0.0/16 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -m multiport --dports 22,53,7946:7947,15000:15020 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -j REDIRECT --to-ports 15001";
    assert_eq!(lines(&interception(), Family::V4), expected);
}

#[test]
fn everything_is_redirected_but_what_must_not_be_ipv6() {
    let expected = "\
-A OUTRIGGER_INBOUND -p tcp -m multiport --dports 22,7946:7947,15000:15020 -j RETURN
-A OUTRIGGER_INBOUND -p tcp -j REDIRECT --to-ports 15006
-A OUTRIGGER_OUTBOUND -p tcp -m owner --uid-owner 1337 -o lo -s ::1/128 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -m owner --uid-owner 1337 -o lo ! -d ::1/128 -j OUTRIGGER_INBOUND
-A OUTRIGGER_OUTBOUND -p tcp -o lo -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -m owner --uid-owner 1337 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -d ::1/128 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -d fe80::/10 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -d fd00:ec2::254/128 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -m multiport --dports 22,53,7946:7947,15000:15020 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -j REDIRECT --to-ports 15001";
    assert_eq!(lines(&interception(), Family::V6), expected);
}

#[test]
fn the_script_of_nft_replaces_its_table_as_a_whole() {
    let expected = r#"table inet outrigger {}
delete table inet outrigger
table inet outrigger {
  chain inbound {
    tcp dport { 22, 7946-7947, 15000-15020 } return comment "own ports, SSH, and what was asked for"
    meta l4proto tcp redirect to :15006 comment "the rest goes to the inbound listener"
  }
  chain outbound {
    meta skuid 1337 oifname "lo" ip saddr 127.0.0.6/32 return comment "came in by the inbound listener already"
    meta skuid 1337 oifname "lo" ip6 saddr ::1/128 return comment "came in by the inbound listener already"
    meta skuid 1337 oifname "lo" ip daddr != 127.0.0.0/8 jump inbound comment "a service that calls itself comes in like others"
    meta skuid 1337 oifname "lo" ip6 daddr != ::1/128 jump inbound comment "a service that calls itself comes in like others"
    oifname "lo" return comment "within this machine"
    meta skuid 1337 return comment "what the sidecar dials"
    ip daddr 127.0.0.0/8 return comment "loopback, neighbours, metadata services"
    ip daddr 169.254.0.0/16 return comment "loopback, neighbours, metadata services"
    ip6 daddr ::1/128 return comment "loopback, neighbours, metadata services"
    ip6 daddr fe80::/10 return comment "loopback, neighbours, metadata services"
    ip6 daddr fd00:ec2::254/128 return comment "loopback, neighbours, metadata services"
    tcp dport { 22, 53, 7946-7947, 15000-15020 } return comment "own ports, SSH, DNS, and what was asked for"
    meta l4proto tcp redirect to :15001 comment "the rest goes to the outbound listener"
  }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    meta l4proto tcp jump inbound
  }
  chain output {
    type nat hook output priority -100; policy accept;
    meta l4proto tcp jump outbound
  }
}
"#;
    assert_eq!(interception().nft(true), expected);
}

#[test]
fn without_ipv6_nft_leaves_it_alone() {
    let script = interception().nft(false);
    assert_eq!(script.matches("meta nfproto ipv6 return").count(), 2, "{script}");
    assert!(!script.contains("ip6 "), "{script}");
}

#[test]
fn only_the_ports_that_were_asked_for_come_in() {
    let ports = InboundPorts::Only("8080,9000-9010".parse().unwrap());
    let only = Interception { inbound: Some((15006, ports)), ..interception() };
    let text = lines(&only, Family::V4);
    assert!(
        text.contains("--dports 8080,9000:9010 -j REDIRECT --to-ports 15006\n")
            && !text.contains("-A OUTRIGGER_INBOUND -p tcp -j REDIRECT"),
        "{text}"
    );
    let script = only.nft(true);
    assert!(script.contains("tcp dport { 8080, 9000-9010 } redirect to :15006 comment"), "{script}");
}

#[test]
fn ports_to_leave_alone_are_left_alone_on_their_side() {
    let skipping = Interception {
        skip_inbound: "9090".parse().unwrap(),
        skip_outbound: "3306,5432".parse().unwrap(),
        ..interception()
    };
    let text = lines(&skipping, Family::V4);
    assert!(
        text.contains(
            "-A OUTRIGGER_INBOUND -p tcp -m multiport --dports 22,7946:7947,9090,15000:15020 -j RETURN"
        ),
        "{text}"
    );
    assert!(text.contains("--dports 22,53,3306,5432,7946:7947,15000:15020 -j RETURN"), "{text}");
}

#[test]
fn a_direction_without_a_listener_gets_no_rules() {
    let outbound_only = Interception { inbound: None, ..interception() };
    assert_eq!(outbound_only.chains(), [Chain::Outbound]);
    assert!(
        !lines(&outbound_only, Family::V4).contains("INBOUND"),
        "nothing leads to a chain that is not there"
    );
    assert!(!outbound_only.nft(true).contains("inbound {"));
    let inbound_only = Interception { outbound: None, ..interception() };
    assert_eq!(inbound_only.chains(), [Chain::Inbound]);
    assert!(!inbound_only.nft(true).contains("hook output"));
}

#[test]
fn an_application_beside_loopback_is_reached_without_coming_in_again() {
    let application = to_except("10.0.0.5:8080".parse().unwrap());
    let text = lines(&Interception { application, ..interception() }, Family::V4);
    let past = "-m owner --uid-owner 1337 -d 10.0.0.5/32 -m multiport --dports 8080 -j RETURN";
    assert!(text.find(past) < text.find("! -d 127.0.0.0/8 -j OUTRIGGER_INBOUND"), "{text}");
    assert!(text.contains(past), "{text}");
    let v6 = to_except("[fd00::5]:8080".parse().unwrap());
    assert!(
        lines(&Interception { application: v6, ..interception() }, Family::V6).contains("-d fd00::5/128")
    );
    assert!(!lines(&Interception { application: v6, ..interception() }, Family::V4).contains("fd00"));
    assert_eq!(to_except("127.0.0.1:8080".parse().unwrap()), None);
}

#[test]
fn more_ports_than_one_rule_takes_go_into_several() {
    let ports: Ports =
        (0..20).map(|n| format!("{}", 100 + 2 * n)).collect::<Vec<_>>().join(",").parse().unwrap();
    let lists = multiports(&ports);
    assert_eq!(lists.iter().map(|list| list.split(',').count()).collect::<Vec<_>>(), [15, 5]);
    let ranges: Ports = (0..8)
        .map(|n| format!("{}-{}", 100 + 10 * n, 105 + 10 * n))
        .collect::<Vec<_>>()
        .join(",")
        .parse()
        .unwrap();
    assert_eq!(multiports(&ranges).iter().map(|list| list.split(',').count()).collect::<Vec<_>>(), [7, 1]);
}
