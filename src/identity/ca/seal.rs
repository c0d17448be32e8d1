//! The key that a certificate authority's secrets are locked with, and the two ways of locking: encrypted (private keys
//! of roots) and authenticated (the state). Which files there are is told in authority.rs.
//!
//! An encrypted file is, in this order: eight bytes of magic, one of version, one for the algorithm, what it is for
//! (one byte of length, then text), the name of the key, the nonce, the ciphertext with its tag. All before the nonce is
//! authenticated with it, so a file cannot pass for one of another purpose. The nonce is drawn for each encryption.

use std::{fmt, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};

use super::{error::CaError, files, hex, names::random};

/// 32 bytes from which the keys for all purposes are derived. Whoever has it and the directory has the authority.
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// A new one.
    ///
    /// # Errors
    /// [`CaError::NoChance`].
    pub fn random() -> Result<Self, CaError> {
        random().map(Self)
    }

    /// From 64 hexadecimal digits, with white space around them. `place` is where they come from, for the error.
    ///
    /// # Errors
    /// [`CaError::KeyText`].
    pub fn from_hex(text: &str, place: &str) -> Result<Self, CaError> {
        hex::decode(text.trim()).map(Self).ok_or_else(|| CaError::KeyText { place: place.to_owned() })
    }

    /// From a file that only its owner can read.
    ///
    /// # Errors
    /// [`CaError::KeyExposed`], [`CaError::KeyText`], [`CaError::File`].
    pub fn read(path: &Path) -> Result<Self, CaError> {
        let (file, mode) = files::open(path)?;
        if mode & 0o077 != 0 {
            return Err(CaError::KeyExposed { path: path.to_owned(), mode });
        }
        let bytes = files::read_open(file, path, MAX_KEY_FILE)?;
        Self::from_hex(&String::from_utf8_lossy(&bytes), &path.display().to_string())
    }

    /// Writes it to a new file that only its owner can read, in a directory that is made if it is missing.
    ///
    /// # Errors
    /// [`CaError::File`], also if there is a file by that name: whatever it is the key of would be lost.
    pub fn write(&self, path: &Path) -> Result<(), CaError> {
        files::make_directory(files::parent(path))?;
        files::create(path, format!("{}\n", hex::encode(&self.0)).as_bytes())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// What a master key is called in files and messages. Says nothing about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// The keys that are derived from one master key, one for each purpose.
pub(super) struct Keys {
    id: KeyId,
    encryption: LessSafeKey,
    authentication: hmac::Key,
}

impl Keys {
    pub(super) fn derive(master: &MasterKey) -> Result<Self, CaError> {
        // HMAC with a uniformly random key is a pseudo-random function: each label gives an independent key.
        let master = hmac::Key::new(hmac::HMAC_SHA256, &master.0);
        let derived = |label: &str| hmac::sign(&master, label.as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&derived("outrigger ca 1 key id").as_ref()[..8]);
        let encryption = UnboundKey::new(&AES_256_GCM, derived("outrigger ca 1 encryption").as_ref())
            .map_err(|_| CaError::Encrypt)?;
        let authentication = derived("outrigger ca 1 authentication");
        Ok(Self {
            id: KeyId(id),
            encryption: LessSafeKey::new(encryption),
            authentication: hmac::Key::new(hmac::HMAC_SHA256, authentication.as_ref()),
        })
    }

    /// `plain` as an encrypted file for `purpose`, which has at most 255 bytes.
    pub(super) fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, CaError> {
        let header = self.header(purpose)?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = plain.to_vec();
        self.encryption
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&header), &mut sealed)
            .map_err(|_| CaError::Encrypt)?;
        Ok([header.as_slice(), nonce.as_slice(), &sealed].concat())
    }

    /// What [`Self::seal`] encrypted for the same purpose. `path` is for the error.
    pub(super) fn open(&self, purpose: &str, file: &[u8], path: &Path) -> Result<Vec<u8>, CaError> {
        let damaged = |why: &str| CaError::Damaged { path: path.to_owned(), why: why.to_owned() };
        let header = self.header(purpose)?;
        if file.len() < header.len() + NONCE_LEN {
            return Err(damaged("it is cut off"));
        }
        let (found, rest) = file.split_at(header.len());
        let (found_fixed, found_id) = found.split_at(header.len() - self.id.0.len());
        if found_fixed != &header[..found_fixed.len()] {
            return Err(damaged(&format!("it does not begin like an encrypted file for `{purpose}`")));
        }
        self.is_named(found_id, path)?;
        let (nonce, sealed) = rest.split_at(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged("it is cut off"))?;
        let mut plain = sealed.to_vec();
        let length = self
            .encryption
            .open_in_place(nonce, Aad::from(&header), &mut plain)
            .map_err(|_| damaged("it was changed, or cut off"))?
            .len();
        plain.truncate(length);
        Ok(plain)
    }

    /// `body` behind a line that proves that this key's owner wrote it.
    pub(super) fn sign(&self, magic: &str, body: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.authentication, &self.signed(magic, body));
        let line = format!("{magic} {} {}\n", self.id, hex::encode(tag.as_ref()));
        [line.as_bytes(), body].concat()
    }

    /// The body of what [`Self::sign`] made. `path` is for the error.
    pub(super) fn verify<'a>(&self, magic: &str, file: &'a [u8], path: &Path) -> Result<&'a [u8], CaError> {
        let damaged = |why: &str| CaError::Damaged { path: path.to_owned(), why: why.to_owned() };
        let end = file.iter().take(MAX_LINE).position(|byte| *byte == b'\n');
        let (line, body) = file.split_at(end.ok_or_else(|| damaged("its first line is not whole"))?);
        let body = &body[1..];
        let words = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.strip_prefix(magic)?.strip_prefix(' ')?.split_once(' '))
            .and_then(|(id, tag)| Some((hex::decode::<8>(id)?, hex::decode::<32>(tag)?)));
        let Some((id, tag)) = words else {
            return Err(damaged(&format!("its first line is not `{magic}` with a key and a proof")));
        };
        self.is_named(&id, path)?;
        hmac::verify(&self.authentication, &self.signed(magic, body), &tag)
            .map_err(|_| damaged("it was changed by something else, or cut off"))?;
        Ok(body)
    }

    fn is_named(&self, id: &[u8], path: &Path) -> Result<(), CaError> {
        let mut written_with = KeyId([0; 8]);
        written_with.0.copy_from_slice(id);
        if written_with == self.id {
            return Ok(());
        }
        Err(CaError::WrongKey { path: path.to_owned(), written_with, given: self.id })
    }

    fn signed(&self, magic: &str, body: &[u8]) -> Vec<u8> {
        [format!("{magic} {}\n", self.id).as_bytes(), body].concat()
    }

    fn header(&self, purpose: &str) -> Result<Vec<u8>, CaError> {
        let length = u8::try_from(purpose.len()).map_err(|_| CaError::Encrypt)?;
        let mut header = MAGIC.to_vec();
        header.extend([VERSION, AES_256_GCM_ID, length]);
        header.extend(purpose.as_bytes());
        header.extend(self.id.0);
        Ok(header)
    }
}

