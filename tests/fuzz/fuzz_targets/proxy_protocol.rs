//! A PROXY header, whole and byte by byte; what passes can be written again and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::{
    net::proxy_protocol::{MAX_HEADER, Parsed, parse, write},
    types::ProxyVersion,
};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let first = (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|found| *found != Ok(Parsed::Incomplete));
    assert_eq!(whole, first.unwrap_or(Ok(Parsed::Incomplete)));
    let Ok(Parsed::Complete { length, addresses }) = whole else { return };
    assert!(length <= MAX_HEADER && length <= bytes.len());
    let Some(addresses) = addresses else { return };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let header = write(version, addresses);
        let Ok(Parsed::Complete { length, addresses: Some(found) }) = parse(&header) else { panic!("{header:?}") };
        assert_eq!(length, header.len());
        assert_eq!(found.source.ip().to_canonical(), addresses.source.ip().to_canonical());
        assert_eq!(found.destination.ip().to_canonical(), addresses.destination.ip().to_canonical());
    }
});
