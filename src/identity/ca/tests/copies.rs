//! Copies of an authority: which may take the place of which, and what becomes of those who held it before.

use super::*;

/// What is kept elsewhere, and who looks after it.
#[derive(Default)]
struct Elsewhere(Option<Vec<u8>>);

impl Elsewhere {
    /// What a holder does: it puts a copy there, if it has one to put, and looks again.
    fn keep(&mut self, authority: &Authority) -> Result<(), CaError> {
        while let NextCopy::Put(copy) = authority.next_copy(self.0.as_deref(), start())? {
            self.0 = Some(copy);
        }
        Ok(())
    }

    fn restore(&self, place: &Place) -> Result<Authority, CaError> {
        restore(&place.0, self.0.as_deref().unwrap(), start())
    }
}

fn restore(directory: &Path, copy: &[u8], now: SystemTime) -> Result<Authority, CaError> {
    Authority::restore(directory, &key(), copy, now).map(|restored| restored.authority)
}

fn number(term: u64, number: u64) -> CopyNumber {
    CopyNumber { term, number }
}

fn copied(authority: &Authority) -> CopyStatus {
    authority.status(start()).unwrap().copy.unwrap()
}

fn is_superseded<T>(outcome: &Result<T, CaError>) -> bool {
    matches!(outcome, Err(CaError::Superseded { .. }))
}