const MAGIC: &[u8; 8] = b"outrgcak";
const VERSION: u8 = 1;
const AES_256_GCM_ID: u8 = 1;
/// A key is 64 digits; more is another file.
const MAX_KEY_FILE: u64 = 4096;
/// Longest first line of an authenticated file.
const MAX_LINE: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn keys() -> Keys {
        Keys::derive(&MasterKey([7; 32])).unwrap()
    }

    fn here() -> &'static Path {
        Path::new("/ca/file")
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_for_the_same_purpose_only() {
        let sealed = keys().seal("root 1", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(keys().open("root 1", &sealed, here()).unwrap(), b"secret");
        let other = keys().open("root 2", &sealed, here()).unwrap_err();
        assert!(matches!(other, CaError::Damaged { .. }), "{other}");
        let wrong = Keys::derive(&MasterKey([8; 32])).unwrap().open("root 1", &sealed, here()).unwrap_err();
        assert!(matches!(wrong, CaError::WrongKey { .. }), "{wrong}");
        assert!(wrong.to_string().contains("/ca/file"), "{wrong}");
    }

    #[test]
    fn a_sealed_file_with_any_byte_changed_or_missing_is_refused() {
        let sealed = keys().seal("root 1", b"secret").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys().open("root 1", &changed, here()).is_err(), "byte {at} changed");
            assert!(keys().open("root 1", &sealed[..at], here()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn no_two_encryptions_share_a_nonce_or_a_ciphertext() {
        let keys = keys();
        let header = keys.header("root 1").unwrap().len();
        let mut nonces = HashSet::new();
        let mut texts = HashSet::new();
        for _ in 0..4096 {
            let sealed = keys.seal("root 1", b"secret").unwrap();
            assert!(nonces.insert(sealed[header..header + NONCE_LEN].to_vec()));
            assert!(texts.insert(sealed[header + NONCE_LEN..].to_vec()));
        }
    }

    #[test]
    fn a_signed_file_with_any_byte_changed_or_missing_is_refused() {
        let signed = keys().sign("magic 1", b"{\"a\":1}");
        assert_eq!(keys().verify("magic 1", &signed, here()).unwrap(), b"{\"a\":1}");
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert!(keys().verify("magic 1", &changed, here()).is_err(), "byte {at} changed");
            assert!(keys().verify("magic 1", &signed[..at], here()).is_err(), "cut at {at}");
        }
        let wrong = Keys::derive(&MasterKey([8; 32])).unwrap();
        assert!(matches!(wrong.verify("magic 1", &signed, here()), Err(CaError::WrongKey { .. })));
    }

    #[test]
    fn a_master_key_shows_itself_in_no_debug_output() {
        assert_eq!(format!("{:?}", MasterKey([7; 32])), "MasterKey(..)");
    }
}
