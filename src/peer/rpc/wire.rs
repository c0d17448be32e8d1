//! What is said between two nodes beside the bodies: paths, headers, limits. Both sides are built from this file.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::{Own, Refusal};

/// What paths begin with; the name of a method follows.
pub(super) const PREFIX: &str = "/v1/";
/// The first call on each connection, answered by the port itself: the other side is who was meant. No body.
pub(super) const HELLO: &str = "hello";

/// Of which cluster the caller is.
pub(super) const CLUSTER: HeaderName = HeaderName::from_static("outrigger-cluster");
/// Which node it is; in an answer, which node answers.
pub(super) const FROM: HeaderName = HeaderName::from_static("outrigger-from");
/// Which node is called.
pub(super) const TO: HeaderName = HeaderName::from_static("outrigger-to");
/// How long the caller still waits, in milliseconds.
pub(super) const DEADLINE: HeaderName = HeaderName::from_static("outrigger-deadline-ms");

/// Largest body, of a call and of an answer, in bytes.
pub const LARGEST: usize = 8 * 1024 * 1024;
/// The longest that a call takes, whatever limit it has.
pub const LONGEST: Duration = Duration::from_secs(60);
/// Largest list of headers: ours are some hundred bytes.
pub(super) const LARGEST_HEAD: u32 = 8 * 1024;
/// Calls at once on one connection.
pub(super) const STREAMS: u32 = 256;
/// A connection is used for so long, and then made anew: whoever was revoked meanwhile does not stay for ever.
pub(super) const LIFE: Duration = Duration::from_secs(3600);
/// How often the other side is asked whether it is there, and how long it may take to say so.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(1);
pub(super) const PING_LIMIT: Duration = Duration::from_secs(3);
/// Bytes that may be on their way on one stream, and on a connection: a large body in one or two round trips, and room
/// for others beside it.
pub(super) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of one stream that wait for the other side's window. The rest of a body is shared memory.
pub(super) const SEND_BUFFER: usize = 256 * 1024;
/// The longest text of a refusal.
pub(super) const LONGEST_TEXT: usize = 512;

/// The name of a cluster as the value of a header: what cannot stand there is written as `%XX`.
pub(super) fn cluster_value(own: &Own) -> HeaderValue {
    let mut text = String::with_capacity(own.cluster.len());
    for byte in own.cluster.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            // Writing to memory does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    // Printable ASCII always is a value.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("%"))
}

/// The only value of a header, as a number.
pub(super) fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = single(headers, name)?.to_str().ok()?;
    // What `parse` takes beside digits, one sign, is no number here.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The headers of a call, which was meant for this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) from: u64,
    pub(super) limit: Duration,
}

impl Head {
    /// Refuses what is not for `node` of the cluster that `cluster` stands for.
    pub(super) fn read(headers: &HeaderMap, cluster: &HeaderValue, node: u64) -> Result<Self, Refusal> {
        let missing = |name: &HeaderName| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("the header {name} is not there once, or is wrong"))
        };
        let theirs = single(headers, &CLUSTER).ok_or_else(|| missing(&CLUSTER))?;
        if theirs != cluster {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "this node is of another cluster"));
        }
        let to = number(headers, &TO).ok_or_else(|| missing(&TO))?;
        if to != node {
            let text = format!("this is node {node}, not node {to}");
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, text));
        }
        let from = number(headers, &FROM).ok_or_else(|| missing(&FROM))?;
        let limit = number(headers, &DEADLINE).ok_or_else(|| missing(&DEADLINE))?;
        Ok(Self { from, limit: Duration::from_millis(limit).min(LONGEST) })
    }
}

/// Memory for bodies that are on their way or being answered. Large ones have a budget of their own: they cannot use up
/// that of small ones.
#[derive(Debug)]
pub(super) struct Budget {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// The part of each body that counts as small.
const SMALL: usize = 64 * 1024;
/// Bytes of small bodies, and of small parts of large ones.
const SMALL_BUDGET: usize = 64 * 1024 * 1024;
/// Bytes of the rest.
const LARGE_BUDGET: usize = 128 * 1024 * 1024;

impl Default for Budget {
    fn default() -> Self {
        Self { small: Arc::new(Semaphore::new(SMALL_BUDGET)), large: Arc::new(Semaphore::new(LARGE_BUDGET)) }
    }
}

/// What one body has of the budget, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    small: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Takes what `more` bytes need beside the `known` from before; says whether there is so much.
    #[must_use]
    fn take(&mut self, budget: &Budget, known: usize, more: usize) -> bool {
        let small = (known + more).min(SMALL) - known.min(SMALL);
        add(&mut self.small, &budget.small, small) && add(&mut self.large, &budget.large, more - small)
    }
}

