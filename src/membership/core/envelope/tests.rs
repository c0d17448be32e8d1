//! What is opened, and what never is.

use proptest::prelude::*;

use super::*;

fn key(digit: &str) -> GossipKey {
    GossipKey::parse(&digit.repeat(64)).unwrap()
}

fn ring() -> Keyring {
    Keyring::new(key("a"))
}

fn sealer(cluster: &str) -> Sealer {
    Sealer::new(cluster, MemberId(7), 100, 1)
}

#[test]
fn a_packet_is_opened_once() {
    let (mut sealer, mut opener) = (sealer("mesh"), Opener::new("mesh"));
    let sealed = sealer.seal(b"hello", &ring());
    assert_eq!(sealed.len(), 5 + OVERHEAD);
    assert!(!sealed.windows(5).any(|window| window == b"hello"));
    assert_eq!(opener.open(&sealed, &ring()), Ok((MemberId(7), b"hello".to_vec())));
    assert_eq!(opener.open(&sealed, &ring()), Err(Refused::Replay));
}

#[test]
fn packets_may_overtake_each_other_within_the_window() {
    let (mut sealer, mut opener) = (sealer("mesh"), Opener::new("mesh"));
    let sealed: Vec<Vec<u8>> = (0..100).map(|_| sealer.seal(b"x", &ring())).collect();
    let mut open = |at: usize| opener.open(&sealed[at], &ring()).map(|_| ());
    assert_eq!(open(70), Ok(()));
    assert_eq!(open(7), Ok(()));
    assert_eq!(open(6), Err(Refused::Replay));
    assert_eq!(open(99), Ok(()));
    assert_eq!((open(70), open(71)), (Err(Refused::Replay), Ok(())));
}

#[test]
fn packets_of_an_earlier_start_are_replays() {
    let mut opener = Opener::new("mesh");
    let old = sealer("mesh").seal(b"old", &ring());
    let new = Sealer::new("mesh", MemberId(7), 101, 0).seal(b"new", &ring());
    assert!(opener.open(&old, &ring()).is_ok() && opener.open(&new, &ring()).is_ok());
    let unseen = {
        let mut sealer = sealer("mesh");
        sealer.seal(b"1", &ring());
        sealer.seal(b"2", &ring())
    };
    assert_eq!(opener.open(&unseen, &ring()), Err(Refused::Replay));
}

#[test]
fn another_mesh_or_key_opens_nothing() {
    let sealed = sealer("mesh").seal(b"x", &ring());
    assert_eq!(Opener::new("other").open(&sealed, &ring()), Err(Refused::Seal));
    assert_eq!(Opener::new("mesh").open(&sealed, &Keyring::new(key("b"))), Err(Refused::Key));
}

#[test]
fn a_sender_may_change_its_key_at_any_packet() {
    let (mut sealer, mut opener) = (sealer("mesh"), Opener::new("mesh"));
    let mut ring = ring();
    let first = sealer.seal(b"1", &ring);
    assert!(ring.install(&key("b")) && ring.promote(KeyMark::of(&key("b"))));
    let second = sealer.seal(b"2", &ring);
    let third = sealer.seal(b"3", &ring);
    assert_eq!(opener.open(&third, &ring).unwrap().1, b"3");
    assert_eq!(opener.open(&first, &ring).unwrap().1, b"1");
    assert!(ring.remove(KeyMark::of(&key("a"))));
    assert_eq!(opener.open(&second, &ring).unwrap().1, b"2");
    assert_eq!(opener.open(&second, &ring), Err(Refused::Replay));
}

#[test]
fn what_was_opened_is_not_opened_again_because_another_key_goes() {
    let (mut sealer, mut opener) = (sealer("mesh"), Opener::new("mesh"));
    let mut ring = ring();
    let first = sealer.seal(b"1", &ring);
    assert!(ring.install(&key("b")) && ring.promote(KeyMark::of(&key("b"))));
    let second = sealer.seal(b"2", &ring);
    assert!(opener.open(&second, &ring).is_ok() && opener.open(&first, &ring).is_ok());
    assert!(ring.remove(KeyMark::of(&key("a"))));
    assert_eq!(opener.open(&second, &ring), Err(Refused::Replay));
    assert_eq!(opener.open(&first, &ring), Err(Refused::Key));
}

#[test]
fn a_start_is_later_than_an_earlier_one_under_another_key_too() {
    let mut opener = Opener::new("mesh");
    let mut ring = ring();
    let old = sealer("mesh").seal(b"old", &ring);
    assert!(ring.install(&key("b")) && ring.promote(KeyMark::of(&key("b"))));
    let new = Sealer::new("mesh", MemberId(7), 101, 0).seal(b"new", &ring);
    assert!(opener.open(&new, &ring).is_ok());
    assert_eq!(opener.open(&old, &ring), Err(Refused::Replay));
}

