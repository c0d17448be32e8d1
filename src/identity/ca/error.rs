//! Why the certificate authority could not do what it was asked for.

use std::{io, path::PathBuf};

use super::{copy::CopyNumber, names::Serial, seal::KeyId, state::Leaf};

/// What went wrong. Unless it says so, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// As in "cannot read".
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no authority in this directory.
    #[error("there is no certificate authority in {}", .0.display())]
    Absent(PathBuf),
    /// There is one already.
    #[error("there is a certificate authority in {} already", .0.display())]
    Exists(PathBuf),
    /// The directory has files that are not an authority's.
    #[error("{} has other files in it", .0.display())]
    NotEmpty(PathBuf),
    /// Another process works on it, and did not finish soon.
    #[error("another process is changing the certificate authority in {}", .0.display())]
    Busy(PathBuf),
    /// A file was cut off, changed, or never was what its name says.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// The file is whole, as far as can be told, and was written with another key.
    #[error("{} was written with the key {written_with}, and the key given is {given}", path.display())]
    WrongKey {
        /// Which file.
        path: PathBuf,
        /// Name of the key it needs.
        written_with: KeyId,
        /// Name of the key at hand.
        given: KeyId,
    },
    /// The key that everything is encrypted with is none.
    #[error("{place} holds no key of 64 hexadecimal digits")]
    KeyText {
        /// File or variable.
        place: String,
    },
    /// Others than its owner can read the key.
    #[error("{} can be read by others than its owner (mode {mode:04o})", path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another directory holds the authority by now, or this one is an old backup.
    #[error(
        "copy {copy} in the store of the mesh was made by another directory than {}, or by a later state of it: it signs \
         nothing any more",
        directory.display()
    )]
    Superseded {
        /// The one that was left behind.
        directory: PathBuf,
        /// The copy by which that was found out.
        copy: CopyNumber,
    },
    /// There is a copy of an authority with other roots.
    #[error("the store of the mesh has copy {0} of another authority, made with the same key")]
    OtherAuthority(CopyNumber),
    /// It was proved to be ours, and cannot be read.
    #[error("{what} was written by another version of Outrigger: {why}")]
    OtherVersion {
        /// Which file.
        what: String,
        /// What is strange in it.
        why: String,
    },
    /// A lifetime is too short or too long.
    #[error("the lifetime of a {of} must be at least {least} and at most {most}")]
    Lifetime {
        /// Of what.
        of: &'static str,
        /// Shortest.
        least: humantime::FormattedDuration,
        /// Longest.
        most: humantime::FormattedDuration,
    },
    /// The identity belongs to another mesh.
    #[error("the identity {identity} is not of the trust domain {trust_domain}")]
    Foreign {
        /// Whose.
        identity: String,
        /// The authority's.
        trust_domain: String,
    },
    /// A request for a certificate was not accepted.
    #[error("the certificate signing request is refused")]
    Request(#[source] RequestError),
    /// The signing root is at its end.
    #[error("root {generation} expires at {at}, too soon to sign with it")]
    RootExpired {
        /// Which root.
        generation: u32,
        /// Its end.
        at: super::Stamp,
    },
    /// No certificate of this serial is known, or it expired long ago.
    #[error("no certificate with the serial {0} is known")]
    UnknownSerial(Serial),
    /// The old root cannot go yet. Each of these would be refused by everybody.
    #[error("the old root is still needed by {} certificate(s)", .0.len())]
    InTheWay(Vec<Leaf>),
    /// The new root cannot sign yet. Each of these may refuse what it signs.
    #[error("{} certificate(s) were handed out without the new root, and nobody has fetched it for them", .0.len())]
    Unaware(Vec<Leaf>),
    /// A certificate does not entitle to a new one.
    #[error("the certificate is not renewed")]
    Renewal(#[source] RenewalError),
    /// A join token was not accepted.
    #[error("the join token is refused")]
    Token(#[source] TokenError),
    /// There are as many as it can keep.
    #[error("there are more than {most} {what}")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many it can keep.
        most: usize,
    },
    /// The certificate that would be replaced is not an earlier one for the same identity.
    #[error("{} is not an earlier certificate of {identity}", path.display())]
    NotOurs {
        /// The file in the way.
        path: PathBuf,
        /// For whom the new one is.
        identity: String,
    },
    /// A certificate or list could not be made.
    #[error("cannot make {what}")]
    Make {
        /// What.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// The machine gives no random numbers.
    #[error("the machine gives no random numbers")]
    NoChance,
    /// Encryption failed, which it does only for sizes that do not occur.
    #[error("cannot encrypt")]
    Encrypt,
}

/// Why a certificate signing request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More than 16 KiB.
    #[error("it is longer than 16 KiB")]
    TooLong,
    /// Not one PEM block with a request, or bytes after it.
    #[error("it is not one certificate signing request in PEM")]
    Malformed,
    /// Whoever made it does not have the key, or signed with SHA-1.
    #[error("its signature is not by the key in it, with SHA-256 or better")]
    Signature,
    /// Not of the kinds that are strong enough and that TLS uses.
    #[error("its key is none of ECDSA P-256, ECDSA P-384, Ed25519, RSA from 2048 to 8192 bits")]
    Key,
    /// It asks for an identity that its sender is not entitled to.
    #[error("it asks for another identity")]
    Identity,
}

/// Why a certificate does not entitle its bearer to a new one. A peer is told only that it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewalError {
    /// The authority does not remember to have signed it, or not for this identity.
    #[error("it is unknown to the authority")]
    Unknown,
    /// It was revoked.
    #[error("it is revoked")]
    Revoked,
    /// Too late.
    #[error("it has expired")]
    Expired,
    /// Its bearer asks again and again.
    #[error("its instance has too many certificates that have not expired")]
    TooMany,
}

/// Why a join token is refused. A peer is told only that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not look like one.
    #[error("it is not of the form ort1.ID.SECRET.FINGERPRINT")]
    Malformed,
    /// No such id, or not its secret.
    #[error("it is unknown")]
    Unknown,
    /// Too late.
    #[error("it has expired")]
    Expired,
    /// It was used before.
    #[error("it was used already")]
    Spent,
}
