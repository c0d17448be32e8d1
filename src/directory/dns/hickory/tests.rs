//! Resolution against a small DNS server on loopback, which answers from a list.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use tokio::net::UdpSocket;

use super::*;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV_TYPE: u16 = 33;

const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NX_DOMAIN: u8 = 3;
const REFUSED: u8 = 5;

#[derive(Clone)]
struct Entry {
    name: &'static str,
    kind: u16,
    code: u8,
    /// Type, TTL and data of the answers, all under the name that was asked for.
    records: Vec<(u16, u32, Vec<u8>)>,
}

fn entry(name: &'static str, kind: u16, records: Vec<(u16, u32, Vec<u8>)>) -> Entry {
    Entry { name, kind, code: NO_ERROR, records }
}

fn failing(name: &'static str, kind: u16, code: u8) -> Entry {
    Entry { name, kind, code, records: Vec::new() }
}

fn a(ttl: u32, address: [u8; 4]) -> (u16, u32, Vec<u8>) {
    (A, ttl, address.to_vec())
}

fn aaaa(ttl: u32, address: &str) -> (u16, u32, Vec<u8>) {
    (AAAA, ttl, address.parse::<Ipv6Addr>().unwrap().octets().to_vec())
}

fn srv(ttl: u32, [priority, weight, port]: [u16; 3], target: &str) -> (u16, u32, Vec<u8>) {
    let mut data: Vec<u8> = [priority, weight, port].into_iter().flat_map(u16::to_be_bytes).collect();
    data.extend(wire_name(target));
    (SRV_TYPE, ttl, data)
}

fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    wire.push(0);
    wire
}

/// The question of a query: its name in lower case, its type, and where it ends.
fn question(query: &[u8]) -> (String, u16, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + query[at] as usize;
        labels.push(String::from_utf8(query[at + 1..end].to_ascii_lowercase()).unwrap());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
}

fn answer(query: &[u8], entries: &[Entry]) -> Option<Vec<u8>> {
    let (name, kind, end) = question(query);
    let entry = match entries.iter().find(|entry| entry.name == name && entry.kind == kind) {
        Some(entry) => entry.clone(),
        None if entries.iter().any(|entry| entry.name == name) => entry_without_records(),
        None if name.starts_with("silent") => return None,
        None => failing("", kind, NX_DOMAIN),
    };
    let mut reply = query[..2].to_vec();
    // A response, recursion desired and available.
    reply.extend([0x81, 0x80 | entry.code, 0, 1, 0, entry.records.len() as u8, 0, 0, 0, 0]);
    reply.extend(&query[12..end]);
    for (kind, ttl, data) in &entry.records {
        // The name is a pointer to the question.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend((data.len() as u16).to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}

fn entry_without_records() -> Entry {
    entry("", 0, Vec::new())
}

async fn resolver(entries: Vec<Entry>) -> Resolver {
    Resolver::with_nameserver(serve(entries).await).unwrap()
}

async fn serve(entries: Vec<Entry>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let entries = Arc::new(entries);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            if let Some(reply) = answer(&buffer[..length], &entries) {
                let _ = socket.send_to(&reply, peer).await;
            }
        }
    });
    address
}

fn endpoints(answer: &Answer) -> Vec<(String, u32)> {
    answer.endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.weight)).collect()
}

fn owned(list: &[(&str, u32)]) -> Vec<(String, u32)> {
    list.iter().map(|(address, weight)| ((*address).to_owned(), *weight)).collect()
}

#[tokio::test]
async fn both_families_are_joined_sorted_under_the_lowest_ttl() {
    let resolver = resolver(vec![
        entry("web.test", A, vec![a(60, [10, 0, 0, 2]), a(60, [10, 0, 0, 1]), a(60, [10, 0, 0, 2])]),
        entry("web.test", AAAA, vec![aaaa(20, "fd00::1")]),
    ])
    .await;
    for name in ["web.test", "web.test.", "WEB.test"] {
        let answer = resolver.resolve(name, Some(80)).await.unwrap();
        let expected = owned(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("[fd00::1]:80", 1)]);
        assert_eq!(endpoints(&answer), expected, "{name}");
        assert_eq!(answer.ttl, Duration::from_secs(20));
    }
}

