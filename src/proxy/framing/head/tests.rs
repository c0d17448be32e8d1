//! Heads that pass, heads that are refused, and the status each refusal gets.

use super::*;

const LIMITS: HeadLimits = HeadLimits { max_bytes: 60 * 1024, max_headers: 100 };

fn read(head: impl AsRef<[u8]>) -> Result<Option<RequestFraming>, Reject> {
    validate_head(head.as_ref(), &LIMITS)
}

/// A request with `fields` after a valid request line and Host.
fn with(fields: &str) -> Result<RequestFraming, RejectReason> {
    read(format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
        .map(|framing| framing.expect("a complete head"))
        .map_err(|reject| reject.reason)
}

fn refused(head: impl AsRef<[u8]>) -> (u16, RejectReason) {
    let reject = read(head).expect_err("a head to be refused");
    (reject.status, reject.reason)
}

#[test]
fn the_body_is_framed_by_exactly_one_field() {
    assert_eq!(with("").map(|f| f.body), Ok(BodyFraming::None));
    assert_eq!(with("Content-Length: 0\r\n").map(|f| f.body), Ok(BodyFraming::None));
    assert_eq!(with("content-length:\t 42 \r\n").map(|f| f.body), Ok(BodyFraming::Length(42)));
    assert_eq!(
        with("Content-Length: 9223372036854775808\r\n").map(|f| f.body),
        Ok(BodyFraming::Length(1 << 63))
    );
    assert_eq!(with("TRANSFER-ENCODING: Chunked\r\n").map(|f| f.body), Ok(BodyFraming::Chunked));
}

#[test]
fn ambiguous_lengths_are_refused() {
    let two = "Content-Length: 1\r\nContent-Length: 1\r\n";
    for value in ["", "+1", "-1", "1, 1", "1 1", "0x1", "1a", "9223372036854775809", "18446744073709551617"] {
        assert_eq!(
            with(&format!("Content-Length: {value}\r\n")),
            Err(RejectReason::ContentLength),
            "{value}"
        );
    }
    assert_eq!(with(two), Err(RejectReason::ContentLength));
    for value in
        ["", "identity, chunked", "gzip, chunked", "xchunked", "chunked,", "\"chunked\"", "chunked;q=1"]
    {
        let field = format!("Transfer-Encoding: {value}\r\n");
        assert_eq!(with(&field), Err(RejectReason::TransferEncoding), "{value}");
    }
    let te = "Transfer-Encoding: chunked\r\n";
    assert_eq!(with(&format!("{te}{te}")), Err(RejectReason::TransferEncoding));
    assert_eq!(with(&format!("{te}Content-Length: 1\r\n")), Err(RejectReason::ClTe));
    assert_eq!(with(&format!("Content-Length: 1\r\n{te}")), Err(RejectReason::ClTe));
    assert_eq!(refused(format!("POST / HTTP/1.0\r\n{te}\r\n")).1, RejectReason::TransferEncoding);
}

#[test]
fn field_lines_are_name_colon_value_and_nothing_else() {
    let bad = [
        "Transfer-Encoding : chunked\r\n",
        ": empty\r\n",
        "no colon\r\n",
        "X: a\r\n folded\r\n",
        " X: a\r\n",
        "X: a\0b\r\n",
        "X: a\rb\r\n",
        "X: a\x7fb\r\n",
        "X: a\x1bb\r\n",
        "X\0: a\r\n",
        "Xä: a\r\n",
        "X(: a\r\n",
    ];
    for fields in bad {
        assert_eq!(with(fields), Err(RejectReason::HeaderField), "{}", fields.escape_debug());
    }
    assert!(with("X:\r\nY: ä\t\u{80} b\r\nX_A: 1\r\n").is_ok());
}

#[test]
fn lines_end_with_cr_and_lf_together() {
    for head in ["GET / HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.1\r\nHost: a\n\r\n", "\nGET / HTTP/1.1\r\n"] {
        assert_eq!(refused(head).1, RejectReason::LineEnd);
    }
    assert_eq!(refused("GET / HTTP/1.1\rHost: a\r\n\r\n").1, RejectReason::RequestLine);
    assert_eq!(refused("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n").1, RejectReason::RequestLine);
}

#[test]
fn request_lines_are_method_target_version() {
    let bad = [
        "GET /",
        "GET",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / http/1.1",
        "GET / HTTP/11",
        "G\tT / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        " / HTTP/1.1",
    ];
    for line in bad {
        let (status, reason) = refused(format!("{line}\r\nHost: a\r\n\r\n"));
        let expected = [RejectReason::RequestLine, RejectReason::Target];
        assert!(status == 400 && expected.contains(&reason), "{line}: {reason:?}");
    }
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/9.9"] {
        assert_eq!(refused(format!("GET / {version}\r\nHost: a\r\n\r\n")), (505, RejectReason::Version));
    }
    assert!(read("GET / HTTP/1.0\r\n\r\n").is_ok());
}

