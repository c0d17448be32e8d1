//! News that travel along with whatever is sent: each is sent on a bounded number of times, the least sent first, and newer
//! news about the same thing take its place. Facts go before accusations, of which there may be more than room
//! where many packets are lost. (SWIM §4.1; memberlist's transmit-limited queue.) What a member accuses others of itself
//! goes along for as long as it does: whoever knows better answers.

use super::{
    packet::{Item, Topic},
    view::MemberId,
};

/// News that are kept to be sent; the one that was sent most goes when there are more. A push/pull mends what is lost.
const MAX_ITEMS: usize = 2048;

/// Pieces of news, each with how often it was sent.
#[derive(Debug)]
pub struct Broadcasts {
    /// Whose they are.
    own: MemberId,
    queue: Vec<Entry>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    sent: u8,
    /// Later news first among those that were sent as often.
    order: u64,
    topic: Topic,
    /// If it is an accusation: of which life, since it spoke up for the how-manieth time.
    life: (u64, u16),
    bytes: Vec<u8>,
}

impl Broadcasts {
    /// Of member `own`, and nothing to tell.
    #[must_use]
    pub fn new(own: MemberId) -> Self {
        Self { own, queue: Vec::new(), next: 0 }
    }

    /// Whether something has been sent fewer than `limit` times, so that packets must be sent for it.
    #[must_use]
    pub fn is_pressing(&self, limit: u8) -> bool {
        self.queue.iter().any(|entry| entry.sent < limit)
    }

    /// Adds `item`; what is in the queue about its topic is forgotten.
    pub fn add(&mut self, item: &Item) {
        let topic = item.topic();
        self.queue.retain(|entry| entry.topic != topic);
        if self.queue.len() >= MAX_ITEMS
            && let Some(most) = (0..self.queue.len()).max_by_key(|at| self.queue[*at].sent)
        {
            self.queue.swap_remove(most);
        }
        self.next += 1;
        let life = match item {
            Item::Accusation(accusation) => (accusation.generation, accusation.incarnation),
            _ => (0, 0),
        };
        self.queue.push(Entry { sent: 0, order: self.next, topic, life, bytes: item.encode() });
    }

    /// Tells no longer who accuses `target` of before `life`, which is its generation and incarnation: that is settled.
    pub fn acquit(&mut self, target: MemberId, life: (u64, u16)) {
        self.queue.retain(|entry| {
            !matches!(entry.topic, Topic::Accusation(_, accused) if accused == target) || entry.life >= life
        });
    }

    /// This member accuses nobody any more.
    pub fn recant(&mut self) {
        let own = self.own;
        self.queue.retain(|entry| !matches!(entry.topic, Topic::Accusation(accuser, _) if accuser == own));
    }

    /// Appends to `out` as many as `room` bytes take, and counts them as sent; those that were sent `limit` times are
    /// forgotten, but for this member's own accusations, which stand until they are settled.
    pub fn fill(&mut self, out: &mut Vec<u8>, room: usize, limit: u8) {
        if self.queue.is_empty() {
            return;
        }
        self.queue.sort_unstable_by_key(|entry| {
            let is_accusation = matches!(entry.topic, Topic::Accusation(..));
            (is_accusation, entry.sent, std::cmp::Reverse(entry.order))
        });
        let mut left = room;
        for entry in &mut self.queue {
            if entry.bytes.len() <= left {
                out.extend_from_slice(&entry.bytes);
                left -= entry.bytes.len();
                entry.sent = entry.sent.saturating_add(1);
            }
        }
        let own = self.own;
        self.queue.retain(|entry| {
            entry.sent < limit || matches!(entry.topic, Topic::Accusation(accuser, _) if accuser == own)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::core::{packet::Accusation, view::MemberId};

    fn item(target: u64, incarnation: u16) -> Item {
        Item::Accusation(Accusation {
            accuser: MemberId(1),
            target: MemberId(target),
            generation: 1,
            incarnation,
        })
    }

    fn sent(broadcasts: &mut Broadcasts, room: usize) -> usize {
        let mut out = Vec::new();
        broadcasts.fill(&mut out, room, 3);
        out.len()
    }

    #[test]
    fn each_piece_of_news_is_sent_a_bounded_number_of_times() {
        let mut broadcasts = Broadcasts::new(MemberId(0));
        broadcasts.add(&item(2, 0));
        let sizes: Vec<usize> = (0..4).map(|_| sent(&mut broadcasts, 1000)).collect();
        assert!(sizes[..3].iter().all(|size| *size > 0) && sizes[3] == 0, "{sizes:?}");
        assert!(broadcasts.queue.is_empty());
    }

    #[test]
    fn newer_news_take_the_place_of_older_about_the_same() {
        let mut broadcasts = Broadcasts::new(MemberId(0));
        broadcasts.add(&item(2, 0));
        let one = sent(&mut broadcasts, 1000);
        broadcasts.add(&item(2, 1));
        assert_eq!(sent(&mut broadcasts, 1000), one);
        broadcasts.add(&item(3, 0));
        assert_eq!(sent(&mut broadcasts, 1000), 2 * one);
    }

    #[test]
    fn the_least_sent_goes_first_when_room_is_short() {
        let mut broadcasts = Broadcasts::new(MemberId(0));
        broadcasts.add(&item(2, 0));
        let one = sent(&mut broadcasts, 1000);
        broadcasts.add(&item(3, 0));
        // Each of both is sent three times in all: one is on its second already.
        let rounds =
            std::iter::repeat_with(|| sent(&mut broadcasts, one)).take_while(|size| *size > 0).count();
        assert_eq!(rounds, 5);
    }

    #[test]
    fn who_accuses_whom_is_not_told_when_that_is_settled() {
        let mut broadcasts = Broadcasts::new(MemberId(0));
        broadcasts.add(&item(2, 0));
        broadcasts.add(&item(3, 0));
        broadcasts.acquit(MemberId(2), (1, 1));
        assert_eq!(broadcasts.queue.len(), 1);
        broadcasts.acquit(MemberId(3), (1, 0));
        assert_eq!(broadcasts.queue.len(), 1);
        broadcasts.acquit(MemberId(3), (1, 1));
        assert!(broadcasts.queue.is_empty());
    }

    #[test]
    fn an_accusation_of_ones_own_goes_along_until_it_is_settled_but_presses_no_longer() {
        let mut broadcasts = Broadcasts::new(MemberId(1));
        broadcasts.add(&item(2, 0));
        assert!(broadcasts.is_pressing(3));
        assert!((0..300).all(|_| sent(&mut broadcasts, 1000) > 0));
        assert!(!broadcasts.is_pressing(3));
        broadcasts.acquit(MemberId(2), (1, 1));
        assert_eq!(sent(&mut broadcasts, 1000), 0);
        broadcasts.add(&item(2, 1));
        broadcasts.recant();
        assert_eq!(sent(&mut broadcasts, 1000), 0);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut broadcasts = Broadcasts::new(MemberId(0));
        (0..MAX_ITEMS as u64 + 10).for_each(|target| broadcasts.add(&item(target, 0)));
        assert_eq!(broadcasts.queue.len(), MAX_ITEMS);
    }
}
