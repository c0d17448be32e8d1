//! Which connections count as redirected, and for whom they are.

use super::*;

fn redirected(original: &str, local: &str, peer: &str, side: Direction) -> bool {
    let (original, local, peer): (SocketAddr, SocketAddr, SocketAddr) =
        (original.parse().unwrap(), local.parse().unwrap(), peer.parse().unwrap());
    let own = [15001, 15006].contains(&original.port());
    is_redirected(original, local, peer, side, own)
}

#[test]
fn a_connection_that_was_going_elsewhere_is_redirected() {
    let out = |original, local, peer| redirected(original, local, peer, Direction::Outbound);
    assert!(out("10.0.0.9:80", "127.0.0.1:15001", "10.0.0.5:40000"));
    assert!(out("[fd00::9]:80", "[::1]:15001", "[fd00::5]:40000"));
    let inbound = |original, local, peer| redirected(original, local, peer, Direction::Inbound);
    assert!(inbound("10.0.0.5:8080", "10.0.0.5:15006", "10.0.0.9:40000"));
    assert!(inbound("10.0.0.6:8080", "10.0.0.5:15006", "10.0.0.9:40000"), "a second address of the machine");
}

#[test]
fn a_connection_to_a_listener_of_ours_is_never_dialed_on() {
    for side in [Direction::Inbound, Direction::Outbound] {
        for original in ["127.0.0.1:15001", "127.0.0.1:15006", "10.0.0.5:15006", "10.0.0.5:15001"] {
            assert!(!redirected(original, "10.0.0.5:15006", "10.0.0.5:40000", side), "{original}");
        }
        assert!(!redirected("10.0.0.5:15006", "127.0.0.1:15001", "10.0.0.5:40000", side));
        assert!(!redirected("10.0.0.5:0", "127.0.0.1:15001", "10.0.0.5:40000", side));
    }
    assert!(!redirected("10.0.0.6:15006", "10.0.0.5:15006", "10.0.0.9:40000", Direction::Inbound));
}

#[test]
fn the_sidecar_of_another_machine_may_have_the_same_port() {
    assert!(redirected("10.0.0.9:15006", "127.0.0.1:15001", "10.0.0.5:40000", Direction::Outbound));
}

#[test]
fn the_port_tells_whether_the_application_was_meant() {
    let application: EndpointAddress = "127.0.0.1:8080".parse().unwrap();
    assert!(is_for(&application, "10.0.0.5:8080".parse().unwrap()));
    assert!(!is_for(&application, "10.0.0.5:9090".parse().unwrap()));
    assert!(is_for(&"unix:/run/app.sock".parse().unwrap(), "10.0.0.5:9090".parse().unwrap()));
}