#[test]
fn a_start_that_no_clock_leads_to_is_refused_and_keeps_nobody_out() {
    let mut opener = Opener::new("mesh");
    for started in [MAX_LIFE + 1, u64::MAX] {
        let forged = Sealer::new("mesh", MemberId(7), started, 1).seal(b"x", &ring());
        assert_eq!(opener.open(&forged, &ring()), Err(Refused::Version), "{started}");
    }
    assert!(opener.open(&sealer("mesh").seal(b"x", &ring()), &ring()).is_ok());
}

#[test]
fn whoever_had_a_key_keeps_nobody_out_once_it_is_removed() {
    let late_start = Sealer::new("mesh", MemberId(7), MAX_LIFE, 2);
    let late_packet = Sealer { counter: u64::MAX - 1, ..sealer("mesh") };
    for mut forger in [late_start, late_packet] {
        let (mut sealer, mut opener) = (sealer("mesh"), Opener::new("mesh"));
        let mut ring = ring();
        assert!(opener.open(&sealer.seal(b"1", &ring), &ring).is_ok());
        assert!(opener.open(&forger.seal(b"x", &ring), &ring).is_ok());
        assert_eq!(opener.open(&sealer.seal(b"2", &ring), &ring), Err(Refused::Replay));
        assert!(ring.install(&key("b")) && ring.promote(KeyMark::of(&key("b"))));
        assert!(ring.remove(KeyMark::of(&key("a"))));
        let third = sealer.seal(b"3", &ring);
        assert_eq!(opener.open(&third, &ring), Ok((MemberId(7), b"3".to_vec())));
        assert_eq!(opener.open(&third, &ring), Err(Refused::Replay));
    }
}

#[test]
fn a_sender_has_a_window_for_each_key_and_no_more() {
    let (mut sealer, mut opener) = (sealer("mesh"), Opener::new("mesh"));
    let mut ring = ring();
    for digit in ["b", "c", "d", "e", "f"] {
        let before = ring.primary();
        assert!(opener.open(&sealer.seal(b"x", &ring), &ring).is_ok());
        assert!(ring.install(&key(digit)) && ring.promote(KeyMark::of(&key(digit))) && ring.remove(before));
    }
    assert!(opener.open(&sealer.seal(b"x", &ring), &ring).is_ok());
    assert_eq!(opener.senders[&MemberId(7)].len(), 1);
}

#[test]
fn the_key_that_is_sealed_with_stays_and_the_ring_is_bounded() {
    let mut ring = ring();
    assert!(!ring.remove(ring.primary()));
    for digit in 1..MAX_KEYS {
        assert!(ring.install(&key(&digit.to_string())));
    }
    assert!(!ring.install(&key("c")) && ring.install(&key("a")));
    assert!(!ring.promote(KeyMark(0)));
}

#[test]
fn a_message_is_opened_only_in_its_place() {
    let place = Place { chance: &[1; 32], way: Way::Question, number: 0, cluster: "mesh" };
    let sealed = seal_message(b"all", place, &ring()).unwrap();
    assert_eq!(open_message(&sealed, place, &ring()).unwrap(), b"all");
    for other in [
        Place { way: Way::Answer, ..place },
        Place { chance: &[2; 32], ..place },
        Place { number: 1, ..place },
        Place { cluster: "other", ..place },
    ] {
        assert_eq!(open_message(&sealed, other, &ring()), Err(Refused::Seal), "{other:?}");
    }
    assert_eq!(open_message(&sealed[..3], place, &ring()), Err(Refused::Size));
    assert_eq!(open_message(&sealed, place, &Keyring::new(key("b"))), Err(Refused::Key));
}

proptest! {
    #[test]
    fn no_changed_packet_is_opened(at in 0_usize..54, flip in 1_u8..) {
        let mut sealed = sealer("mesh").seal(b"hello", &ring());
        let length = sealed.len();
        sealed[at % length] ^= flip;
        prop_assert!(Opener::new("mesh").open(&sealed, &ring()).is_err());
    }

    #[test]
    fn no_random_packet_is_opened(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        prop_assert!(Opener::new("mesh").open(&bytes, &ring()).is_err());
    }

    #[test]
    fn no_packet_is_opened_twice_in_any_order(order in proptest::collection::vec(0_usize..40, 1..200)) {
        let (mut sealer, mut opener) = (sealer("mesh"), Opener::new("mesh"));
        let sealed: Vec<Vec<u8>> = (0..40).map(|_| sealer.seal(b"x", &ring())).collect();
        let mut opened = [0; 40];
        for at in order {
            opened[at] += usize::from(opener.open(&sealed[at], &ring()).is_ok());
        }
        prop_assert!(opened.iter().all(|times| *times <= 1));
    }
}

#[test]
fn a_mark_is_the_beginning_of_the_sha_256_of_the_key() {
    let key = GossipKey::parse(&"00".repeat(32)).unwrap();
    assert_eq!(KeyMark::of(&key).to_string(), "66687aad");
}
