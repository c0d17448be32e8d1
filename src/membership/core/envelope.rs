//! Seals packets, and opens those that a holder of a key of this mesh has sealed, each once. AES-256-GCM; the key of each
//! sender is derived from the mesh's, so that a counter can be the nonce and none is ever used twice.

use std::collections::BTreeMap;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA256, digest},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};

use super::{packet::MAX_LIFE, view::MemberId};
use crate::membership::{GossipKey, KeyMark};

/// Version of the form.
const VERSION: u8 = 1;
/// version, mark of the key, sender, its start, chance, counter.
const HEAD: usize = 1 + 4 + 8 + 8 + 4 + 8;
/// What AES-GCM appends.
const TAG: usize = 16;
/// What sealing adds to a packet.
pub const OVERHEAD: usize = HEAD + TAG;
/// Largest sealed packet that is looked at.
pub const MAX_SEALED: usize = super::tuning::MAX_PACKET + OVERHEAD;
/// Senders that are remembered against replays: as many as a mesh has members, and some that are gone.
const MAX_SENDERS: usize = 8192;
/// Packets may overtake each other by this many.
const WINDOW: u64 = 64;
/// Most keys at a time.
pub const MAX_KEYS: usize = super::fact::MAX_KEYS;

/// Why a packet is dropped; nobody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is too short or too long.
    Size,
    /// It has another form, or says to be of a start that cannot be.
    Version,
    /// It is sealed with a key that this mesh does not have.
    Key,
    /// It was not sealed with that key for this mesh, or was changed on its way.
    Seal,
    /// It was here before, or is too old to tell.
    Replay,
}

/// The keys of a mesh, the one to seal with first.
#[derive(Clone, Debug)]
pub struct Keyring(Vec<Kept>);

#[derive(Clone, Debug)]
struct Kept {
    mark: KeyMark,
    key: GossipKey,
}

impl KeyMark {
    /// The mark of `key`.
    #[must_use]
    pub fn of(key: &GossipKey) -> Self {
        let digest = digest(&SHA256, &key.bytes());
        Self(digest.as_ref().iter().take(4).fold(0, |mark, byte| mark << 8 | u32::from(*byte)))
    }
}

impl Keyring {
    /// A keyring with one key.
    #[must_use]
    pub fn new(key: GossipKey) -> Self {
        Self(vec![Kept { mark: KeyMark::of(&key), key }])
    }

    /// The keys, the one to seal with first.
    pub fn keys(&self) -> impl Iterator<Item = (KeyMark, &GossipKey)> {
        self.0.iter().map(|kept| (kept.mark, &kept.key))
    }

    /// What is sealed with.
    #[must_use]
    pub fn primary(&self) -> KeyMark {
        self.0[0].mark
    }

    /// The key that `mark` stands for.
    #[must_use]
    pub fn find(&self, mark: KeyMark) -> Option<&GossipKey> {
        self.0.iter().find(|kept| kept.mark == mark).map(|kept| &kept.key)
    }

    /// Adds `key` if it is not there; says whether there is room.
    pub fn install(&mut self, key: &GossipKey) -> bool {
        let mark = KeyMark::of(key);
        if self.find(mark).is_some() {
            return true;
        }
        if self.0.len() >= MAX_KEYS {
            return false;
        }
        self.0.push(Kept { mark, key: key.clone() });
        true
    }

    /// Seals with the key of `mark` from now on; says whether it is there.
    pub fn promote(&mut self, mark: KeyMark) -> bool {
        let Some(at) = self.0.iter().position(|kept| kept.mark == mark) else { return false };
        let kept = self.0.remove(at);
        self.0.insert(0, kept);
        true
    }

    /// Forgets the key of `mark`, unless it is sealed with; says whether it is gone.
    pub fn remove(&mut self, mark: KeyMark) -> bool {
        if self.primary() == mark {
            return false;
        }
        self.0.retain(|kept| kept.mark != mark);
        true
    }
}

/// Seals what one start of one member sends.
#[derive(Debug)]
pub struct Sealer {
    cluster: Vec<u8>,
    sender: MemberId,
    started: u64,
    chance: u32,
    counter: u64,
    key: Option<(KeyMark, LessSafeKey)>,
}

/// Opens what others send, and remembers it.
#[derive(Debug)]
pub struct Opener {
    cluster: Vec<u8>,
    /// Of each sender one window for each key. What was sealed with a key that is gone counts no more: else whoever had
    /// that key could have kept the sender out for ever. Nothing is opened twice for that, since what is opened by no key
    /// needs no window.
    senders: BTreeMap<MemberId, Vec<Window>>,
}

/// What a packet says to be.
#[derive(Clone, Copy, Debug)]
struct Head {
    mark: KeyMark,
    sender: MemberId,
    started: u64,
    chance: u32,
    counter: u64,
}