#[test]
fn an_authority_is_restored_from_its_copy_with_all_that_it_knows() {
    let (lost, found) = (Place::new(), Place::new());
    let authority = lost.init();
    let web = authority.issue(&order("web", "web-1"), start()).unwrap().signed.leaf;
    authority.revoke(web.serial, Reason::KeyCompromise, start()).unwrap();
    let api = authority.issue(&order("api", "api-1"), start()).unwrap().signed.leaf;
    authority.rotate(Force::No, start()).unwrap();
    let mut elsewhere = Elsewhere::default();
    elsewhere.keep(&authority).unwrap();
    drop(lost);

    let restored = elsewhere.restore(&found).unwrap();
    let status = restored.status(start()).unwrap();
    assert_eq!(status.roots.len(), 2);
    assert!(status.leaves.iter().any(|leaf| leaf.serial == api.serial && leaf.revoked.is_none()));
    assert!(status.leaves.iter().any(|leaf| leaf.serial == web.serial && leaf.revoked.is_some()));
    assert_eq!(status.stale_copies, Vec::<PathBuf>::new());
    restored.issue(&order("web", "web-2"), start()).unwrap();
    found.open().unwrap().rotate(Force::Yes, start()).unwrap();
    for file in ["ca.state", "copy.state", "root-1.key", "root-2.key"] {
        let mode = fs::metadata(found.file(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn lists_of_a_restored_authority_have_later_numbers_than_those_that_the_lost_one_may_have_made() {
    let (lost, found) = (Place::new(), Place::new());
    let authority = lost.init();
    let mut elsewhere = Elsewhere::default();
    elsewhere.keep(&authority).unwrap();
    let leaf = authority.issue(&order("web", "web-1"), start()).unwrap().signed.leaf;
    authority.revoke(leaf.serial, Reason::Unspecified, start()).unwrap();
    let last = authority.status(start()).unwrap().crl_number;
    let later = start() + DAY;
    let restored = restore(&found.0, elsewhere.0.as_deref().unwrap(), later).unwrap();
    assert!(restored.status(later).unwrap().crl_number > last);
}

#[test]
fn a_copy_is_made_of_each_change_and_of_nothing_else() {
    let place = Place::new();
    let authority = place.init();
    let mut elsewhere = Elsewhere::default();
    elsewhere.keep(&authority).unwrap();
    elsewhere.keep(&authority).unwrap();
    let kept = CopyStatus { last: number(0, 1), is_kept: true, is_current: true, superseded_by: None };
    assert_eq!(copied(&authority), kept);
    authority.issue(&order("web", "web-1"), start()).unwrap();
    assert_eq!(copied(&authority), CopyStatus { is_current: false, ..kept });
    elsewhere.keep(&authority).unwrap();
    assert_eq!(copied(&authority), CopyStatus { last: number(0, 2), ..kept });
}

#[test]
fn whoever_held_an_authority_before_signs_nothing_more_once_it_hears_of_the_first_copy_of_the_next() {
    let (old, new) = (Place::new(), Place::new());
    let (authority, mut elsewhere) = (old.init(), Elsewhere::default());
    elsewhere.keep(&authority).unwrap();
    let restored = elsewhere.restore(&new).unwrap();
    // Until the new one has said that it is there, the old one goes on.
    elsewhere.keep(&authority).unwrap();
    restored.issue(&order("web", "web-1"), start()).unwrap();
    elsewhere.keep(&restored).unwrap();

    assert!(is_superseded(&elsewhere.keep(&authority)));
    let found = copied(&authority);
    assert_eq!(found.superseded_by, Some(number(1, 2)));
    // Also after a restart, and without asking again.
    let opened = old.open().unwrap();
    assert!(is_superseded(&opened.issue(&order("web", "web-1"), start())));
    assert!(is_superseded(&opened.published(start())));
    assert!(is_superseded(&opened.crl(start())));
    assert!(is_superseded(&opened.next_copy(None, start())));
    elsewhere.keep(&restored).unwrap();
    restored.issue(&order("web", "web-1"), start()).unwrap();
}

#[test]
fn of_two_who_restored_the_same_copy_the_first_to_say_so_holds_the_authority() {
    let (lost, one, other) = (Place::new(), Place::new(), Place::new());
    let (authority, mut elsewhere) = (lost.init(), Elsewhere::default());
    elsewhere.keep(&authority).unwrap();
    let (one, other) = (elsewhere.restore(&one).unwrap(), elsewhere.restore(&other).unwrap());
    for holder in [&one, &other] {
        holder.issue(&order("web", "web-1"), start()).unwrap();
    }
    // The other one made its copy, and lost the comparison.
    let NextCopy::Put(late) = other.next_copy(elsewhere.0.as_deref(), start()).unwrap() else { panic!() };
    elsewhere.keep(&one).unwrap();
    assert_ne!(elsewhere.0.as_deref(), Some(late.as_slice()));
    assert!(is_superseded(&elsewhere.keep(&other)));
    elsewhere.keep(&one).unwrap();
}

#[test]
fn a_holder_that_is_cut_off_does_not_outnumber_the_next_one() {
    let (old, new) = (Place::new(), Place::new());
    let (authority, mut elsewhere) = (old.init(), Elsewhere::default());
    elsewhere.keep(&authority).unwrap();
    let restored = elsewhere.restore(&new).unwrap();
    // It sees what was there before, and none of its copies arrives.
    let before = elsewhere.0.clone();
    for node in 1..5 {
        authority.issue(&order("web", &format!("web-{node}")), start()).unwrap();
        assert!(matches!(authority.next_copy(before.as_deref(), start()).unwrap(), NextCopy::Put(_)));
    }
    restored.issue(&order("web", "web-1"), start()).unwrap();
    elsewhere.keep(&restored).unwrap();
    assert!(is_superseded(&elsewhere.keep(&authority)));
}

#[test]
fn a_copy_whose_fate_is_unknown_is_told_from_that_of_another() {
    let place = Place::new();
    let authority = place.init();
    let mut elsewhere = Elsewhere::default();
    elsewhere.keep(&authority).unwrap();
    authority.issue(&order("web", "web-1"), start()).unwrap();
    let NextCopy::Put(sent) = authority.next_copy(elsewhere.0.as_deref(), start()).unwrap() else { panic!() };
    // It arrived, and the process ended before it knew.
    elsewhere.0 = Some(sent);
    let opened = place.open().unwrap();
    opened.issue(&order("web", "web-2"), start()).unwrap();
    elsewhere.keep(&opened).unwrap();
    let kept = CopyStatus { last: number(0, 3), is_kept: true, is_current: true, superseded_by: None };
    assert_eq!(copied(&opened), kept);
}

#[test]
fn what_was_removed_put_back_or_is_no_copy_is_replaced() {
    let place = Place::new();
    let authority = place.init();
    let mut elsewhere = Elsewhere::default();
    elsewhere.keep(&authority).unwrap();
    let old = elsewhere.0.clone();
    authority.issue(&order("web", "web-1"), start()).unwrap();
    elsewhere.keep(&authority).unwrap();
    let mut flipped = elsewhere.0.clone().unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    for there in [None, old, Some(b"nonsense".to_vec()), Some(Vec::new()), Some(flipped)] {
        elsewhere.0 = there;
        elsewhere.keep(&authority).unwrap();
        let restored = Place::new();
        let leaves = elsewhere.restore(&restored).unwrap().status(start()).unwrap().leaves;
        assert_eq!(leaves.len(), 1);
    }
}

#[test]
fn a_copy_of_another_key_is_left_alone() {
    let (place, others) = (Place::new(), Place::new());
    let stranger = MasterKey::from_hex(&"08".repeat(32), "test").unwrap();
    let theirs = Authority::init(&others.0, &stranger, &params(), start()).unwrap();
    let NextCopy::Put(copy) = theirs.next_copy(None, start()).unwrap() else { panic!() };
    let authority = place.init();
    assert!(matches!(authority.next_copy(Some(&copy), start()), Err(CaError::WrongKey { .. })));
    authority.issue(&order("web", "web-1"), start()).unwrap();
}

#[test]
fn an_old_backup_of_a_directory_does_not_take_the_place_of_a_later_state() {
    let place = Place::new();
    let (authority, mut elsewhere) = (place.init(), Elsewhere::default());
    elsewhere.keep(&authority).unwrap();
    let backup = ["ca.state", "copy.state"].map(|name| (name, fs::read(place.file(name)).unwrap()));
    authority.issue(&order("web", "web-1"), start()).unwrap();
    elsewhere.keep(&authority).unwrap();
    for (name, content) in backup {
        fs::write(place.file(name), content).unwrap();
    }
    assert!(is_superseded(&elsewhere.keep(&authority)));
    // Also one from before there were copies.
    fs::remove_file(place.file("copy.state")).unwrap();
    assert!(is_superseded(&elsewhere.keep(&authority)));
}

#[test]
fn another_authority_with_the_same_key_leaves_the_copy_alone_and_signs_on() {
    let (place, new) = (Place::new(), Place::new());
    let (old, mut elsewhere) = (place.init(), Elsewhere::default());
    elsewhere.keep(&old).unwrap();
    let authority = new.init();
    assert!(matches!(elsewhere.keep(&authority), Err(CaError::OtherAuthority(_))));
    authority.issue(&order("web", "web-1"), start()).unwrap();
    // As `kv rm` does; the old one that comes back does not take the place of the new one.
    elsewhere.0 = None;
    elsewhere.keep(&authority).unwrap();
    assert!(matches!(elsewhere.keep(&old), Err(CaError::OtherAuthority(_))));
    elsewhere.keep(&authority).unwrap();
}

#[test]
fn a_successor_made_of_an_older_copy_holds_the_authority_all_the_same() {
    let (lost, new) = (Place::new(), Place::new());
    let (authority, mut elsewhere) = (lost.init(), Elsewhere::default());
    elsewhere.keep(&authority).unwrap();
    let older = elsewhere.0.clone().unwrap();
    for node in 1..5 {
        authority.issue(&order("web", &format!("web-{node}")), start()).unwrap();
        elsewhere.keep(&authority).unwrap();
    }
    // Without a quorum, one that lags behind was all that could be had.
    let restored = restore(&new.0, &older, start()).unwrap();
    restored.issue(&order("api", "api-1"), start()).unwrap();
    elsewhere.keep(&restored).unwrap();
    assert!(is_superseded(&elsewhere.keep(&authority)));
    elsewhere.keep(&restored).unwrap();
}

#[test]
fn a_store_that_was_set_back_does_not_give_the_authority_back_to_the_lost_one() {
    let (lost, new) = (Place::new(), Place::new());
    let (authority, mut elsewhere) = (lost.init(), Elsewhere::default());
    elsewhere.keep(&authority).unwrap();
    let set_back = elsewhere.0.clone();
    for node in 1..5 {
        authority.issue(&order("web", &format!("web-{node}")), start()).unwrap();
        elsewhere.keep(&authority).unwrap();
    }
    elsewhere.0 = set_back;
    let restored = elsewhere.restore(&new).unwrap();
    elsewhere.keep(&restored).unwrap();
    assert!(is_superseded(&elsewhere.keep(&authority)));
}

#[test]
fn a_copy_of_a_later_version_says_who_holds_the_authority_and_is_not_replaced() {
    let (old, new) = (Place::new(), Place::new());
    let (authority, mut elsewhere) = (old.init(), Elsewhere::default());
    elsewhere.keep(&authority).unwrap();
    let restored = elsewhere.restore(&new).unwrap();
    elsewhere.keep(&restored).unwrap();
    let signed = elsewhere.0.take().unwrap();
    let (_, body) = signed.split_at(signed.iter().position(|byte| *byte == b'\n').unwrap() + 1);
    let mut body: serde_json::Value = serde_json::from_slice(body).unwrap();
    body["state"]["more"] = true.into();
    let later = restored.keys().sign("outrigger-ca-copy 1 hmac-sha256", body.to_string().as_bytes());
    let third = Place::new();
    assert!(matches!(restore(&third.0, &later, start()), Err(CaError::OtherVersion { .. })));
    assert!(is_superseded(&authority.next_copy(Some(&later), start())));
    // One that cannot even be told whose it is.
    let strange = restored.keys().sign("outrigger-ca-copy 1 hmac-sha256", b"{}");
    assert!(matches!(restored.next_copy(Some(&strange), start()), Err(CaError::OtherVersion { .. })));
}

#[test]
fn what_has_ended_has_no_place_in_a_copy() {
    let (place, new) = (Place::new(), Place::new());
    let authority = place.init();
    for node in 1..20 {
        let order = Order { ttl: Some(HOUR), ..order("web", &format!("web-{node}")) };
        authority.issue(&order, start()).unwrap();
    }
    let later = start() + 2 * HOUR;
    authority.issue(&order("api", "api-1"), later).unwrap();
    let NextCopy::Put(copy) = authority.next_copy(None, later).unwrap() else { panic!() };
    assert!(copy.len() < 3000, "{}", copy.len());
    let leaves = restore(&new.0, &copy, later).unwrap().status(later).unwrap().leaves;
    assert_eq!(leaves.len(), 1);
}

#[test]
fn a_new_authority_does_not_begin_where_an_attempt_to_restore_ended() {
    let (lost, place) = (Place::new(), Place::new());
    let mut elsewhere = Elsewhere::default();
    elsewhere.keep(&lost.init()).unwrap();
    elsewhere.restore(&place).unwrap();
    fs::remove_file(place.file("ca.state")).unwrap();
    let authority = place.init();
    assert_eq!(authority.status(start()).unwrap().copy, None);
    assert!(matches!(elsewhere.keep(&authority), Err(CaError::OtherAuthority(_))));
}

#[test]
fn nothing_is_made_of_a_copy_that_is_damaged_or_of_another_key() {
    let place = Place::new();
    let NextCopy::Put(copy) = place.init().next_copy(None, start()).unwrap() else { panic!() };
    let new = Place::new();
    for at in (0..copy.len()).step_by(7) {
        let mut changed = copy.clone();
        changed[at] ^= 1;
        assert!(restore(&new.0, &changed, start()).is_err(), "byte {at} changed");
        assert!(restore(&new.0, &copy[..at], start()).is_err(), "cut at {at}");
    }
    let stranger = MasterKey::from_hex(&"08".repeat(32), "test").unwrap();
    let wrong = Authority::restore(&new.0, &stranger, &copy, start());
    assert!(matches!(wrong, Err(CaError::WrongKey { .. })));
    assert!(!new.0.exists());
}

#[test]
fn a_copy_is_restored_into_an_empty_directory_only() {
    let place = Place::new();
    let NextCopy::Put(copy) = place.init().next_copy(None, start()).unwrap() else { panic!() };
    let again = || restore(&place.0, &copy, start());
    assert!(matches!(again(), Err(CaError::Exists(_))));
    fs::remove_file(place.file("ca.state")).unwrap();
    // As an attempt leaves it that was interrupted.
    again().unwrap();
    let other = Place::new();
    fs::create_dir(&other.0).unwrap();
    fs::write(other.file("notes.txt"), "mine").unwrap();
    let refused = restore(&other.0, &copy, start());
    assert!(matches!(refused, Err(CaError::NotEmpty(_))));
}

#[test]
fn no_key_and_no_token_is_readable_in_a_copy() {
    let place = Place::new();
    let authority = place.init();
    let token = authority.create_token(&identity("web"), HOUR, start()).unwrap();
    let NextCopy::Put(copy) = authority.next_copy(None, start()).unwrap() else { panic!() };
    let copy = String::from_utf8(copy).unwrap();
    let secret = token.0.reveal().split('.').nth(2).unwrap().to_owned();
    assert!(!copy.contains(&secret));
    assert!(!copy.contains("PRIVATE KEY"));
}
