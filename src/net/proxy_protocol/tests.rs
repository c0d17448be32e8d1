//! Headers as they are sent, as they should not be, and as nobody would think of.

use proptest::prelude::*;

use super::*;

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn complete(bytes: &[u8]) -> (usize, Option<Addresses>) {
    match parse(bytes) {
        Ok(Parsed::Complete { length, addresses }) => (length, addresses),
        other => panic!("{other:?}"),
    }
}

fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, payload].concat()
}

#[test]
fn a_line_names_both_ends() {
    let four = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET /";
    assert_eq!(complete(four), (45, Some(addresses("192.0.2.1:56324", "198.51.100.2:443"))));
    let six = b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n";
    assert_eq!(complete(six), (six.len(), Some(addresses("[2001:db8::1]:1", "[::1]:65535"))));
}

#[test]
fn a_sender_that_does_not_know_leaves_the_addresses_of_the_connection() {
    assert_eq!(complete(b"PROXY UNKNOWN\r\n"), (15, None));
    assert_eq!(complete(b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n"), (36, None));
}

#[test]
fn malformed_lines_are_refused() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY UNKNOWN\n",
        "PROXY unknown\r\n",
    ] {
        assert_eq!(parse(line.as_bytes()), Err(HeaderError::Malformed), "{line:?}");
    }
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat();
    assert_eq!(parse(&endless[..MAX_LINE - 1]), Ok(Parsed::Incomplete));
    assert_eq!(parse(&endless), Err(HeaderError::Malformed));
}

#[test]
fn anything_else_first_is_no_header() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0", b"POST", b"\x16\x03\x01", b"\r\n\r\n\0\r\nQUIX"]
    {
        assert_eq!(parse(bytes), Err(HeaderError::Absent), "{bytes:?}");
    }
}

#[test]
fn a_binary_header_names_both_ends_and_its_extensions_are_skipped() {
    let four = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
    let with_extensions = [&four[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
    let expected = Some(addresses("192.0.2.1:56324", "198.51.100.2:443"));
    assert_eq!(complete(&binary(0x21, 0x11, &four)), (28, expected));
    assert_eq!(complete(&binary(0x21, 0x11, &with_extensions)), (35, expected));
    let six = [&[0x20; 16][..], &[0x21; 16], &[0, 80, 1, 187]].concat();
    let (_, found) = complete(&binary(0x21, 0x21, &six));
    let found = found.unwrap();
    assert_eq!((found.source.port(), found.destination.port()), (80, 443));
}

#[test]
fn local_and_foreign_families_leave_the_addresses_of_the_connection() {
    // LOCAL with nothing, with a family but without its addresses, with a family that does not exist.
    for header in [binary(0x20, 0x00, b""), binary(0x20, 0x11, b""), binary(0x20, 0xff, b"junk")] {
        assert_eq!(complete(&header), (header.len(), None), "{header:?}");
    }
    for (family, length) in [(0x00, 0), (0x00, 5), (0x12, 12), (0x22, 36), (0x31, 216), (0x32, 220)] {
        let header = binary(0x21, family, &vec![7; length]);
        assert_eq!(complete(&header), (header.len(), None), "{family:#x}");
    }
}

#[test]
fn malformed_binary_headers_are_refused() {
    for (command, family, length) in [
        (0x22, 0x11, 12),
        (0x11, 0x11, 12),
        (0x21, 0x11, 11),
        (0x21, 0x21, 35),
        (0x21, 0x31, 215),
        (0x21, 0x41, 300),
    ] {
        let header = binary(command, family, &vec![0; length]);
        assert_eq!(parse(&header), Err(HeaderError::Malformed), "{command:#x} {family:#x} {length}");
    }
    assert!(parse(&binary(0x21, 0x11, &[0; MAX_HEADER - FIXED])).is_ok());
    assert_eq!(parse(&binary(0x21, 0x11, &[0; MAX_HEADER - FIXED + 1])[..FIXED]), Err(HeaderError::TooLong));
}

#[test]
fn a_header_has_one_family() {
    let mixed = addresses("192.0.2.1:1", "[2001:db8::1]:2");
    let line = String::from_utf8(write(ProxyVersion::V1, mixed)).unwrap();
    assert_eq!(line, "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
    // An IPv4 client of a socket that serves both families.
    let mapped = addresses("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2");
    let line = String::from_utf8(write(ProxyVersion::V1, mapped)).unwrap();
    assert_eq!(line, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

proptest! {
    #[test]
    fn what_was_written_reads_back(source in any_address(), destination in any_address(), rest in any::<Vec<u8>>()) {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let header = write(version, Addresses { source, destination });
            prop_assert!(header.len() <= MAX_LINE);
            let (length, found) = complete(&[&header[..], &rest].concat());
            prop_assert_eq!(length, header.len());
            let found = found.unwrap();
            let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
            prop_assert_eq!((canonical(found.source), canonical(found.destination)), (source, destination));
        }
    }

    #[test]
    fn the_verdict_does_not_depend_on_the_cut(
        start in prop_oneof![Just(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n".to_vec()), Just(binary(0x21, 0x11, &[9; 20])), Just(Vec::new())],
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        rest in any::<Vec<u8>>(),
    ) {
        let mut bytes = [start, rest].concat();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = parse(&bytes);
        let first = (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|found| *found != Ok(Parsed::Incomplete));
        prop_assert_eq!(whole, first.unwrap_or(Ok(Parsed::Incomplete)));
    }
}
