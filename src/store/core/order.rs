//! Whether an order of an operator about who has the log may be carried out, and what its steps are. Pure: the leader shows
//! how things are, and carries the steps out one after the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::autopilot::Step;

/// What an operator orders. Nodes are named by id or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// A server gets the log, and stands by. Whether it votes is decided as for all others.
    Add(String),
    /// A server votes no longer and has the log no longer, for ever.
    Remove(String),
    /// Another voter leads: this one, or the one that is furthest on.
    Transfer(Option<String>),
}

/// Why an order is not carried out; nothing has changed, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OrderError {
    /// Nobody is called that.
    #[error("there is no node `{0}`, neither in the store nor alive in the mesh")]
    Unknown(String),
    /// Several are.
    #[error("several nodes are called `{0}`: name it by its id (outrigger raft members)")]
    Ambiguous(String),
    /// It may not vote.
    #[error("`{0}` is a client of the store: with `store.mode: server` it may have the log")]
    Client(String),
    /// It has the log of another epoch.
    #[error("`{0}` has the log of another epoch of the store: restart it first, and it puts that aside")]
    OtherEpoch(String),
    /// It was removed.
    #[error(
        "`{0}` was removed for ever: empty its store.data_dir and mesh.data_dir, and it comes as a new node"
    )]
    Tombstoned(String),
    /// It is there already.
    #[error("`{0}` has the log already")]
    AlreadyThere(String),
    /// It has no part in the store.
    #[error("`{0}` has no part in the store")]
    NotThere(String),
    /// It does not vote.
    #[error("`{0}` does not vote: only a voter can lead")]
    NotAVoter(String),
    /// It leads.
    #[error("`{0}` leads: have another one lead first (outrigger raft transfer-leader)")]
    Leads(String),
    /// It leads already.
    #[error("`{0}` leads already")]
    LeadsAlready(String),
    /// It does not answer.
    #[error("`{0}` does not answer the leader")]
    Silent(String),
    /// Nobody else could lead.
    #[error("no other voter answers the leader")]
    Alone,
    /// Too few would be left.
    #[error(
        "without `{node}` the store would lose its quorum: {left} of {voters} voters that are left answer, and {quorum} decide"
    )]
    LosesQuorum {
        /// Who is to go.
        node: String,
        /// How many others answer.
        left: usize,
        /// How many voters there would be.
        voters: usize,
        /// How many of those decide.
        quorum: usize,
    },
    /// A change is under way.
    #[error("the voters are being changed at this moment: try again")]
    Changing,
    /// A step failed. Those before it have happened.
    #[error("it was begun, and failed: {0} (outrigger raft members tells how it is)")]
    Failed(String),
}

impl OrderError {
    /// Whether it names nobody.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::NotThere(_))
    }
}

/// How things are, as the leader sees them.
#[derive(Clone, Debug, Default)]
pub struct Roll {
    /// Who leads.
    pub leader: u64,
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Who has the log without a vote.
    pub learners: BTreeSet<u64>,
    /// All of those, and all others in the mesh.
    pub nodes: BTreeMap<u64, Entry>,
    /// Who was removed for ever.
    pub tombstones: BTreeSet<u64>,
    /// Whether a change is under way.
    pub is_changing: bool,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it may vote.
    pub is_server: bool,
    /// Whether it has the log of this epoch, or none.
    pub is_fit: bool,
    /// Whether it is alive for the mesh.
    pub is_alive: bool,
    /// Whether it has answered the leader just now.
    pub is_heard: bool,
    /// How far it has the log.
    pub matching: u64,
}

/// The steps by which `order` is carried out.
///
/// # Errors
/// See [`OrderError`].
pub fn steps(order: &Order, roll: &Roll) -> Result<Vec<Step>, OrderError> {
    if roll.is_changing {
        return Err(OrderError::Changing);
    }
    match order {
        Order::Add(name) => add(roll, name),
        Order::Remove(name) => remove(roll, name),
        Order::Transfer(Some(name)) => transfer(roll, name),
        Order::Transfer(None) => hand_over(roll),
    }
}