fn add(held: &mut Option<OwnedSemaphorePermit>, budget: &Arc<Semaphore>, more: usize) -> bool {
    let Ok(more) = u32::try_from(more) else { return false };
    let Ok(taken) = Arc::clone(budget).try_acquire_many_owned(more) else { return false };
    match held {
        Some(held) => held.merge(taken),
        None => *held = Some(taken),
    }
    true
}

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError<E> {
    /// It is longer than may be; what was read of it is gone.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// There is no memory for it at the moment.
    #[error("no room for it")]
    NoRoom,
    /// The connection or the stream ended.
    #[error(transparent)]
    Broken(E),
}

/// Reads a body of at most `most` bytes. A length that is only said costs nothing. With a `budget`, what is held of it
/// comes back as well. Cancel-safe: what was read is dropped.
pub(super) async fn read<B>(
    mut body: B,
    most: usize,
    budget: Option<&Budget>,
) -> Result<(Bytes, Held), ReadError<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut held = Held::default();
    if body.size_hint().lower() > most as u64 {
        return Err(ReadError::TooLong(most));
    }
    // Most bodies come in one piece, which needs no copy.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
        let known = first.len() + rest.len();
        if data.len() > most - known {
            return Err(ReadError::TooLong(most));
        }
        if budget.is_some_and(|budget| !held.take(budget, known, data.len())) {
            return Err(ReadError::NoRoom);
        }
        if known == 0 {
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok((if rest.is_empty() { first } else { rest.freeze() }, held))
}

/// `text`, cut to `most` bytes at the border of a character.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// How many calls are in progress on a connection, and when there was one last.
#[derive(Debug, Default)]
pub(super) struct Activity {
    open: AtomicUsize,
    begun: AtomicUsize,
    ended: Notify,
}

/// One call in progress.
#[derive(Debug)]
pub(super) struct InProgress(Arc<Activity>);

impl Activity {
    /// A call begins; it ends when the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> InProgress {
        self.open.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed);
        InProgress(Arc::clone(self))
    }

    /// Waits until there was no call for `limit`, or, at the beginning, for `first`; at most for the double of that.
    /// Cancel-safe: it begins anew.
    pub(super) async fn quiet(&self, first: Duration, limit: Duration) {
        loop {
            let begun = self.begun.load(Relaxed);
            tokio::time::sleep(if begun == 0 { first } else { limit }).await;
            if self.begun.load(Relaxed) == begun && self.open.load(Relaxed) == 0 {
                return;
            }
        }
    }

    /// Whether no call is in progress.
    pub(super) fn is_none(&self) -> bool {
        self.open.load(Relaxed) == 0
    }

    /// Waits until no call is in progress. For one task at a time. Cancel-safe.
    pub(super) async fn finished(&self) {
        while self.open.load(Relaxed) > 0 {
            self.ended.notified().await;
        }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_the_border_of_a_character() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("é", 1), "");
    }

    #[test]
    fn the_name_of_any_cluster_is_a_value_and_no_two_are_the_same() {
        let names = ["a b", "a%20b", "a\u{e9}", "a\n", "", "default"];
        let value = |name: &&str| cluster_value(&Own { cluster: (*name).into(), node: 1 });
        let values: std::collections::HashSet<_> = names.iter().map(value).collect();
        assert_eq!(values.len(), names.len());
    }

    #[test]
    fn large_bodies_leave_room_for_small_ones() {
        let budget = Budget::default();
        let mut large = Held::default();
        assert!(large.take(&budget, 0, LARGE_BUDGET + SMALL));
        assert!(!Held::default().take(&budget, SMALL, 1), "there is no room for another large one");
        assert!(Held::default().take(&budget, 0, SMALL));
        drop(large);
        assert!(Held::default().take(&budget, 0, LARGEST));
    }
}