#[tokio::test]
async fn one_family_is_enough_even_if_the_server_fails_on_the_other() {
    let resolver = resolver(vec![
        entry("v4.test", A, vec![a(5, [10, 0, 0, 1])]),
        entry("half.test", A, vec![a(5, [10, 0, 0, 1])]),
        failing("half.test", AAAA, SERVER_FAILURE),
    ])
    .await;
    for name in ["v4.test", "half.test"] {
        let answer = resolver.resolve(name, Some(80)).await.unwrap();
        assert_eq!(endpoints(&answer), owned(&[("10.0.0.1:80", 1)]), "{name}");
    }
}

#[tokio::test]
async fn an_alias_counts_for_the_ttl() {
    // Servers send the alias and what it leads to in one answer.
    let records = vec![(CNAME, 7, wire_name("real.test")), a(90, [10, 0, 0, 1])];
    let resolver = resolver(vec![entry("alias.test", A, records)]).await;
    let answer = resolver.resolve("alias.test", Some(80)).await.unwrap();
    assert_eq!(endpoints(&answer), owned(&[("10.0.0.1:80", 1)]));
    assert_eq!(answer.ttl, Duration::from_secs(7));
}

#[tokio::test]
async fn srv_gives_ports_weights_and_priorities() {
    let resolver = resolver(vec![
        entry(
            "_http._tcp.web.test",
            SRV_TYPE,
            vec![
                srv(30, [20, 9, 81], "backup.test"),
                srv(30, [10, 5, 8080], "one.test"),
                srv(30, [10, 0, 8081], "two.test"),
                srv(30, [10, 60000, 8082], "two.test"),
                srv(30, [10, 1, 8083], "gone.test"),
            ],
        ),
        entry("one.test", A, vec![a(300, [10, 0, 0, 1])]),
        entry("two.test", A, vec![a(10, [10, 0, 0, 2])]),
        entry("two.test", AAAA, vec![aaaa(300, "fd00::2")]),
        entry("backup.test", A, vec![a(300, [10, 0, 0, 9])]),
    ])
    .await;
    let answer = resolver.resolve("_http._tcp.web.test", None).await.unwrap();
    let expected = [
        ("10.0.0.1:8080", 5),
        ("10.0.0.2:8081", 1),
        ("10.0.0.2:8082", 1000),
        ("10.0.0.9:81", 9),
        ("[fd00::2]:8081", 1),
        ("[fd00::2]:8082", 1000),
    ];
    assert_eq!(endpoints(&answer), owned(&expected));
    // Whatever the numbers of the records, the first to be asked are 0 and the next 1.
    let priorities: Vec<u8> = answer.endpoints.iter().map(|endpoint| endpoint.priority).collect();
    assert_eq!(priorities, [0, 0, 0, 1, 0, 0]);
    assert_eq!(answer.ttl, Duration::from_secs(10));
}

#[tokio::test]
async fn each_way_to_have_no_endpoints_has_its_name() {
    let resolver = resolver(vec![
        entry("empty.test", A, Vec::new()),
        failing("refused.test", A, REFUSED),
        failing("refused.test", AAAA, REFUSED),
        entry("_none._tcp.test", SRV_TYPE, vec![srv(30, [0, 0, 0], ".")]),
        entry("_gone._tcp.test", SRV_TYPE, vec![srv(30, [0, 0, 80], "gone.test")]),
    ])
    .await;
    let cases = [
        ("nobody.test", Some(80), DnsError::NoSuchName),
        ("empty.test", Some(80), DnsError::NoRecords("A or AAAA")),
        ("empty.test", None, DnsError::NoRecords("SRV")),
        ("_none._tcp.test", None, DnsError::NoRecords("SRV")),
        ("_gone._tcp.test", None, DnsError::NoSuchName),
    ];
    for (name, port, expected) in cases {
        assert_eq!(resolver.resolve(name, port).await, Err(expected), "{name}");
    }
    let refused = resolver.resolve("refused.test", Some(80)).await;
    assert!(matches!(refused, Err(DnsError::Server(_))), "{refused:?}");
    let long = resolver.resolve(&"x".repeat(64), Some(80)).await;
    assert!(matches!(long, Err(DnsError::Name(_))), "{long:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_told_from_one_that_says_no() {
    let resolver = Resolver::asking(serve(Vec::new()).await, Duration::from_millis(50)).unwrap();
    assert_eq!(resolver.resolve("silent.test", Some(80)).await, Err(DnsError::TimedOut));
}

#[tokio::test]
async fn no_server_at_all_is_an_error() {
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let resolver = Resolver::asking(closed, Duration::from_millis(50)).unwrap();
    let outcome = resolver.resolve("web.test", Some(80)).await;
    assert!(matches!(outcome, Err(DnsError::Unreachable(_) | DnsError::TimedOut)), "{outcome:?}");
}