/// What was opened of the latest start of one sender under one key.
#[derive(Debug)]
struct Window {
    mark: KeyMark,
    started: u64,
    chance: u32,
    key: LessSafeKey,
    highest: u64,
    /// Bit n: `highest` − n was here.
    seen: u64,
}

impl Sealer {
    /// For the member `sender` of the mesh `cluster`, which started at `started`: a number that rises with each start. With
    /// `chance`, drawn for this start, no two starts have the same key even if that was lost.
    #[must_use]
    pub fn new(cluster: &str, sender: MemberId, started: u64, chance: u32) -> Self {
        Self { cluster: cluster.as_bytes().to_vec(), sender, started, chance, counter: 0, key: None }
    }

    /// Seals `packet` with the first key of `keyring`.
    pub fn seal(&mut self, packet: &[u8], keyring: &Keyring) -> Vec<u8> {
        self.counter += 1;
        let mark = keyring.primary();
        let mut sealed = Vec::with_capacity(packet.len() + OVERHEAD);
        sealed.push(VERSION);
        sealed.extend_from_slice(&mark.0.to_be_bytes());
        sealed.extend_from_slice(&self.sender.0.to_be_bytes());
        sealed.extend_from_slice(&self.started.to_be_bytes());
        sealed.extend_from_slice(&self.chance.to_be_bytes());
        sealed.extend_from_slice(&self.counter.to_be_bytes());
        let additional = additional(&self.cluster, &sealed);
        if self.key.as_ref().is_none_or(|(of, _)| *of != mark) {
            let master = &keyring.0[0].key;
            self.key = derive(master, self.sender, self.started, self.chance).map(|key| (mark, key));
        }
        let mut body = packet.to_vec();
        if let Some((_, key)) = &self.key
            && key.seal_in_place_append_tag(nonce(self.counter), Aad::from(additional), &mut body).is_ok()
        {
            sealed.append(&mut body);
            return sealed;
        }
        // Not with keys and packets of these lengths; nothing is better than something in the clear.
        Vec::new()
    }
}

impl Opener {
    /// For the mesh `cluster`.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.as_bytes().to_vec(), senders: BTreeMap::new() }
    }

    /// Opens `sealed`, once: who sent it, and the packet. What came under keys that `keyring` has no longer is forgotten.
    ///
    /// # Errors
    /// Why it is dropped. Nothing is remembered then.
    pub fn open(&mut self, sealed: &[u8], keyring: &Keyring) -> Result<(MemberId, Vec<u8>), Refused> {
        if sealed.len() < OVERHEAD || sealed.len() > MAX_SEALED {
            return Err(Refused::Size);
        }
        let (start, body) = sealed.split_at(HEAD);
        if start[0] != VERSION {
            return Err(Refused::Version);
        }
        let head = Head::read(start);
        if head.started > MAX_LIFE {
            return Err(Refused::Version);
        }
        let master = keyring.find(head.mark).ok_or(Refused::Key)?;
        let known = self.senders.get(&head.sender);
        let mut counting = known.into_iter().flatten().filter(|window| keyring.find(window.mark).is_some());
        if counting.any(|window| window.is_past(&head)) {
            return Err(Refused::Replay);
        }
        let fresh;
        let own = known.into_iter().flatten().find(|window| window.mark == head.mark && window.is_of(&head));
        let key = match own {
            Some(window) => &window.key,
            None => {
                fresh = head.key(master).ok_or(Refused::Seal)?;
                &fresh
            }
        };
        let mut body = body.to_vec();
        let opened = key
            .open_in_place(nonce(head.counter), Aad::from(additional(&self.cluster, start)), &mut body)
            .map_err(|_| Refused::Seal)?
            .len();
        body.truncate(opened);
        self.remember(&head, keyring)?;
        Ok((head.sender, body))
    }

    fn remember(&mut self, head: &Head, keyring: &Keyring) -> Result<(), Refused> {
        let windows = self.senders.get_mut(&head.sender);
        let own = windows.and_then(|windows| windows.iter_mut().find(|window| window.mark == head.mark));
        if let Some(window) = own
            && window.is_of(head)
        {
            window.note(head.counter);
            return Ok(());
        }
        let master = keyring.find(head.mark).ok_or(Refused::Key)?;
        let key = head.key(master).ok_or(Refused::Seal)?;
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&head.sender) {
            // Whoever has started longest ago is the most likely to be gone; before all, those who seal with none of the keys.
            let oldest = self.senders.iter().min_by_key(|(_, windows)| latest_start(windows, keyring));
            let oldest = oldest.map(|(id, _)| *id);
            oldest.map(|oldest| self.senders.remove(&oldest));
        }
        let Head { mark, sender, started, chance, counter } = *head;
        let windows = self.senders.entry(sender).or_default();
        // So that there are never more than keys.
        windows.retain(|window| window.mark != mark && keyring.find(window.mark).is_some());
        windows.push(Window { mark, started, chance, key, highest: counter, seen: 1 });
        Ok(())
    }
}