fn add(roll: &Roll, name: &str) -> Result<Vec<Step>, OrderError> {
    let has_seat = |id: u64| roll.voters.contains(&id) || roll.learners.contains(&id);
    let (id, entry) = roll.find(name, |id| !has_seat(id))?;
    if has_seat(id) {
        return Err(OrderError::AlreadyThere(name.to_owned()));
    }
    if roll.tombstones.contains(&id) {
        return Err(OrderError::Tombstoned(name.to_owned()));
    }
    if !entry.is_server {
        return Err(OrderError::Client(name.to_owned()));
    }
    if !entry.is_fit {
        return Err(OrderError::OtherEpoch(name.to_owned()));
    }
    if !entry.is_alive {
        return Err(OrderError::Silent(name.to_owned()));
    }
    Ok(vec![Step::AddLearner(id)])
}

fn remove(roll: &Roll, name: &str) -> Result<Vec<Step>, OrderError> {
    let (id, _) = roll.find(name, |id| roll.voters.contains(&id) || roll.learners.contains(&id))?;
    if id == roll.leader {
        return Err(OrderError::Leads(name.to_owned()));
    }
    if roll.learners.contains(&id) {
        return Ok(vec![Step::Bury(id)]);
    }
    if !roll.voters.contains(&id) {
        return Err(OrderError::NotThere(name.to_owned()));
    }
    let voters = roll.voters.len() - 1;
    let left = roll.voters.iter().filter(|voter| **voter != id && roll.is_heard(**voter)).count();
    let quorum = voters / 2 + 1;
    if left < quorum {
        return Err(OrderError::LosesQuorum { node: name.to_owned(), left, voters, quorum });
    }
    Ok(vec![Step::Demote(id), Step::Bury(id)])
}

fn transfer(roll: &Roll, name: &str) -> Result<Vec<Step>, OrderError> {
    let (id, _) = roll.find(name, |id| roll.voters.contains(&id))?;
    if id == roll.leader {
        return Err(OrderError::LeadsAlready(name.to_owned()));
    }
    if !roll.voters.contains(&id) {
        return Err(OrderError::NotAVoter(name.to_owned()));
    }
    if !roll.is_heard(id) {
        return Err(OrderError::Silent(name.to_owned()));
    }
    Ok(vec![Step::TransferLeadership(id)])
}

fn hand_over(roll: &Roll) -> Result<Vec<Step>, OrderError> {
    let others = roll.voters.iter().filter(|id| **id != roll.leader && roll.is_heard(**id));
    let matching = |id: &u64| roll.nodes.get(id).map_or(0, |entry| entry.matching);
    let best = others.max_by_key(|id| (matching(id), std::cmp::Reverse(**id)));
    best.map(|id| vec![Step::TransferLeadership(*id)]).ok_or(OrderError::Alone)
}

impl Roll {
    /// The node that is called `name`. Of several by one name that which `is_meant`, if it is one: a name may have been
    /// another's before.
    fn find(&self, name: &str, is_meant: impl Fn(u64) -> bool) -> Result<(u64, &Entry), OrderError> {
        let by_id = u64::from_str_radix(name, 16).ok().filter(|_| name.len() == 16);
        if let Some((id, entry)) = by_id.and_then(|id| self.nodes.get_key_value(&id)) {
            return Ok((*id, entry));
        }
        let named: Vec<_> = self.nodes.iter().filter(|(_, entry)| entry.name == name).collect();
        let meant: Vec<_> = named.iter().filter(|(id, _)| is_meant(**id)).collect();
        match (&named[..], &meant[..]) {
            ([], _) => Err(OrderError::Unknown(name.to_owned())),
            ([(id, entry)], _) | (_, [(id, entry)]) => Ok((**id, *entry)),
            _ => Err(OrderError::Ambiguous(name.to_owned())),
        }
    }

