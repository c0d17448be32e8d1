//! The suite of openraft on every backend, and what it does not ask: that nothing is acknowledged too early, that errors
//! are told, and that a snapshot is the whole state.

use std::{
    io,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    RaftSnapshotBuilder, StorageError,
    entry::RaftEntry,
    raft::AppendEntriesRequest,
    storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
    vote::RaftLeaderId,
};
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::{
    peer::rpc::{Caller, Own},
    store::{
        Timing,
        backend::{
            Batch, Disk, Durability, Keys, Memory, Sealed, Span, Table,
            tests::{Failing, Folder, Volatile, some_keys},
        },
        core::{
            command::{Command, Request, Stay, Transaction},
            key::{Key, OpId},
            kv::Kv,
        },
        fence::Fence,
        protocol::{self, Answer},
    },
};

type Make = fn(&Folder) -> Arc<dyn StorageBackend>;

const BACKENDS: [Make; 6] = [
    |_| Arc::new(Memory::default()),
    |_| Arc::new(Sealed::new(Memory::default(), Keys::None)),
    |_| Arc::new(Sealed::new(Memory::default(), some_keys())),
    |folder| Arc::new(Disk::open(&folder.file()).unwrap()),
    |folder| Arc::new(Sealed::new(Disk::open(&folder.file()).unwrap(), Keys::None)),
    |folder| Arc::new(Sealed::new(Disk::open(&folder.file()).unwrap(), some_keys())),
];

struct Builder(Make);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Folder> for Builder {
    async fn build(&self) -> Result<(Folder, LogStore, StateMachine), StorageError<TypeConfig>> {
        let folder = Folder::new();
        let (log, machine, _) = open(&(self.0)(&folder)).unwrap();
        Ok((folder, log, machine))
    }
}

#[test]
fn openrafts_own_suite_passes_on_every_backend() {
    // At once: the suite sleeps for eight seconds.
    std::thread::scope(|scope| {
        for make in BACKENDS {
            scope.spawn(move || runtime().block_on(Suite::test_all(Builder(make))).unwrap());
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(openraft::impls::leader_id_adv::LeaderId::new(term, 1).to_committed(), index)
}

fn command(number: u64, key: &str, size: usize) -> Command {
    let value = Bytes::from(vec![number as u8; size]);
    Command {
        op: OpId { client: 7, sequence: number },
        at_ms: 1_000 + number,
        author: "someone".into(),
        request: Request::Transact(Transaction::put(Key::new(key).unwrap(), value, Stay::Forever)),
    }
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    Entry::new_normal(log_id(term, index), Proposal(vec![command(index, &format!("k{index}"), size)]))
}

/// Appends, and waits until it is acknowledged.
async fn append(log: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (told, is_told) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(told)).await?;
    is_told.await.unwrap()
}

async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.apply(futures_util::stream::iter(entries)).await.unwrap();
}

async fn indexes(log: &mut LogStore, from: u64, before: u64) -> Vec<u64> {
    let found = log.get_log_reader().await.try_get_log_entries(from..before).await.unwrap();
    found.iter().map(|entry| entry.log_id.index).collect()
}

#[test]
fn what_is_acknowledged_outlives_a_loss_of_power() {
    for stays in [|_| false, |number: usize| number % 2 == 1] {
        runtime().block_on(async {
            let mut file = Volatile::default();
            let mut next = 0;
            let mut vote = None;
            for round in 0..12_u64 {
                let backend: Arc<dyn StorageBackend> = Arc::new(file.disk().unwrap());
                let (mut log, _, _) = open(&backend).unwrap();
                assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), vote);
                let found = indexes(&mut log, 0, 1000).await;
                // One more may be there that nobody was told of.
                assert!(found.iter().copied().take(next as usize).eq(0..next), "{found:?} of {next}");
                log.truncate_after(next.checked_sub(1).map(|last| log_id(1, last))).await.unwrap();
                for _ in 0..3 {
                    append(&mut log, vec![entry(1, next, 2_000), entry(1, next + 1, 10)]).await.unwrap();
                    next += 2;
                }
                let new = Vote::new(round + 1, 3);
                log.save_vote(&new).await.unwrap();
                vote = Some(new);
                let left = file.lose_power(stays);
                append(&mut log, vec![entry(1, next, 10)]).await.unwrap();
                file = left;
            }
        });
    }
}

