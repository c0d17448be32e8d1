//! A stream of messages, whole and in pieces: what passes is the same, and each head in it reads alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::proxy::framing::{HeadLimits, RequestScanner, Rest};

const LIMITS: HeadLimits = HeadLimits { max_bytes: 1024, max_headers: 20 };

/// Feeds `stream` in pieces as the guard does; the bytes passed, the number of heads, and the final verdict.
fn run(stream: &[u8], piece: usize) -> (Vec<u8>, u64, Rest) {
    let mut scanner = RequestScanner::default();
    let (mut passed, mut held, mut heads) = (Vec::new(), Vec::new(), 0);
    let mut rest = Rest::Incomplete;
    for piece in stream.chunks(piece) {
        held.extend_from_slice(piece);
        let scan = scanner.scan(&held, &LIMITS);
        assert!(scan.pass <= held.len());
        passed.extend(held.drain(..scan.pass));
        heads += scan.heads;
        rest = scan.rest;
        match rest {
            Rest::Incomplete => assert!(held.len() < LIMITS.max_bytes),
            Rest::Held => {}
            Rest::Ignored | Rest::RefusedHead(_) | Rest::BrokenBody(_) => break,
        }
    }
    (passed, heads, rest)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let (passed, heads, rest) = run(stream, stream.len().max(1));
    let (cut_passed, cut_heads, cut_rest) = run(stream, usize::from(size).max(1));
    assert_eq!(heads, cut_heads);
    assert!(stream.starts_with(&passed) && stream.starts_with(&cut_passed));
    match (rest, cut_rest) {
        // The faulty line of a body may be passed in part, never a byte after it.
        (Rest::BrokenBody(one), Rest::BrokenBody(other)) => assert_eq!(one, other),
        // The end of the last message and bytes after it may fall into one piece or two.
        (Rest::Ignored, _) | (_, Rest::Ignored) => assert_eq!(passed, cut_passed),
        _ => assert_eq!((passed, rest), (cut_passed, cut_rest)),
    }
});