    fn is_heard(&self, id: u64) -> bool {
        id == self.leader || self.nodes.get(&id).is_some_and(|entry| entry.is_heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Voters 1 to 3 of which 1 leads, 4 stands by, 5 is a server and 6 a client.
    fn roll() -> Roll {
        let entry = |id: u64| Entry {
            name: format!("n{id}"),
            is_server: id != 6,
            is_fit: true,
            is_alive: true,
            is_heard: true,
            matching: 10 + id,
        };
        Roll {
            leader: 1,
            voters: [1, 2, 3].into(),
            learners: [4].into(),
            nodes: (1..=6).map(|id| (id, entry(id))).collect(),
            tombstones: BTreeSet::new(),
            is_changing: false,
        }
    }

    fn order(verb: &str, node: &str) -> Order {
        let node = node.to_owned();
        match verb {
            "add" => Order::Add(node),
            "remove" => Order::Remove(node),
            _ => Order::Transfer(Some(node)),
        }
    }

    #[test]
    fn what_makes_sense_is_done() {
        for (verb, node, expected) in [
            ("add", "n5", vec![Step::AddLearner(5)]),
            ("add", "0000000000000005", vec![Step::AddLearner(5)]),
            ("remove", "n4", vec![Step::Bury(4)]),
            ("remove", "n3", vec![Step::Demote(3), Step::Bury(3)]),
            ("transfer", "n2", vec![Step::TransferLeadership(2)]),
        ] {
            assert_eq!(steps(&order(verb, node), &roll()), Ok(expected), "{verb} {node}");
        }
        assert_eq!(steps(&Order::Transfer(None), &roll()), Ok(vec![Step::TransferLeadership(3)]));
    }

    #[test]
    fn what_makes_none_is_refused_with_the_reason() {
        let mut odd = roll();
        odd.tombstones.insert(5);
        for (verb, node, roll, expected) in [
            ("add", "n9", roll(), OrderError::Unknown("n9".into())),
            ("add", "n6", roll(), OrderError::Client("n6".into())),
            ("add", "n4", roll(), OrderError::AlreadyThere("n4".into())),
            ("add", "n5", odd, OrderError::Tombstoned("n5".into())),
            ("remove", "n1", roll(), OrderError::Leads("n1".into())),
            ("remove", "n5", roll(), OrderError::NotThere("n5".into())),
            ("transfer", "n1", roll(), OrderError::LeadsAlready("n1".into())),
            ("transfer", "n4", roll(), OrderError::NotAVoter("n4".into())),
        ] {
            assert_eq!(steps(&order(verb, node), &roll), Err(expected), "{verb} {node}");
        }
        let changing = Roll { is_changing: true, ..roll() };
        assert_eq!(steps(&order("remove", "n4"), &changing), Err(OrderError::Changing));
    }

    #[test]
    fn no_voter_is_removed_if_those_that_are_left_could_not_decide() {
        let mut roll = roll();
        let mut silent = |id: u64| {
            roll.nodes.entry(id).and_modify(|entry| entry.is_heard = false);
        };
        silent(3);
        // Of 1 and 2, both would have to answer.
        let expected = OrderError::LosesQuorum { node: "n2".into(), left: 1, voters: 2, quorum: 2 };
        assert_eq!(steps(&order("remove", "n2"), &roll), Err(expected));
        // The silent one may go.
        assert!(steps(&order("remove", "n3"), &roll).is_ok());
        assert_eq!(steps(&order("transfer", "n3"), &roll), Err(OrderError::Silent("n3".into())));
        roll.voters = [1, 3].into();
        assert_eq!(steps(&Order::Transfer(None), &roll), Err(OrderError::Alone));
    }

    #[test]
    fn of_two_by_one_name_the_one_is_meant_that_the_order_can_be_about() {
        let mut roll = roll();
        let twin =
            Entry { name: "n3".into(), is_server: true, is_fit: true, is_alive: true, ..Entry::default() };
        roll.nodes.insert(7, twin);
        assert_eq!(steps(&order("remove", "n3"), &roll), Ok(vec![Step::Demote(3), Step::Bury(3)]));
        assert_eq!(steps(&order("add", "n3"), &roll), Ok(vec![Step::AddLearner(7)]));
        roll.nodes.insert(8, roll.nodes[&7].clone());
        assert_eq!(steps(&order("add", "n3"), &roll), Err(OrderError::Ambiguous("n3".into())));
    }
}