#[test]
fn entries_can_be_read_before_they_are_written_and_callbacks_come_in_order() {
    runtime().block_on(async {
        let folder = Folder::new();
        let backend: Arc<dyn StorageBackend> = Arc::new(Disk::open(&folder.file()).unwrap());
        let (mut log, _, _) = open(&backend).unwrap();
        let mut waiting = Vec::new();
        for index in 0..100 {
            let (told, is_told) = TypeConfig::oneshot();
            log.append([entry(1, index, 100)], IOFlushed::signal(told)).await.unwrap();
            waiting.push(is_told);
            assert_eq!(indexes(&mut log, 0, 1000).await.len() as u64, index + 1);
        }
        waiting.pop().unwrap().await.unwrap().unwrap();
        for mut earlier in waiting {
            earlier.try_recv().unwrap().unwrap();
        }
    });
}

#[test]
fn a_log_is_the_same_after_it_was_opened_again() {
    runtime().block_on(async {
        for make in [BACKENDS[3], BACKENDS[5]] {
            let folder = Folder::new();
            {
                let (mut log, _, _) = open(&make(&folder)).unwrap();
                append(&mut log, (0..200).map(|index| entry(1, index, 50)).collect()).await.unwrap();
                log.truncate_after(Some(log_id(1, 149))).await.unwrap();
                append(&mut log, (150..160).map(|index| entry(2, index, 50)).collect()).await.unwrap();
                log.purge(log_id(1, 19)).await.unwrap();
                log.save_committed(Some(log_id(2, 155))).await.unwrap();
            }
            let (mut log, _, _) = open(&make(&folder)).unwrap();
            let state = log.get_log_state().await.unwrap();
            assert_eq!(state.last_purged_log_id, Some(log_id(1, 19)));
            assert_eq!(state.last_log_id, Some(log_id(2, 159)));
            assert_eq!(log.read_committed().await.unwrap(), Some(log_id(2, 155)));
            assert_eq!(indexes(&mut log, 0, 1000).await, (20..160).collect::<Vec<_>>());
            let reader = &mut log.get_log_reader().await;
            assert_eq!(reader.try_get_log_entries(150..151).await.unwrap(), [entry(2, 150, 50)]);
        }
    });
}

#[test]
fn a_limited_read_gives_at_least_one_entry_and_not_much_more_than_its_limit() {
    runtime().block_on(async {
        let backend: Arc<dyn StorageBackend> = Arc::new(Memory::default());
        let (mut log, _, _) = open(&backend).unwrap();
        // More than is held in memory once it is written.
        for index in 0..30 {
            append(&mut log, vec![entry(1, index, 400_000)]).await.unwrap();
        }
        let mut reader = log.get_log_reader().await;
        let mut next = 0;
        while next < 30 {
            let found = reader.limited_get_log_entries(next, 30).await.unwrap();
            assert!((1..=3).contains(&found.len()), "{}", found.len());
            for one in found {
                assert_eq!(one, entry(1, next, 400_000));
                next += 1;
            }
        }
    });
}

#[test]
fn a_write_that_fails_is_told_and_nothing_is_written_after_it() {
    runtime().block_on(async {
        let failing = Arc::new(Failing { inner: Memory::default(), left: AtomicUsize::new(3) });
        let backend: Arc<dyn StorageBackend> = Arc::<Failing>::clone(&failing);
        let (mut log, _, _) = open(&backend).unwrap();
        append(&mut log, vec![entry(1, 0, 10)]).await.unwrap();
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        let error = append(&mut log, vec![entry(1, 1, 10)]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(append(&mut log, vec![entry(1, 2, 10)]).await.is_err());
        assert!(log.save_vote(&Vote::new(2, 1)).await.is_err());
        assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(Vote::new(1, 1)));
        assert_eq!(failing.inner.range(Table::Log, Span::ALL, 9).unwrap().len(), 1);
    });
}

#[test]
fn a_log_with_a_missing_or_damaged_entry_is_not_opened() {
    let fill = |index: u64, damage: Option<Vec<u8>>| {
        let backend: Arc<dyn StorageBackend> = Arc::new(Memory::default());
        runtime().block_on(async {
            let (mut log, _, _) = open(&backend).unwrap();
            append(&mut log, (0..150).map(|index| entry(1, index, 10)).collect()).await.unwrap();
        });
        let mut batch = crate::store::backend::Batch::default();
        match damage {
            Some(bytes) => batch.put(Table::Log, index.to_be_bytes(), bytes),
            None => batch.delete(Table::Log, index.to_be_bytes()),
        };
        backend.apply(batch, Durability::Durable).unwrap();
        open(&backend).map(drop)
    };
    for (index, damage) in
        [(70, None), (64, None), (70, Some(vec![])), (149, Some(vec![9, 1])), (3, Some(vec![1]))]
    {
        let error = fill(index, damage).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("of table log"), "{error}");
    }
}

