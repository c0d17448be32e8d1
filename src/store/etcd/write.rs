//! Writes to etcd. A transaction is decided here, by what was read, and etcd is asked to write what it comes to if nothing of
//! that has changed; if something has, it begins anew. With what is written goes a note, so that a write which is asked for
//! again is answered as it was.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};

use super::{
    EtcdStore,
    layout::{Note, number, settled},
    link::{Failure, Purpose, kv},
    mismatch,
    plan::{Plan, Wanted, gaps},
    read::{Known, note_of, ranges},
    wall_ms,
};
use crate::{
    rt::random,
    store::{
        StoreError,
        core::{
            command::{Stay, Transaction},
            key::{LeaseId, OpId, Revision},
            outcome::{CommandResult, Outcome},
        },
    },
};

/// The longest pause before a transaction begins anew because something has changed meanwhile; it is drawn by chance, and
/// at first a part of that.
const PAUSE: Duration = Duration::from_millis(40);
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// What became of one attempt.
enum Attempt {
    Done(Outcome),
    /// Something has changed since it was read.
    Changed,
}

impl EtcdStore {
    pub(super) async fn carry_out(&self, op: OpId, transaction: &Transaction) -> Result<Outcome, StoreError> {
        // A write that nobody knows the end of may still be under way. If it would change nothing now, it is noted all the
        // same, so that it changes nothing later either.
        let doubt = AtomicBool::new(self.0.unsettled.has(op));
        if let Some(plan) = Plan::guessed(transaction)
            && let Attempt::Done(outcome) = self.attempt(op, &plan, Revision(0), &doubt).await?
        {
            return Ok(outcome);
        }
        let wanted = Wanted::of(transaction);
        let (mut chance, mut pause) = (random::seeded(op.client ^ op.sequence), FIRST_PAUSE);
        loop {
            let seen = match self.known(op, &wanted).await? {
                Known::Done(outcome) => return Ok(outcome),
                Known::Not(seen) => seen,
            };
            let plan = Plan::new(transaction, &seen);
            if !plan.has_effect && !doubt.load(Relaxed) {
                return Ok(Outcome { revision: seen.revision, result: plan.result });
            }
            if let Attempt::Done(outcome) = self.attempt(op, &plan, seen.revision, &doubt).await? {
                return Ok(outcome);
            }
            tokio::time::sleep(pause.mul_f64(chance.f64())).await;
            pause = (pause * 2).min(PAUSE);
        }
    }

    /// Writes down that `op` was done, with this result, and nothing else.
    pub(super) async fn note_alone(&self, op: OpId, result: &CommandResult) -> Result<(), StoreError> {
        let plan = Plan::alone(result.clone());
        match self.attempt(op, &plan, Revision(0), &AtomicBool::new(false)).await? {
            Attempt::Done(outcome) if outcome.result == *result => Ok(()),
            Attempt::Done(_) | Attempt::Changed => Err(mismatch()),
        }
    }

    /// Writes what `plan` says, if nothing has changed since `seen`.
    async fn attempt(
        &self,
        op: OpId,
        plan: &Plan,
        seen: Revision,
        doubt: &AtomicBool,
    ) -> Result<Attempt, StoreError> {
        let tried = self.write(op, plan, seen, doubt).await;
        if !matches!(tried, Err(Failure::NoLease)) {
            return Ok(tried?);
        }
        // That of the notes has ended too early (somebody has revoked it), or one that a key was to be bound to.
        self.0.notes.forget();
        match (self.write(op, plan, seen, doubt).await, plan.lease()) {
            (Err(Failure::NoLease), Some(lease)) => Err(StoreError::NoLease(lease)),
            (tried, _) => Ok(tried?),
        }
    }

    async fn write(
        &self,
        op: OpId,
        plan: &Plan,
        seen: Revision,
        doubt: &AtomicBool,
    ) -> Result<Attempt, Failure> {
        let note_key = self.0.layout.note(op);
        let mut operations = Vec::with_capacity(plan.puts.len() + plan.deletes.len() + 1);
        for (nth, (key, (value, stay))) in plan.puts.iter().enumerate() {
            let lease = match stay {
                Stay::Forever => 0,
                // To etcd that is none; to us it is one that nobody has.
                Stay::Lease(LeaseId(0)) => return Err(Failure::Store(StoreError::NoLease(LeaseId(0)))),
                Stay::Lease(lease) => lease.0.cast_signed(),
                Stay::Ttl(ttl_ms) => {
                    // 0 is for a lease that is asked for by itself.
                    self.lease(self.lease_number(op, nth + 1), *ttl_ms).await?.0.cast_signed()
                }
            };
            let options = PutOptions::new().with_lease(lease);
            operations.push(TxnOp::put(self.0.layout.kv(key.as_str()), value.to_vec(), Some(options)));
        }
        operations.extend(plan.deletes.iter().map(|key| TxnOp::delete(self.0.layout.kv(key.as_str()), None)));
        for prefix in &plan.clears {
            operations.extend(self.cleared(prefix, plan));
        }
        let note = Note::new(wall_ms(), &self.1, &plan.result);
        let options = PutOptions::new().with_lease(self.note_lease().await?);
        operations.push(TxnOp::put(note_key.clone(), note.write(), Some(options)));

        let txn = Txn::new()
            .when(self.guards(&note_key, plan, seen))
            .and_then(operations)
            .or_else([TxnOp::get(note_key, None)]);
        let answer = self
            .0
            .link
            .call_in_doubt(Purpose::Write, doubt, |client| {
                let txn = txn.clone();
                async move { kv(&client).txn(txn).await }
            })
            .await?;
        let at = self.0.link.learn(answer.header());
        self.0.link.proved();
        if answer.succeeded() {
            return Ok(Attempt::Done(settled(plan.result.clone(), at)));
        }
        match ranges(answer).into_iter().next().and_then(|mut found| found.take_kvs().pop()) {
            Some(note) => note_of(&note).map(Attempt::Done),
            None => Ok(Attempt::Changed),
        }
    }

    /// What must hold for it to be written: that it was not written before, and that the state is what it was.
    fn guards(&self, note: &[u8], plan: &Plan, seen: Revision) -> Vec<Compare> {
        let layout = &self.0.layout;
        let mut guards = vec![Compare::create_revision(note, CompareOp::Equal, 0)];
        guards.extend(plan.unchanged.iter().map(|(key, modified)| {
            Compare::mod_revision(layout.kv(key.as_str()), CompareOp::Equal, number(modified.0))
        }));
        // That none has gone cannot be said of many keys at once: the number of those that are removed may count one that
        // somebody else has removed at the same moment.
        guards.extend(plan.quiet.iter().map(|prefix| {
            Compare::mod_revision(layout.kv(prefix), CompareOp::Less, number(seen.0.saturating_add(1)))
                .with_range(layout.end(prefix))
        }));
        guards
    }

    /// Removes all that begins with `prefix`, but for what is put.
    fn cleared(&self, prefix: &str, plan: &Plan) -> Vec<TxnOp> {
        let layout = &self.0.layout;
        let gap = |(from, to): (String, Option<String>)| {
            let end = to.map_or_else(|| layout.end(prefix), |to| layout.kv(&to));
            TxnOp::delete(layout.kv(&from), Some(DeleteOptions::new().with_range(end)))
        };
        gaps(prefix, plan.puts.keys()).into_iter().map(gap).collect()
    }
}
