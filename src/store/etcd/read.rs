//! Reads from etcd: one key, a page, and all that a transaction wants to know, each at one revision.

use std::time::Duration;

use etcd_client::{GetOptions, GetResponse, KeyValue, Txn, TxnOp, TxnResponse, proto::PbTxnOpResponse};

use super::{
    EtcdStore,
    layout::{Note, Place, key, number, revision, versioned},
    link::{Failure, Purpose, kv},
    plan::{Reading, Seen, Wanted},
};
use crate::store::{
    Level, Scan, StoreError,
    core::{
        key::{Key, OpId, Revision},
        outcome::{Outcome, Page, Versioned},
    },
};

/// Before a member is asked again that is not as far as it should be.
const AGAIN: Duration = Duration::from_millis(20);
/// Most keys of a page, and bytes after which nothing more is added to it.
const PAGE: usize = 1000;
const PAGE_BYTES: usize = 1024 * 1024;
/// Keys that are asked for at once, at first. Fewer, if the answer would be too long.
const BATCH: usize = 128;
/// Reads in one transaction: etcd takes 128 (`--max-txn-ops`).
const READS: usize = 120;

/// What is known of a write that was asked for.
pub(super) enum Known {
    /// It was done.
    Done(Outcome),
    /// It was not; this is the state.
    Not(Seen),
}

impl EtcdStore {
    pub(super) async fn read_key(&self, key: &Key, level: Level) -> Result<Option<Versioned>, StoreError> {
        let mut found = self.range(self.0.layout.kv(key.as_str()), GetOptions::new(), level).await?.0;
        Ok(found.take_kvs().pop().map(versioned))
    }

    /// Asks until an answer is as far as `level` wants it, and says of which revision it is.
    async fn range(
        &self,
        from: Vec<u8>,
        options: GetOptions,
        level: Level,
    ) -> Result<(GetResponse, Revision), Failure> {
        // etcd has no reads that trust a lease: its own certain ones are what that asks for, and more.
        let is_certain = matches!(level, Level::Strong | Level::Lease | Level::Within(_));
        let options = if is_certain { options } else { options.with_serializable() };
        loop {
            let answer = self
                .0
                .link
                .call(Purpose::Read, |client| {
                    let (from, options) = (from.clone(), options.clone());
                    async move { kv(&client).get(from, Some(options)).await }
                })
                .await?;
            let at = self.0.link.learn(answer.header());
            if is_certain {
                self.0.link.proved();
            }
            match level {
                Level::AtLeast(wanted) if at < wanted => tokio::time::sleep(AGAIN).await,
                _ => return Ok((answer, at)),
            }
        }
    }

    pub(super) async fn read_page(&self, scan: &Scan, level: Level) -> Result<Page, StoreError> {
        loop {
            match self.page(scan, level).await {
                // The revision of its first part was forgotten before its last was read.
                Err(Failure::Compacted) => {}
                page => return Ok(page?),
            }
        }
    }

    async fn page(&self, scan: &Scan, level: Level) -> Result<Page, Failure> {
        let limit = scan.limit.clamp(1, PAGE);
        let end = self.0.layout.end(&scan.prefix);
        let mut from = self.0.layout.kv(&scan.prefix);
        if let Some(after) = &scan.after {
            from = from.max(behind(self.0.layout.kv(after.as_str())));
        }
        let mut page = Page { revision: Revision(0), entries: Vec::new(), next: None };
        let (mut batch, mut bytes, mut is_first) = (BATCH, 0, true);
        loop {
            let wanted = batch.min(limit - page.entries.len()).max(1);
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(count(wanted));
            // What follows is of the same state, which whoever has given the first part has, and anybody who asks.
            let asked = if is_first {
                level
            } else {
                options = options.with_revision(number(page.revision.0));
                Level::AtLeast(page.revision)
            };
            let (mut answer, at) = match self.range(from.clone(), options, asked).await {
                Err(Failure::TooLong) if wanted > 1 => {
                    batch = wanted / 2;
                    continue;
                }
                answer => answer?,
            };
            if is_first {
                (page.revision, is_first) = (at, false);
            }
            let more = answer.more();
            let mut is_full = false;
            let pairs = answer.take_kvs();
            let last = pairs.len();
            for (at, pair) in pairs.into_iter().enumerate() {
                from = behind(pair.key().to_vec());
                let Some(entry) = self.entry(pair) else { continue };
                bytes += entry.0.as_str().len() + entry.1.value.len();
                page.entries.push(entry);
                is_full = page.entries.len() >= limit || bytes >= PAGE_BYTES;
                if is_full {
                    if more || at + 1 < last {
                        page.next = page.entries.last().map(|(key, _)| key.clone());
                    }
                    break;
                }
            }
            if is_full || !more {
                return Ok(page);
            }
        }
    }