#[test]
fn readers_hear_of_a_revision_when_it_is_applied() {
    runtime().block_on(async {
        let backend: Arc<dyn StorageBackend> = Arc::new(Memory::default());
        let (_log, mut machine, state) = open(&backend).unwrap();
        let mut watch = state.watch();
        apply(&mut machine, vec![entry(1, 0, 10), entry(1, 1, 10)]).await;
        let applied = *watch.borrow_and_update();
        assert_eq!(applied, Applied { revision: state.read(Kv::revision), log: Some(log_id(1, 1)) });
        assert_eq!(state.read(Kv::len), 2);
    });
}

#[test]
fn a_snapshot_that_is_installed_is_the_state_that_was_built() {
    let runtime = runtime();
    let commands = prop::collection::vec((0..20_u64, 0..2_000_usize), 0..60);
    TestRunner::new(ProptestConfig::with_cases(40))
        .run(&commands, |commands| {
            runtime.block_on(async {
                let folder = Folder::new();
                let (_log, mut leader, built) = open(&(BACKENDS[0])(&folder)).unwrap();
                let (_log, mut follower, installed) = open(&(BACKENDS[5])(&folder)).unwrap();
                for ((key, size), index) in commands.iter().zip(1..) {
                    let command = command(index, &format!("k{key}"), *size);
                    apply(&mut leader, vec![Entry::new_normal(log_id(1, index), Proposal(vec![command]))])
                        .await;
                }
                let voters = [(1, Voter::default()), (2, Voter { name: "b".into(), ..Voter::default() })];
                let members =
                    Membership::new(vec![[1].into()], std::collections::BTreeMap::from(voters)).unwrap();
                apply(&mut leader, vec![Entry::new_membership(log_id(2, 99), members)]).await;
                let snapshot = leader.get_snapshot_builder().await.build_snapshot().await.unwrap();
                follower.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
                assert_eq!(built.read(Kv::clone), installed.read(Kv::clone));
                assert_eq!(leader.applied_state().await.unwrap(), follower.applied_state().await.unwrap());
                assert_eq!(built.applied(), installed.applied());
                drop((_log, follower, installed));
                let (_log, mut again, state) = open(&(BACKENDS[5])(&folder)).unwrap();
                assert_eq!(built.read(Kv::clone), state.read(Kv::clone));
                assert_eq!(leader.applied_state().await.unwrap(), again.applied_state().await.unwrap());
            });
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_snapshot_of_many_pieces_replaces_the_one_before() {
    runtime().block_on(async {
        let backend: Arc<dyn StorageBackend> = Arc::new(Memory::default());
        let (_log, mut machine, state) = open(&backend).unwrap();
        for round in 1..4 {
            apply(&mut machine, (0..10).map(|index| entry(1, round * 10 + index, 400_000)).collect()).await;
            machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
            let (_, again, kept) = open(&backend).unwrap();
            drop(again);
            assert_eq!(kept.read(Kv::clone), state.read(Kv::clone));
        }
        let pieces = backend.range(Table::Snapshot, Span::ALL, 1000).unwrap();
        assert!(pieces.iter().all(|(_, piece)| piece.len() <= 1024 * 1024));
        let bytes: usize = pieces.iter().map(|(_, piece)| piece.len()).sum();
        assert_eq!(bytes, state.read(|kv| kv.to_bytes().len()));
    });
}

#[test]
fn a_snapshot_that_is_damaged_or_cannot_be_written_changes_nothing() {
    runtime().block_on(async {
        let backend: Arc<dyn StorageBackend> =
            Arc::new(Failing { inner: Memory::default(), left: AtomicUsize::new(5) });
        let (_log, mut machine, state) = open(&backend).unwrap();
        apply(&mut machine, vec![entry(1, 0, 10)]).await;
        // Three writes: clear, one piece, the head.
        let old = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        let before = state.read(Kv::clone);
        let mut other = Kv::default();
        other.apply(&command(5, "other", 10));
        let meta = SnapshotMeta { last_log_id: Some(log_id(1, 9)), ..SnapshotMeta::default() };

        let mut flipped = other.to_bytes();
        flipped[9] ^= 1;
        let error = machine.install_snapshot(&meta, flipped).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        // Now the second write fails.
        assert!(machine.install_snapshot(&meta, other.to_bytes()).await.is_err());
        assert_eq!(state.read(Kv::clone), before);
        assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, old.meta);
        assert_eq!(state.applied().log, Some(log_id(1, 0)));

        machine.install_snapshot(&meta, other.to_bytes()).await.unwrap();
        assert_eq!(state.read(Kv::clone), other);
    });
}

#[test]
fn a_snapshot_that_was_built_late_does_not_replace_a_newer_one() {
    runtime().block_on(async {
        let backend: Arc<dyn StorageBackend> = Arc::new(Memory::default());
        let (_log, mut machine, _) = open(&backend).unwrap();
        apply(&mut machine, vec![entry(1, 0, 10)]).await;
        let mut late = machine.get_snapshot_builder().await;
        let meta = SnapshotMeta { last_log_id: Some(log_id(1, 9)), ..SnapshotMeta::default() };
        machine.install_snapshot(&meta, Kv::default().to_bytes()).await.unwrap();
        late.build_snapshot().await.unwrap();
        assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, meta);
    });
}

/// Openraft #1511: a leader that went on in its term after it was killed did not know what it had acknowledged in it, and
/// with others to agree with, answered by less. The first entry of a new term tells it.
#[test]
fn a_leader_that_was_killed_leads_again_in_a_later_term_only_and_with_all_that_it_acknowledged() {
    runtime().block_on(async {
        let backend: Arc<dyn StorageBackend> = Arc::new(Memory::default());
        let first = lone_voter(&backend).await;
        first.found([(1, Voter::default())].into()).await.unwrap();
        for number in 1..=20 {
            while !matches!(first.propose(command(number, "k", 10)).await, Answer::Done(_)) {}
        }
        let (written, term) = (first.state().read(Kv::revision), first.status().term);
        // As a kill would leave it: every entry is there, and none is known to be committed.
        let left: Arc<dyn StorageBackend> = Arc::new(Memory::default());
        let mut batch = Batch::default();
        for table in Table::ALL {
            for (key, value) in backend.range(table, Span::ALL, 1000).unwrap() {
                if key != b"committed" {
                    batch.put(table, key, value);
                }
            }
        }
        left.apply(batch, Durability::Durable).unwrap();
        let second = lone_voter(&left).await;
        while !matches!(second.certain(Certainty::Asked).await, Answer::Done(())) {}
        assert!(second.status().term > term);
        assert_eq!(second.state().read(Kv::revision), written);
    });
}

/// A replica that nobody else takes part with.
async fn lone_voter(backend: &Arc<dyn StorageBackend>) -> Node {
    let own = Own { cluster: "tests".into(), node: 1 };
    let (_, peers) = tokio::sync::watch::channel(Arc::new(Vec::new()));
    let network = Network { caller: Caller::new(&own, None), peers, own: 1, fence: Fence::new(None, None) };
    let timing =
        Timing { heartbeat: Duration::from_millis(50), election_timeout: Duration::from_millis(150) };
    Node::open(1, timing, network, backend, Arc::default()).await.unwrap()
}

#[test]
fn a_message_with_too_many_entries_or_commands_is_refused_before_there_is_room_for_them() {
    let vote = Vote::new_committed(3, 1);
    let message = |count: u64| {
        let entries = (1..=count).map(|index| entry(3, index, 1)).collect();
        protocol::write(&AppendEntriesRequest::<TypeConfig> {
            vote,
            prev_log_id: Some(log_id(3, 0)),
            entries,
            leader_commit: None,
        })
    };
    assert_eq!(read_append(&message(3)).map(|read| read.entries.len()), Some(3));
    assert!(read_append(&message(4096)).is_some());
    assert!(read_append(&message(4097)).is_none());
    // The number alone, with nothing behind it, takes no memory.
    let mut short = message(0).to_vec();
    short.truncate(short.len() - 2);
    short.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(read_append(&short).is_none());

    let commands = |count| postcard::to_allocvec(&Proposal(vec![command(1, "a", 1); count])).unwrap();
    assert!(postcard::from_bytes::<Proposal>(&commands(4096)).is_ok());
    assert!(postcard::from_bytes::<Proposal>(&commands(4097)).is_err());
}
