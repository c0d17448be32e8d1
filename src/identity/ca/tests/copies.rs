//! Copies of an authority: which may take the place of which, and what becomes of those who held it before.

use super::*;

/// What is kept elsewhere, and who looks after it.
#[derive(Default)]
struct Elsewhere(Option<Vec<u8>>);

impl Elsewhere {
    /// What a holder does: it puts a copy there, if it has one to put, and looks again.
    fn keep(&mut self, authority: &Authority) -> Result<(), CaError> {
        while let NextCopy::Put(copy) = authority.next_copy(self.0.as_deref())? {
            self.0 = Some(copy);
        }
        Ok(())
    }

    fn restore(&self, place: &Place) -> Result<Authority, CaError> {
        Authority::restore(&place.0, &key(), self.0.as_deref().unwrap(), start())
    }
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
    let restored = Authority::restore(&found.0, &key(), elsewhere.0.as_deref().unwrap(), later).unwrap();
    assert!(restored.status(later).unwrap().crl_number > last);
}

#[test]
fn a_copy_is_made_of_each_change_and_of_nothing_else() {
    let place = Place::new();
    let authority = place.init();
    let mut elsewhere = Elsewhere::default();
    elsewhere.keep(&authority).unwrap();
    elsewhere.keep(&authority).unwrap();
    assert_eq!(copied(&authority), CopyStatus { number: 1, is_kept: true, superseded_by: None });
    authority.issue(&order("web", "web-1"), start()).unwrap();
    elsewhere.keep(&authority).unwrap();
    assert_eq!(copied(&authority).number, 2);
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
    assert_eq!(found.superseded_by, Some(2));
    // Also after a restart, and without asking again.
    let opened = old.open().unwrap();
    assert!(is_superseded(&opened.issue(&order("web", "web-1"), start())));
    assert!(is_superseded(&opened.published(start())));
    assert!(is_superseded(&opened.crl(start())));
    assert!(is_superseded(&opened.next_copy(None)));
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
    let NextCopy::Put(late) = other.next_copy(elsewhere.0.as_deref()).unwrap() else { panic!() };
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
        assert!(matches!(authority.next_copy(before.as_deref()).unwrap(), NextCopy::Put(_)));
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
    let NextCopy::Put(sent) = authority.next_copy(elsewhere.0.as_deref()).unwrap() else { panic!() };
    // It arrived, and the process ended before it knew.
    elsewhere.0 = Some(sent);
    let opened = place.open().unwrap();
    opened.issue(&order("web", "web-2"), start()).unwrap();
    elsewhere.keep(&opened).unwrap();
    assert_eq!(copied(&opened), CopyStatus { number: 3, is_kept: true, superseded_by: None });
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
    let NextCopy::Put(copy) = theirs.next_copy(None).unwrap() else { panic!() };
    let authority = place.init();
    assert!(matches!(authority.next_copy(Some(&copy)), Err(CaError::WrongKey { .. })));
    authority.issue(&order("web", "web-1"), start()).unwrap();
}

#[test]
fn a_new_authority_does_not_take_the_place_of_one_that_has_a_copy() {
    let (place, new) = (Place::new(), Place::new());
    let mut elsewhere = Elsewhere::default();
    elsewhere.keep(&place.init()).unwrap();
    assert!(is_superseded(&elsewhere.keep(&new.init())));
}

#[test]
fn nothing_is_made_of_a_copy_that_is_damaged_or_of_another_key() {
    let place = Place::new();
    let NextCopy::Put(copy) = place.init().next_copy(None).unwrap() else { panic!() };
    let new = Place::new();
    for at in (0..copy.len()).step_by(7) {
        let mut changed = copy.clone();
        changed[at] ^= 1;
        assert!(Authority::restore(&new.0, &key(), &changed, start()).is_err(), "byte {at} changed");
        assert!(Authority::restore(&new.0, &key(), &copy[..at], start()).is_err(), "cut at {at}");
    }
    let stranger = MasterKey::from_hex(&"08".repeat(32), "test").unwrap();
    let wrong = Authority::restore(&new.0, &stranger, &copy, start());
    assert!(matches!(wrong, Err(CaError::WrongKey { .. })));
    assert!(!new.0.exists());
}

#[test]
fn a_copy_is_restored_into_an_empty_directory_only() {
    let place = Place::new();
    let NextCopy::Put(copy) = place.init().next_copy(None).unwrap() else { panic!() };
    let restore = || Authority::restore(&place.0, &key(), &copy, start());
    assert!(matches!(restore(), Err(CaError::Exists(_))));
    fs::remove_file(place.file("ca.state")).unwrap();
    // As an attempt leaves it that was interrupted.
    restore().unwrap();
    let other = Place::new();
    fs::create_dir(&other.0).unwrap();
    fs::write(other.file("notes.txt"), "mine").unwrap();
    let refused = Authority::restore(&other.0, &key(), &copy, start());
    assert!(matches!(refused, Err(CaError::NotEmpty(_))));
}

#[test]
fn no_key_and_no_token_is_readable_in_a_copy() {
    let place = Place::new();
    let authority = place.init();
    let token = authority.create_token(&identity("web"), HOUR, start()).unwrap();
    let NextCopy::Put(copy) = authority.next_copy(None).unwrap() else { panic!() };
    let copy = String::from_utf8(copy).unwrap();
    let secret = token.0.reveal().split('.').nth(2).unwrap().to_owned();
    assert!(!copy.contains(&secret));
    assert!(!copy.contains("PRIVATE KEY"));
}
