//! Looks at a whole message of SWIM before the engine does. The engine takes some of a message before it finds the rest
//! unreadable; what this passes, it reads to the end.

use foca::{Header, Message};

use super::identity::Identity;
use crate::membership::core::{packet::Unreadable, tuning::MAX_SWIM};

/// What is in a message.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) header: Header<Identity>,
    /// The members that it says something about, beside its sender.
    pub(super) about: Vec<foca::Member<Identity>>,
}

/// Reads `swim` to its end.
///
/// # Errors
/// It is longer than messages are, does not end where it says, or cannot be read.
pub(super) fn scan(swim: &[u8]) -> Result<Scanned, Unreadable> {
    if swim.len() > MAX_SWIM {
        return Err(Unreadable);
    }
    let (header, mut rest) = take::<Header<Identity>>(swim)?;
    let mut about = Vec::new();
    let has_members = !matches!(header.message, Message::Broadcast | Message::Announce);
    if has_members && let Some((count, mut members)) = rest.split_first_chunk::<2>() {
        for _ in 0..u16::from_be_bytes(*count) {
            let (member, left) = take::<foca::Member<Identity>>(members)?;
            members = left;
            about.push(member);
        }
        rest = members;
    }
    if rest.is_empty() { Ok(Scanned { header, about }) } else { Err(Unreadable) }
}

fn take<T: serde::de::DeserializeOwned>(from: &[u8]) -> Result<(T, &[u8]), Unreadable> {
    postcard::take_from_bytes(from).map_err(|_| Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::core::{packet::MAX_LIFE, view::MemberId};

    fn identity(id: u64) -> Identity {
        Identity { id: MemberId(id), generation: 1, address: ([10, 0, 0, 1], 7946).into() }
    }

    /// The head of a message, and two members behind it.
    fn message(message: Message<Identity>) -> (Vec<u8>, Vec<u8>) {
        let header = Header { src: identity(1), src_incarnation: 0, dst: identity(2), message };
        let members = [3, 4].map(|id| postcard::to_allocvec(&foca::Member::alive(identity(id))).unwrap());
        (postcard::to_allocvec(&header).unwrap(), [&[0, 2][..], &members.concat()].concat())
    }

    #[test]
    fn a_message_tells_who_sent_it_and_whom_it_is_about() {
        let (head, members) = message(Message::Ping(7));
        let Scanned { header, about } = scan(&[&head[..], &members].concat()).unwrap();
        assert_eq!((header.src, header.message), (identity(1), Message::Ping(7)));
        assert_eq!(about.iter().map(|told| told.id().id).collect::<Vec<_>>(), [MemberId(3), MemberId(4)]);
        assert!(scan(&head).unwrap().about.is_empty());
    }

    #[test]
    fn what_ends_too_soon_or_too_late_is_refused_as_a_whole() {
        let (head, members) = message(Message::Gossip);
        let whole = [&head[..], &members].concat();
        for length in (0..whole.len()).filter(|length| *length != head.len()) {
            assert!(scan(&whole[..length]).is_err(), "{length}");
        }
        for behind in [&[0][..], &[0, 0], &[1; 9], &[0; MAX_SWIM]] {
            assert!(scan(&[&whole, behind].concat()).is_err(), "{}", behind.len());
        }
    }

    #[test]
    fn a_life_that_no_clock_leads_to_makes_the_whole_message_unreadable() {
        let late = |generation| Identity { generation, ..identity(3) };
        let scanned = |src: Identity, dst, message, about: Identity| {
            let head = postcard::to_allocvec(&Header { src, src_incarnation: 0, dst, message }).unwrap();
            let about = postcard::to_allocvec(&foca::Member::alive(about)).unwrap();
            scan(&[&head[..], &[0, 1], &about].concat()).is_ok()
        };
        for (generation, is_read) in [(MAX_LIFE, true), (MAX_LIFE + 1, false)] {
            let (late, one) = (late(generation), identity(1));
            assert_eq!(scanned(late.clone(), one.clone(), Message::Gossip, one.clone()), is_read);
            assert_eq!(scanned(one.clone(), late.clone(), Message::Gossip, one.clone()), is_read);
            assert_eq!(scanned(one.clone(), one.clone(), Message::Gossip, late.clone()), is_read);
            let asks = Message::PingReq { target: late, probe_number: 1 };
            assert_eq!(scanned(one.clone(), one.clone(), asks, one), is_read);
        }
    }

    #[test]
    fn an_announcement_is_a_head_alone() {
        let (head, members) = message(Message::Announce);
        assert!(scan(&head).is_ok() && scan(&[head, members].concat()).is_err());
    }
}
