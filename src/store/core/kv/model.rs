//! The state against a naive model of it, with commands drawn by chance: few keys, few operation ids and short leases, so
//! that all meet all. The model copies the whole state for each revision and knows no index.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{
        command::{Command, Compare, Operand, Operation, Relation, Request, Stay, Transaction},
        key::{Key, LeaseId, OpId, Revision},
        outcome::{CommandResult, OperationResult, Outcome, Versioned},
    },
    Kv,
    answers::REMEMBERED_MS,
};
use crate::store::Scan;

type Keys = BTreeMap<String, Versioned>;

/// What the state should be. There is no limit in it, and the commands reach none.
#[derive(Clone, Debug, Default)]
struct Model {
    revision: u64,
    now: u64,
    keys: Keys,
    /// Length, end, and whether it goes with its last key.
    leases: BTreeMap<u64, (u64, u64, bool)>,
    answers: Vec<(OpId, u64, Outcome)>,
}

impl Model {
    fn apply(&mut self, command: &Command) -> Outcome {
        self.now = self.now.max(command.at_ms);
        let now = self.now;
        self.answers.retain(|(_, at, _)| now - at <= REMEMBERED_MS);
        let is_once = !matches!(command.request, Request::KeepAlive(_) | Request::Expire);
        if let Some((_, _, outcome)) = self.answers.iter().find(|(op, ..)| is_once && *op == command.op) {
            return outcome.clone();
        }
        let before = (self.keys.clone(), self.leases.keys().copied().collect::<Vec<_>>());
        let result = match &command.request {
            Request::Transact(transaction) => self.transact(transaction),
            Request::Grant { ttl_ms } => {
                self.leases.insert(self.revision + 1, (*ttl_ms, now + ttl_ms, false));
                CommandResult::Leased { lease: LeaseId(self.revision + 1), ttl_ms: *ttl_ms }
            }
            Request::KeepAlive(lease) => match self.leases.get_mut(&lease.0) {
                Some((ttl_ms, end, _)) => {
                    *end = now + *ttl_ms;
                    CommandResult::Leased { lease: *lease, ttl_ms: *ttl_ms }
                }
                None => CommandResult::NoLease(*lease),
            },
            Request::Revoke(lease) if self.leases.contains_key(&lease.0) => self.end(|id, _| id == lease.0),
            Request::Revoke(lease) => CommandResult::NoLease(*lease),
            Request::Expire => self.end(|_, end| end <= now),
        };
        // A key that was set and removed again has changed too, although it is as before.
        if wrote(&result) || before != (self.keys.clone(), self.leases.keys().copied().collect()) {
            self.revision += 1;
        }
        let outcome = Outcome { revision: Revision(self.revision), result };
        if is_once {
            self.answers.push((command.op, now, outcome.clone()));
        }
        outcome
    }

    fn end(&mut self, is_ended: impl Fn(u64, u64) -> bool) -> CommandResult {
        let ended: BTreeSet<u64> =
            self.leases.iter().filter(|(id, lease)| is_ended(**id, lease.1)).map(|(id, _)| *id).collect();
        let length = self.keys.len();
        self.leases.retain(|id, _| !ended.contains(id));
        self.keys.retain(|_, has| has.lease.is_none_or(|lease| !ended.contains(&lease.0)));
        CommandResult::Ended { keys: (length - self.keys.len()) as u64 }
    }

    fn transact(&mut self, transaction: &Transaction) -> CommandResult {
        let held = transaction.compare.iter().all(|compare| {
            let has = self.keys.get(compare.key.as_str());
            let order = match &compare.with {
                Operand::Modified(with) => has.map_or(0, |has| has.modified.0).cmp(&with.0),
                Operand::Created(with) => has.map_or(0, |has| has.created.0).cmp(&with.0),
                Operand::Version(with) => has.map_or(0, |has| has.version).cmp(with),
                Operand::Value(with) => has.map_or(Bytes::new(), |has| has.value.clone()).cmp(with),
            };
            match compare.relation {
                Relation::Equal => order.is_eq(),
                Relation::NotEqual => order.is_ne(),
                Relation::Less => order.is_lt(),
                Relation::Greater => order.is_gt(),
            }
        });
        let mut next = self.clone();
        let mut lengths = Vec::new();
        let mut results = Vec::new();
        for operation in if held { &transaction.then } else { &transaction.otherwise } {
            match operation {
                Operation::Put { stay: Stay::Lease(lease), .. } if !self.leases.contains_key(&lease.0) => {
                    return CommandResult::NoLease(*lease);
                }
                _ => results.push(next.operate(operation, &mut lengths)),
            }
        }
        let bound: BTreeSet<u64> = next.keys.values().filter_map(|has| Some(has.lease?.0)).collect();
        next.leases.retain(|id, (.., is_own)| !*is_own || bound.contains(id));
        *self = next;
        CommandResult::Transacted { held, results }
    }

