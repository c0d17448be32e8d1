//! The PROXY protocol, versions 1 and 2: by it a load balancer tells whose connection it passes on. Pure: bytes in,
//! addresses out, and back. Reading it off a connection is proxy/origin.rs. Source: haproxy.org, proxy-protocol.txt.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::types::ProxyVersion;

/// Longest header that is taken. The specification promises senders that 536 bytes fit one segment; what exceeds them
/// is extensions that nobody here reads.
pub const MAX_HEADER: usize = 536;

/// Longest header of version 1, with its line break.
const MAX_LINE: usize = 107;
/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family, length.
const FIXED: usize = 16;

/// Both ends of the connection that the sender passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Who opened it.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Incomplete,
    /// A header.
    Complete {
        /// Its length; what follows belongs to the connection.
        length: usize,
        /// `None` if the sender speaks for itself (a health check), or does not know, or the addresses are not of TCP:
        /// then those of the connection itself count.
        addresses: Option<Addresses>,
    },
}

/// Why bytes are no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// They begin differently.
    #[error("no PROXY header")]
    Absent,
    /// They begin like one.
    #[error("malformed PROXY header")]
    Malformed,
    /// Longer than [`MAX_HEADER`].
    #[error("PROXY header is too long")]
    TooLong,
}

/// Reads a header of either version off the front of `bytes`. The verdict does not depend on how the bytes were cut:
/// more of them never change [`Parsed::Complete`] or an error.
///
/// # Errors
/// See [`HeaderError`].
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    match bytes.first() {
        None => Ok(Parsed::Incomplete),
        Some(b'P') => parse_line(bytes),
        Some(_) => parse_binary(bytes),
    }
}

fn parse_line(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    const START: &[u8] = b"PROXY ";
    let common = bytes.len().min(START.len());
    if bytes[..common] != START[..common] {
        return Err(HeaderError::Absent);
    }
    let line = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() == MAX_LINE { Err(HeaderError::Malformed) } else { Ok(Parsed::Incomplete) };
    };
    let text = line[..end].strip_suffix(b"\r").and_then(|line| line.get(START.len()..));
    let text = text.and_then(|text| std::str::from_utf8(text).ok()).ok_or(HeaderError::Malformed)?;
    let addresses = match text.split_once(' ').map_or((text, ""), |(family, rest)| (family, rest)) {
        // Whatever follows is to be ignored.
        ("UNKNOWN", _) => None,
        ("TCP4", rest) => Some(words::<Ipv4Addr>(rest).ok_or(HeaderError::Malformed)?),
        ("TCP6", rest) => Some(words::<Ipv6Addr>(rest).ok_or(HeaderError::Malformed)?),
        _ => return Err(HeaderError::Malformed),
    };
    Ok(Parsed::Complete { length: end + 1, addresses })
}

/// `source destination source-port destination-port`, with single spaces.
fn words<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Option<Addresses> {
    let mut words = text.split(' ');
    let mut address = || words.next()?.parse::<A>().ok().map(Into::<IpAddr>::into);
    let (source, destination) = (address()?, address()?);
    let mut port = || words.next().and_then(port);
    let (from, to) = (port()?, port()?);
    words.next().is_none().then_some(Addresses {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    })
}

/// Digits without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn parse_binary(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] != SIGNATURE[..common] {
        return Err(HeaderError::Absent);
    }
    // Version and command are judged as soon as they are there, so that a cut does not change the verdict.
    let Some(&command) = bytes.get(12) else { return Ok(Parsed::Incomplete) };
    if !matches!(command, 0x20 | 0x21) {
        return Err(HeaderError::Malformed);
    }
    let Some(fixed) = bytes.get(..FIXED) else { return Ok(Parsed::Incomplete) };
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_HEADER {
        return Err(HeaderError::TooLong);
    }
    let Some(payload) = bytes.get(FIXED..length) else { return Ok(Parsed::Incomplete) };
    // LOCAL: the sender speaks for itself, and the rest is to be skipped whatever it is, addresses of any family or
    // none at all (CVE-2024-23327 was a proxy that looked at them).
    let addresses = if command == 0x20 { None } else { block(fixed[13], payload)? };
    Ok(Parsed::Complete { length, addresses })
}

/// The addresses in front of the extensions, if they are of TCP.
fn block(family: u8, payload: &[u8]) -> Result<Option<Addresses>, HeaderError> {
    let needed = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(HeaderError::Malformed),
    };
    let Some(block) = payload.get(..needed) else { return Err(HeaderError::Malformed) };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let addresses = match family {
        0x11 => Addresses {
            source: (four(&block[..4]), port(8)).into(),
            destination: (four(&block[4..8]), port(10)).into(),
        },
        0x21 => Addresses {
            source: (six(&block[..16]), port(32)).into(),
            destination: (six(&block[16..32]), port(34)).into(),
        },
        _ => return Ok(None),
    };
    Ok(Some(addresses))
}

fn four(octets: &[u8]) -> Ipv4Addr {
    octets.try_into().map_or(Ipv4Addr::UNSPECIFIED, |octets: [u8; 4]| octets.into())
}

fn six(octets: &[u8]) -> Ipv6Addr {
    octets.try_into().map_or(Ipv6Addr::UNSPECIFIED, |octets: [u8; 16]| octets.into())
}

/// Writes the header that tells `addresses`. If only one of them is of IPv4, it is written as the IPv6 address that
/// maps it: a header has one family.
#[must_use]
pub fn write(version: ProxyVersion, addresses: Addresses) -> Vec<u8> {
    let Addresses { source, destination } = addresses;
    let (from, to) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (from @ IpAddr::V4(_), to @ IpAddr::V4(_)) => (from, to),
        (from, to) => (IpAddr::V6(mapped(from)), IpAddr::V6(mapped(to))),
    };
    let mut header = Vec::with_capacity(MAX_LINE);
    match version {
        ProxyVersion::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            // Writing to memory does not fail.
            let _ = write!(header, "PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
        }
        ProxyVersion::V2 => {
            header.extend_from_slice(SIGNATURE);
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.extend_from_slice(&[0x21, 0x11, 0, 12]);
                    header.extend_from_slice(&from.octets());
                    header.extend_from_slice(&to.octets());
                }
                (from, to) => {
                    header.extend_from_slice(&[0x21, 0x21, 0, 36]);
                    header.extend_from_slice(&mapped(from).octets());
                    header.extend_from_slice(&mapped(to).octets());
                }
            }
            header.extend_from_slice(&source.port().to_be_bytes());
            header.extend_from_slice(&destination.port().to_be_bytes());
        }
    }
    header
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests;
