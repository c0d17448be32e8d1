//! Whatever the order of messages and wherever the network cuts them, the service sees the same requests with
//! the same bodies.

use proptest::prelude::*;

use super::hyper_server::{Event, Script, serve};

/// A message as sent, and what the service should see of it; `None` ends the connection with a refusal.
#[derive(Clone, Debug)]
struct Message {
    bytes: Vec<u8>,
    expected: Option<Event>,
    last: bool,
}

fn request(
    method: &str,
    target: &str,
    fields: &str,
    payload: &[u8],
    body: &[u8],
    trailers: usize,
) -> Message {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n");
    let expected = Event::Request {
        method: method.to_owned(),
        target: target.to_owned(),
        body: body.to_vec(),
        trailers,
    };
    Message {
        bytes: [head.as_bytes(), payload].concat(),
        expected: Some(expected),
        last: fields.contains("close"),
    }
}

fn chunked(pieces: &[Vec<u8>], extension: &str, trailers: usize) -> Message {
    let mut payload = Vec::new();
    for piece in pieces {
        payload.extend_from_slice(format!("{:x}{extension}\r\n", piece.len()).as_bytes());
        payload.extend_from_slice(piece);
        payload.extend_from_slice(b"\r\n");
    }
    payload.extend_from_slice(b"0\r\n");
    for index in 0..trailers {
        payload.extend_from_slice(format!("X-Trailer-{index}: value\r\n").as_bytes());
    }
    payload.extend_from_slice(b"\r\n");
    request("PUT", "/chunked", "Transfer-Encoding: chunked\r\n", &payload, &pieces.concat(), trailers)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    // Bodies that look like framing are the interesting ones.
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..200),
        Just(b"\r\n\r\n".to_vec()),
        Just(b"0\r\n\r\nGET /inner HTTP/1.1\r\nHost: b\r\n\r\n".to_vec()),
        (1usize..40_000).prop_map(|len| vec![b'x'; len]),
    ]
}

fn refused() -> impl Strategy<Value = Message> {
    prop_oneof![
        Just("GET / HTTP/1.1\r\n\r\n"),
        Just("GET / HTTP/1.1\nHost: a\r\n\r\n"),
        Just("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Just("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n"),
        Just("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n"),
        Just("nonsense \r\n"),
    ]
    .prop_map(|text| Message { bytes: text.into(), expected: None, last: true })
}

fn message() -> impl Strategy<Value = Message> {
    let field = prop_oneof![
        Just(""),
        Just("Accept: */*\r\nUser-Agent: x\r\n"),
        Just("Expect: 100-continue\r\n"),
        Just("Connection: upgrade\r\nUpgrade: h2c\r\n"),
    ];
    let get =
        (field.clone(), "/[a-z]{0,20}").prop_map(|(field, path)| request("GET", &path, field, b"", b"", 0));
    let post = (field, body()).prop_map(|(field, body)| {
        let fields = format!("Content-Length: {}\r\n{field}", body.len());
        request("POST", "/length", &fields, &body, &body, 0)
    });
    let extension = prop_oneof![Just(""), Just(";a=\"b\"")];
    let put = (prop::collection::vec(body(), 0..4), extension, 0usize..3)
        .prop_map(|(pieces, extension, trailers)| chunked(&pieces, extension, trailers));
    let last = Just(request("GET", "/last", "Connection: close\r\n", b"", b"", 0));
    prop_oneof![4 => get, 4 => post, 4 => put, 1 => last, 1 => refused()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_service_sees_the_same_requests_however_the_stream_is_cut(
        messages in prop::collection::vec(message(), 1..6),
        sizes in prop::collection::vec(prop_oneof![1usize..20, 20usize..3000, 3000usize..50_000], 1..6),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|message| message.bytes.clone()).collect();
        let end = messages.iter().position(|message| message.last).map_or(messages.len(), |index| index + 1);
        let expected: Vec<Event> = messages[..end].iter().filter_map(|m| m.expected.clone()).collect();
        let refused = messages[end - 1].expected.is_none();

        let whole = serve(Script::whole(&stream));
        prop_assert_eq!(whole.events.len(), expected.len() + usize::from(refused));
        prop_assert_eq!(&whole.events[..expected.len()], expected.as_slice());
        prop_assert_eq!(refused, whole.state.rejected().is_some());
        prop_assert_eq!(messages[end - 1].last, whole.finished);

        let cut = serve(Script::cut(&stream, &sizes));
        prop_assert_eq!(&cut.events, &whole.events);
        prop_assert_eq!(cut.finished, whole.finished);
    }

    #[test]
    fn random_bytes_end_the_same_way_however_they_are_cut(
        prefix in prop_oneof![
            Just(""),
            Just("GET / HTTP/1.1\r\nHost: a\r\n"),
            Just("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ],
        noise in "[ a:\r\n\t;0-9A-C\u{0}\u{80}]{0,60}",
        size in 1usize..9,
    ) {
        let stream = [prefix.as_bytes(), noise.as_bytes()].concat();
        let whole = serve(Script::whole(&stream));
        let cut = serve(Script::cut(&stream, &[size]));
        prop_assert_eq!(whole.events, cut.events);
        prop_assert_eq!(whole.finished, cut.finished);
    }
}