    fn operate(&mut self, operation: &Operation, lengths: &mut Vec<u64>) -> OperationResult {
        let revision = self.revision + 1;
        let length = self.keys.len();
        match operation {
            Operation::Get(key) => return OperationResult::Got(self.keys.get(key.as_str()).cloned()),
            Operation::Put { key, value, stay } => {
                let lease = match stay {
                    Stay::Forever => None,
                    Stay::Lease(lease) => Some(*lease),
                    Stay::Ttl(ttl_ms) => {
                        let at = lengths.iter().position(|known| known == ttl_ms).unwrap_or(lengths.len());
                        lengths.resize(lengths.len().max(at + 1), *ttl_ms);
                        let id = revision + at as u64 * (1 << 56);
                        self.leases.insert(id, (*ttl_ms, self.now + ttl_ms, true));
                        Some(LeaseId(id))
                    }
                };
                let (value, modified) = (value.clone(), Revision(revision));
                let fresh = Versioned { value, created: modified, modified, version: 1, lease };
                let entry = self.keys.entry(key.to_string());
                entry
                    .and_modify(|has| {
                        let (created, version) = (has.created, has.version + 1);
                        *has = Versioned { created, version, ..fresh.clone() };
                    })
                    .or_insert(fresh);
                return OperationResult::Put;
            }
            Operation::Delete(key) => drop(self.keys.remove(key.as_str())),
            Operation::DeletePrefix(prefix) => self.keys.retain(|key, _| !key.starts_with(prefix)),
        }
        OperationResult::Deleted((length - self.keys.len()) as u64)
    }
}

fn wrote(result: &CommandResult) -> bool {
    let CommandResult::Transacted { results, .. } = result else { return false };
    results.iter().any(|result| match result {
        OperationResult::Put => true,
        OperationResult::Deleted(keys) => *keys > 0,
        OperationResult::Got(_) => false,
    })
}

fn key() -> impl Strategy<Value = Key> {
    select(vec!["a", "a/1", "a/2", "b", "b/1", "c"]).prop_map(|name| Key::new(name).unwrap())
}

fn value() -> impl Strategy<Value = Bytes> {
    vec(0_u8..3, 0..3).prop_map(Bytes::from)
}

fn lease() -> impl Strategy<Value = LeaseId> {
    prop_oneof![(1_u64..12).prop_map(LeaseId), (1_u64..12).prop_map(|n| LeaseId(n | 1 << 56))]
}

fn ttl() -> impl Strategy<Value = u64> {
    select(vec![1_000, 2_000, 30_000])
}