    /// An entry of a page, if it is one of the store.
    fn entry(&self, pair: KeyValue) -> Option<(Key, Versioned)> {
        let Place::Kv(name) = self.0.layout.place(pair.key()) else { return None };
        Some((key(name)?, versioned(pair)))
    }

    /// What became of the write `op`, if it was done.
    pub(super) async fn noted(&self, op: OpId) -> Result<Option<Outcome>, StoreError> {
        match self.known(op, &Wanted::default()).await? {
            Known::Done(outcome) => Ok(Some(outcome)),
            Known::Not(_) => Ok(None),
        }
    }

    /// What became of the write `op`, or all that it has to know, at one revision.
    pub(super) async fn known(&self, op: OpId, wanted: &Wanted) -> Result<Known, Failure> {
        let mut asked: Vec<Asked<'_>> = vec![Asked::Note];
        asked.extend(wanted.keys.iter().map(|(key, reading)| Asked::Key(key, *reading)));
        asked.extend(wanted.prefixes.iter().map(|prefix| Asked::Count(prefix)));
        let mut seen = Seen::default();
        for part in asked.chunks(READS) {
            // What comes in parts is all of the state of the first.
            let at = (seen.revision > Revision(0)).then_some(seen.revision);
            let answer = self
                .0
                .link
                .call(Purpose::Read, |client| {
                    let reads: Vec<TxnOp> = part.iter().map(|one| self.read(op, one, at)).collect();
                    async move { kv(&client).txn(Txn::new().and_then(reads)).await }
                })
                .await?;
            self.0.link.proved();
            let now = self.0.link.learn(answer.header());
            if at.is_none() {
                seen.revision = now;
            }
            for (one, mut found) in part.iter().zip(ranges(answer)) {
                match one {
                    Asked::Note => {
                        if let Some(note) = found.take_kvs().pop() {
                            return note_of(&note).map(Known::Done);
                        }
                    }
                    Asked::Key(key, _) => {
                        if let Some(pair) = found.take_kvs().pop() {
                            seen.keys.insert((*key).clone(), versioned(pair));
                        }
                    }
                    Asked::Count(prefix) => {
                        let count = u64::try_from(found.count()).unwrap_or_default();
                        seen.counts.insert((*prefix).to_owned(), count);
                    }
                }
            }
        }
        Ok(Known::Not(seen))
    }

    fn read(&self, op: OpId, one: &Asked<'_>, at: Option<Revision>) -> TxnOp {
        let options = GetOptions::new().with_revision(at.map_or(0, |at| number(at.0)));
        let layout = &self.0.layout;
        match one {
            Asked::Note => TxnOp::get(layout.note(op), Some(options)),
            Asked::Key(key, Reading::Value) => TxnOp::get(layout.kv(key.as_str()), Some(options)),
            Asked::Key(key, Reading::Standing) => {
                TxnOp::get(layout.kv(key.as_str()), Some(options.with_keys_only()))
            }
            Asked::Count(prefix) => {
                TxnOp::get(layout.kv(prefix), Some(options.with_range(layout.end(prefix)).with_count_only()))
            }
        }
    }
}

/// One of the reads that a transaction asks for.
enum Asked<'w> {
    Note,
    Key(&'w Key, Reading),
    Count(&'w str),
}

/// The answers of a transaction that only read.
pub(super) fn ranges(answer: TxnResponse) -> Vec<GetResponse> {
    // Not by the method of the crate, which takes an answer without content for impossible.
    let ranges = answer.0.responses.into_iter().filter_map(|one| match one.response? {
        PbTxnOpResponse::ResponseRange(range) => Some(GetResponse(range)),
        _ => None,
    });
    ranges.collect()
}

/// What a note says of the write that made it.
pub(super) fn note_of(pair: &KeyValue) -> Result<Outcome, Failure> {
    let outcome = Note::read(pair.value()).and_then(|note| note.outcome(revision(pair.mod_revision())));
    outcome.ok_or_else(|| {
        let at = pair.mod_revision();
        Failure::Store(StoreError::Failed(format!(
            "it was done at revision {at}, and what it answered then is not known any more"
        )))
    })
}

/// The next key in the order of bytes.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}