#[test]
fn methods_that_are_not_served_are_refused() {
    assert_eq!(refused("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), (405, RejectReason::Method));
    let own = format!("{REJECT_METHOD} / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refused(own), (400, RejectReason::Method));
    assert!(read("M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
}

#[test]
fn connect_names_a_host_and_a_port_and_nothing_else() {
    let framing = read("CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n").unwrap().unwrap();
    assert!(framing.connect && framing.upgrade && framing.body == BodyFraming::None);
    for target in
        ["/", "*", "b", "b:", "b:x", ":80", "u@b:80", "http://b:80", "http://b/x:80", "b:80/", "[::1]"]
    {
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: b:80\r\n\r\n");
        assert_eq!(refused(head), (400, RejectReason::Target), "{target}");
    }
    for field in ["Content-Length: 3", "Content-Length: 0", "Transfer-Encoding: chunked"] {
        let head = format!("CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n{field}\r\n\r\n");
        assert_eq!(refused(head), (400, RejectReason::Method), "{field}");
    }
    assert_eq!(refused("CONNECT b:80 HTTP/1.0\r\n\r\n"), (400, RejectReason::Method));
}

#[test]
fn there_is_one_valid_host() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n").1, RejectReason::Host);
    assert_eq!(with("Host: a\r\n"), Err(RejectReason::Host));
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n").1, RejectReason::Host);
    for host in ["", "a b", "u@a", "a,b", "a/b", "a:x"] {
        assert_eq!(
            refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).1,
            RejectReason::Host,
            "{host}"
        );
    }
}

#[test]
fn persistence_and_upgrade_follow_the_connection_field() {
    assert!(with("").is_ok_and(|f| f.keep_alive && !f.upgrade));
    assert!(with("Connection: x, Close\r\n").is_ok_and(|f| !f.keep_alive));
    assert!(with("Connection: close\r\nConnection: keep-alive\r\n").is_ok_and(|f| !f.keep_alive));
    assert!(with("Upgrade: websocket\r\n").is_ok_and(|f| !f.upgrade));
    assert!(with("Connection: Upgrade\r\n").is_ok_and(|f| !f.upgrade));
    assert!(with("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n").is_ok_and(|f| f.upgrade));
    let old = read("GET / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: x\r\n\r\n");
    assert!(old.is_ok_and(|f| f.is_some_and(|f| f.keep_alive && !f.upgrade)));
    assert!(read("GET / HTTP/1.0\r\n\r\n").is_ok_and(|f| f.is_some_and(|f| !f.keep_alive)));
}

#[test]
fn only_one_expectation_is_known() {
    assert!(with("Expect: 100-Continue\r\n").is_ok());
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nExpect: bogus\r\n\r\n"), (417, RejectReason::Expect));
}

#[test]
fn two_empty_lines_may_precede_a_request_and_belong_to_its_head() {
    let head = "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(read(head).is_ok_and(|f| f.is_some_and(|f| f.head_len == head.len())));
    assert_eq!(refused(format!("\r\n{head}")).1, RejectReason::RequestLine);
    let mut parser = HeadParser::default();
    assert_eq!(parser.advance(b"\r\n\r", &LIMITS), Ok(None));
    assert!(!parser.has_begun(b"\r\n\r"));
    assert_eq!(parser.advance(b"\r\n\r\nG", &LIMITS), Ok(None));
    assert!(parser.has_begun(b"\r\n\r\nG"));
}

#[test]
fn heads_up_to_the_limits_pass_and_beyond_are_refused() {
    assert!(with(&"X: a\r\n".repeat(99)).is_ok());
    let (status, reason) = refused(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(100)));
    assert_eq!((status, reason), (431, RejectReason::TooManyHeaders));

    let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
    let fits = "a".repeat(LIMITS.max_bytes - frame.len());
    let head = |value: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {value}\r\n\r\n");
    assert!(read(head(&fits)).is_ok_and(|f| f.is_some()));
    assert_eq!(refused(head(&format!("{fits}a"))), (431, RejectReason::TooLarge));
    assert_eq!(refused(head(&"a".repeat(500_000))), (431, RejectReason::TooLarge));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(70 * 1024));
    assert_eq!(refused(long), (414, RejectReason::TargetTooLong));
    assert_eq!(refused("a".repeat(LIMITS.max_bytes)), (414, RejectReason::TargetTooLong));
}

#[test]
fn the_verdict_does_not_depend_on_how_a_head_arrives() {
    let heads = [
        "GET /a?b HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
        "\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ];
    for head in heads {
        let mut parser = HeadParser::default();
        let pieces = (0..=head.len())
            .map(|end| parser.advance(&head.as_bytes()[..end], &LIMITS))
            .find(|result| !matches!(result, Ok(None)));
        assert_eq!(pieces, Some(read(head)), "{head:?}");
    }
}

#[test]
fn every_control_byte_is_found_wherever_it_stands() {
    for len in 1..40 {
        for at in 0..len {
            for byte in 0..=u8::MAX {
                let mut value = vec![b'a'; len];
                value[at] = byte;
                let control = byte.is_ascii_control() && byte != b'\t';
                assert_eq!(has_control(&value), control, "byte {byte:#x} at {at} of {len}");
            }
        }
    }
    assert!(!has_control(b""));
}