fn stay() -> impl Strategy<Value = Stay> {
    prop_oneof![
        3 => Just(Stay::Forever),
        1 => lease().prop_map(Stay::Lease),
        3 => ttl().prop_map(Stay::Ttl),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let with = prop_oneof![
        (0_u64..12).prop_map(|revision| Operand::Modified(Revision(revision))),
        (0_u64..12).prop_map(|revision| Operand::Created(Revision(revision))),
        (0_u64..3).prop_map(Operand::Version),
        value().prop_map(Operand::Value),
    ];
    let relation = select(vec![Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater]);
    (key(), relation, with).prop_map(|(key, relation, with)| Compare { key, relation, with })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => key().prop_map(Operation::Get),
        5 => (key(), value(), stay()).prop_map(|(key, value, stay)| Operation::Put { key, value, stay }),
        2 => key().prop_map(Operation::Delete),
        1 => select(vec!["", "a", "a/", "b/1", "x"]).prop_map(|text| Operation::DeletePrefix(text.to_owned())),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let transaction = (vec(compare(), 0..2), vec(operation(), 0..5), vec(operation(), 0..3))
        .prop_map(|(compare, then, otherwise)| Transaction { compare, then, otherwise });
    prop_oneof![
        8 => transaction.prop_map(Request::Transact),
        2 => ttl().prop_map(|ttl_ms| Request::Grant { ttl_ms }),
        2 => lease().prop_map(Request::KeepAlive),
        1 => lease().prop_map(Request::Revoke),
        2 => Just(Request::Expire),
    ]
}

/// Mostly new operations, some repeated; time mostly goes on, sometimes back, sometimes past all memory.
fn commands() -> impl Strategy<Value = Vec<Command>> {
    let step = prop_oneof![10 => -500_i64..1_500, 1 => Just(REMEMBERED_MS as i64)];
    vec((request(), 0_u64..60, step), 0..40).prop_map(|drawn| {
        let mut at_ms = 1_000_000_i64;
        let mut commands = Vec::new();
        for (request, sequence, step) in drawn {
            at_ms += step;
            let op = OpId { client: sequence % 2, sequence };
            commands.push(Command { op, at_ms: at_ms as u64, author: "n".into(), request });
        }
        commands
    })
}

fn keys(kv: &Kv) -> Keys {
    kv.scan(&Scan::default()).entries.into_iter().map(|(key, has)| (key.to_string(), has)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_what_a_naive_model_says(commands in commands()) {
        let (mut kv, mut model) = (Kv::default(), Model::default());
        for command in &commands {
            prop_assert_eq!(kv.apply(command), model.apply(command), "{:?}", command);
            prop_assert_eq!(keys(&kv), model.keys.clone());
            let leases = kv.leases().map(|lease| (lease.lease.0, (lease.ttl_ms, lease.ends_ms)));
            let expected = model.leases.iter().map(|(id, (ttl_ms, end, _))| (*id, (*ttl_ms, *end)));
            prop_assert_eq!(leases.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            prop_assert_eq!(kv.next_expiry(), model.leases.values().map(|lease| lease.1).min());
            let bytes: usize = model.keys.iter().map(|(key, has)| key.len() + has.value.len()).sum();
            prop_assert_eq!((kv.bytes(), kv.len()), (bytes, model.keys.len()));
            for lease in kv.leases() {
                let bound = model.keys.values().filter(|has| has.lease == Some(lease.lease)).count();
                prop_assert_eq!(lease.keys, bound as u64);
            }
        }
    }

    #[test]
    fn two_replicas_have_the_same_bytes(commands in commands()) {
        let (mut one, mut other) = (Kv::default(), Kv::default());
        for command in &commands {
            prop_assert_eq!(one.apply(command), other.apply(command));
        }
        prop_assert_eq!(one.to_bytes(), other.to_bytes());
        prop_assert_eq!(one, other);
    }

    #[test]
    fn an_operation_that_comes_again_at_once_is_answered_the_same(commands in commands()) {
        let mut kv = Kv::default();
        for command in &commands {
            let first = kv.apply(command);
            if matches!(command.request, Request::KeepAlive(_) | Request::Expire) {
                continue;
            }
            let state = kv.clone();
            prop_assert_eq!(kv.apply(command), first);
            prop_assert_eq!(&kv, &state);
        }
    }

    #[test]
    fn each_revision_can_be_looked_back_at(commands in commands(), limit in 1_usize..4) {
        let mut kv = Kv::default();
        let mut states = BTreeMap::from([(0, Keys::new())]);
        for command in &commands {
            kv.apply(command);
            states.insert(kv.revision().0, keys(&kv));
        }
        for (revision, expected) in &states {
            let past = kv.at(Revision(*revision)).unwrap();
            let seen: Keys = past.iter().map(|(key, had)| (key.to_string(), had.clone())).collect();
            prop_assert_eq!(&seen, expected);
            for name in ["a", "a/1", "c"] {
                prop_assert_eq!(past.get(&Key::new(name).unwrap()), expected.get(name));
            }
            let mut scan = Scan { prefix: "a".to_owned(), after: None, limit };
            let mut paged = Keys::new();
            loop {
                let page = past.scan(&scan);
                prop_assert!(page.entries.len() <= limit && page.revision == past.revision());
                paged.extend(page.entries.into_iter().map(|(key, had)| (key.to_string(), had)));
                scan.after = page.next;
                if scan.after.is_none() {
                    break;
                }
            }
            let expected = expected.iter().filter(|(key, _)| key.starts_with('a'));
            prop_assert_eq!(paged, expected.map(|(key, had)| (key.clone(), had.clone())).collect::<Keys>());
        }
    }

    #[test]
    fn changes_followed_from_any_revision_lead_to_the_state(
        commands in commands(),
        from in 0_u64..10,
        limit in 1_usize..4,
    ) {
        let mut kv = Kv::default();
        for command in &commands {
            kv.apply(command);
        }
        let mut at = Revision(from.min(kv.revision().0));
        let mut state: Keys =
            kv.at(at).unwrap().iter().map(|(key, had)| (key.to_string(), had.clone())).collect();
        while at < kv.revision() {
            let (changes, end) = kv.changes_after(at, "", limit).unwrap();
            prop_assert!(end > at && changes.iter().all(|change| at < change.revision && change.revision <= end));
            for change in changes {
                let name = change.key.to_string();
                prop_assert_eq!(state.get(&name), change.before.as_ref());
                match change.after {
                    Some(after) => state.insert(name, after),
                    None => state.remove(&name),
                };
            }
            at = end;
        }
        prop_assert_eq!(state, keys(&kv));
    }

    #[test]
    fn a_state_that_was_kept_goes_on_as_if_it_had_not_been(commands in commands(), at in 0_usize..40) {
        let mut kv = Kv::default();
        let at = at.min(commands.len());
        for command in &commands[..at] {
            kv.apply(command);
        }
        let mut kept = Kv::from_bytes(&kv.to_bytes()).unwrap();
        prop_assert_eq!(&kept, &kv);
        for command in &commands[at..] {
            prop_assert_eq!(kept.apply(command), kv.apply(command));
        }
        prop_assert_eq!(kept.to_bytes(), kv.to_bytes());
    }

    #[test]
    fn no_bytes_are_read_with_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        let sealed = [&[1], &bytes[..]].concat();
        let sealed = [&sealed[..], &xxhash_rust::xxh64::xxh64(&sealed, 0).to_le_bytes()].concat();
        let _ = (Kv::from_bytes(&bytes), Kv::from_bytes(&sealed));
    }
}
