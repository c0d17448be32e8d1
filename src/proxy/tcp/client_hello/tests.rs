//! Hellos whole and in pieces, with names and without, and what only looks like one.

use proptest::prelude::*;

use super::*;

fn long(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &long(content)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(EXTENSION_SERVER_NAME, &long(&[&[HOST_NAME][..], &long(name)].concat()))
}

/// A handshake message with these extensions; `None` has no block of extensions.
fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([4, 1, 2, 3, 4]);
    body.extend(long(&[0x13, 0x01, 0x13, 0x02]));
    body.extend([1, 0]);
    body.extend(extensions.map(long).unwrap_or_default());
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO, length[1], length[2], length[3]][..], &body].concat()
}

/// The message in records of `sizes`, the last of which is repeated.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = message;
    let mut sizes = sizes.iter().copied();
    let mut size = MAX_RECORD;
    while !rest.is_empty() {
        size = sizes.next().unwrap_or(size).clamp(1, MAX_RECORD);
        let (now, later) = rest.split_at(size.min(rest.len()));
        bytes.extend([HANDSHAKE, 3, 1]);
        bytes.extend(long(now));
        rest = later;
    }
    bytes
}

fn read(bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
    HelloReader::default().push(bytes)
}

fn name_of(bytes: &[u8]) -> Option<String> {
    read(bytes).unwrap().expect("it is complete").server_name
}

#[test]
fn the_name_is_found_among_other_extensions_and_put_in_lower_case() {
    let extensions =
        [extension(43, &[2, 3, 4]), server_name(b"DB.Example"), extension(51, &[0; 1200])].concat();
    let hello = records(&message(Some(&extensions)), &[]);
    assert_eq!(name_of(&hello).as_deref(), Some("db.example"));
    assert_eq!(
        name_of(&[&hello[..], b"what follows is not looked at"].concat()).as_deref(),
        Some("db.example")
    );
}

#[test]
fn a_client_may_ask_for_nobody() {
    assert_eq!(name_of(&records(&message(None), &[])), None);
    assert_eq!(name_of(&records(&message(Some(b"")), &[])), None);
    assert_eq!(name_of(&records(&message(Some(&extension(43, &[2, 3, 4]))), &[])), None);
}

#[test]
fn what_is_no_tls_is_refused_with_its_first_byte() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x17\x03\x03\x00\x01\x00", b"\x80\x2e\x01", b"\x16\x02"] {
        assert_eq!(read(bytes), Err(HelloError::NotTls), "{bytes:?}");
    }
}

#[test]
fn malformed_hellos_are_refused() {
    let twice = [server_name(b"a"), server_name(b"b")].concat();
    let two = extension(0, &long(&[&[0][..], &long(b"a"), &[0], &long(b"b")].concat()));
    let trailing = {
        let mut message = message(Some(&server_name(b"a")));
        message.push(0);
        message[3] += 1;
        message
    };
    for wrong in [
        records(&message(Some(&twice)), &[]),
        records(&message(Some(&two)), &[]),
        records(&message(Some(&server_name(b""))), &[]),
        records(&message(Some(&server_name(b"a..b"))), &[]),
        records(&message(Some(&server_name(b"a\r\nb"))), &[]),
        records(&message(Some(&server_name(&[b'a'; 64]))), &[]),
        records(&message(Some(&extension(0, &long(b"")))), &[]),
        records(&message(Some(&[0, 0, 0, 9])), &[]),
        records(&trailing, &[]),
        // An empty record, one that is too long, a message of another kind, another content type in between.
        vec![HANDSHAKE, 3, 1, 0, 0],
        vec![HANDSHAKE, 3, 1, 0x40, 1],
        vec![HANDSHAKE, 3, 1, 0, 4, 2, 0, 0, 0],
        [&records(&message(None)[..9], &[]), &[21, 3, 1, 0, 2, 1, 0][..]].concat(),
    ] {
        assert_eq!(read(&wrong), Err(HelloError::Malformed), "{wrong:?}");
    }
}

#[test]
fn a_hello_without_end_is_given_up() {
    let endless = [&[CLIENT_HELLO, 0, 0x3f, 0xff][..], &[0; MAX_HELLO]].concat();
    assert_eq!(read(&records(&endless, &[])), Err(HelloError::TooLong));
    assert_eq!(read(&records(&endless, &[1])), Err(HelloError::TooLong));
    assert_eq!(read(&[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 1, 0, 0]), Err(HelloError::TooLong));
}

proptest! {
    #[test]
    fn records_and_reads_of_any_size_give_the_same_name(
        name in "[a-z0-9]{1,20}(\\.[a-z0-9-]{1,20}){0,4}",
        before in prop::collection::vec((1_u16..100, prop::collection::vec(any::<u8>(), 0..40)), 0..5),
        sizes in prop::collection::vec(1_usize..200, 0..10),
        reads in prop::collection::vec(1_usize..50, 1..10),
    ) {
        let mut extensions: Vec<u8> = before.iter().flat_map(|(kind, content)| extension(*kind, content)).collect();
        extensions.extend(server_name(name.as_bytes()));
        let bytes = records(&message(Some(&extensions)), &sizes);
        let mut reader = HelloReader::default();
        let mut found = None;
        let mut rest = &bytes[..];
        for size in reads.iter().cycle() {
            let (now, later) = rest.split_at((*size).min(rest.len()));
            found = reader.push(now).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
            prop_assert!(found.is_none(), "before the last byte");
        }
        prop_assert_eq!(found.and_then(|hello| hello.server_name), Some(name));
    }

    #[test]
    fn the_verdict_does_not_depend_on_the_cut(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        sizes in prop::collection::vec(1_usize..50, 0..5),
        rest in any::<Vec<u8>>(),
    ) {
        let mut bytes = records(&message(Some(&server_name(b"db.example"))), &sizes);
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.extend(rest);
        let whole = read(&bytes);
        let mut reader = HelloReader::default();
        let piecewise = bytes.iter().map(|byte| reader.push(&[*byte])).find(|found| !matches!(found, Ok(None)));
        prop_assert_eq!(whole, piecewise.unwrap_or(Ok(None)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes);
    }
}
