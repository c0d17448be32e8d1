//! One head, whole and byte by byte, against `httparse` as a second opinion.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::proxy::framing::{BodyFraming, HeadLimits, HeadParser, validate_head};

const LIMITS: HeadLimits = HeadLimits { max_bytes: 4096, max_headers: 100 };

fuzz_target!(|head: &[u8]| {
    let whole = validate_head(head, &LIMITS);
    let mut parser = HeadParser::default();
    let piecewise = (0..=head.len())
        .map(|end| parser.advance(&head[..end], &LIMITS))
        .find(|result| !matches!(result, Ok(None)))
        .unwrap_or(Ok(None));
    assert_eq!(whole, piecewise);

    let Ok(Some(framing)) = whole else { return };
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(head).expect("a head that passed is a head to everybody");
    assert_eq!(parsed, httparse::Status::Complete(framing.head_len));

    let values = |name: &str| {
        let of_name = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        of_name.map(|field| field.value).collect::<Vec<_>>()
    };
    match framing.body {
        BodyFraming::Chunked => assert!(values("content-length").is_empty()),
        BodyFraming::Length(length) => {
            let text = values("content-length");
            assert_eq!(std::str::from_utf8(text[0]).expect("digits").parse(), Ok(length));
            assert!(text.len() == 1 && values("transfer-encoding").is_empty());
        }
        BodyFraming::None => assert!(values("transfer-encoding").is_empty()),
    }
});