/// When the sender of `windows` has started last, as far as it sealed that with a key of `keyring`.
fn latest_start(windows: &[Window], keyring: &Keyring) -> Option<u64> {
    let counting = windows.iter().filter(|window| keyring.find(window.mark).is_some());
    counting.map(|window| window.started).max()
}

impl Head {
    /// Reads the first [`HEAD`] bytes of a packet.
    fn read(head: &[u8]) -> Self {
        let number = |from: usize, length: usize| {
            head[from..from + length].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        Self {
            mark: KeyMark(number(1, 4) as u32),
            sender: MemberId(number(5, 8)),
            started: number(13, 8),
            chance: number(21, 4) as u32,
            counter: number(25, 8),
        }
    }

    fn key(&self, master: &GossipKey) -> Option<LessSafeKey> {
        derive(master, self.sender, self.started, self.chance)
    }
}

impl Window {
    fn is_of(&self, head: &Head) -> bool {
        (self.started, self.chance) == (head.started, head.chance)
    }

    /// Whether a packet of this sender is of an earlier start, under whatever key; or was here, or is too old to tell, under
    /// this one.
    fn is_past(&self, head: &Head) -> bool {
        if !self.is_of(head) {
            return head.started <= self.started;
        }
        if self.mark != head.mark {
            return false;
        }
        match self.highest.checked_sub(head.counter) {
            None => false,
            Some(behind) => behind >= WINDOW || self.seen >> behind & 1 == 1,
        }
    }

    fn note(&mut self, counter: u64) {
        match counter.checked_sub(self.highest) {
            Some(ahead) => {
                self.seen = if ahead >= WINDOW { 0 } else { self.seen << ahead } | 1;
                self.highest = counter;
            }
            None => self.seen |= 1 << (self.highest - counter).min(WINDOW - 1),
        }
    }
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

/// A key for `purpose`, of which nothing can be told about any other.
fn expand(master: &GossipKey, purpose: &[&[u8]]) -> Option<LessSafeKey> {
    let prk: Prk = Salt::new(HKDF_SHA256, b"outrigger gossip").extract(&master.bytes());
    let mut key = [0; 32];
    prk.expand(purpose, Length).ok()?.fill(&mut key).ok()?;
    UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
}

fn derive(master: &GossipKey, sender: MemberId, started: u64, chance: u32) -> Option<LessSafeKey> {
    expand(master, &[b"packet", &sender.0.to_be_bytes(), &started.to_be_bytes(), &chance.to_be_bytes()])
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn additional(cluster: &[u8], head: &[u8]) -> Vec<u8> {
    [head, cluster].concat()
}

/// Which way a message on a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the one that was called.
    Question,
    /// Back.
    Answer,
}

/// One message on a connection whose both sides have drawn half of `chance`: its key is for it alone.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Drawn by both.
    pub chance: &'a [u8; 32],
    /// Which way it goes.
    pub way: Way,
    /// The how-manieth it is on its way.
    pub number: u8,
    /// Name of the mesh.
    pub cluster: &'a str,
}

impl Place<'_> {
    fn key(&self, master: &GossipKey) -> Option<LessSafeKey> {
        let way: &[u8] = match self.way {
            Way::Question => b"question",
            Way::Answer => b"answer",
        };
        expand(master, &[way, &[self.number], self.chance])
    }
}

/// Seals a message for its place; `None` never happens with messages of a length that is sent.
#[must_use]
pub fn seal_message(message: &[u8], place: Place<'_>, keyring: &Keyring) -> Option<Vec<u8>> {
    let mark = keyring.primary();
    let key = place.key(&keyring.0[0].key)?;
    let mut sealed = message.to_vec();
    key.seal_in_place_append_tag(nonce(0), Aad::from(place.cluster.as_bytes()), &mut sealed).ok()?;
    Some([&mark.0.to_be_bytes()[..], &sealed].concat())
}

/// Opens what [`seal_message`] has sealed for this place with any key of `keyring`.
///
/// # Errors
/// As [`Opener::open`].
pub fn open_message(sealed: &[u8], place: Place<'_>, keyring: &Keyring) -> Result<Vec<u8>, Refused> {
    let (mark, body) = sealed.split_first_chunk::<4>().ok_or(Refused::Size)?;
    let master = keyring.find(KeyMark(u32::from_be_bytes(*mark))).ok_or(Refused::Key)?;
    let key = place.key(master).ok_or(Refused::Seal)?;
    let mut body = body.to_vec();
    let opened = key
        .open_in_place(nonce(0), Aad::from(place.cluster.as_bytes()), &mut body)
        .map_err(|_| Refused::Seal)?
        .len();
    body.truncate(opened);
    Ok(body)
}

#[cfg(test)]
mod tests;
