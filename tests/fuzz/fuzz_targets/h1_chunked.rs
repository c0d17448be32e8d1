//! One chunked body, whole and in pieces, against a reader that goes from chunk to chunk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::proxy::framing::ChunkScanner;

/// How far the body reaches, and whether it is complete; an error keeps what preceded it.
fn scan(pieces: &[&[u8]]) -> (usize, bool, bool) {
    let mut scanner = ChunkScanner::default();
    let mut total = 0;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match scanner.scan(rest) {
                Ok(progress) => {
                    total += progress.consumed;
                    rest = &rest[progress.consumed..];
                    if progress.done {
                        return (total, true, false);
                    }
                }
                Err(_) => return (total, false, true),
            }
        }
    }
    (total, false, false)
}

/// The end of the last chunk's size line by `httparse`, if all chunks are there.
fn end_of_data(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(&body[at..]).ok()? else {
            return None;
        };
        at += line;
        if size == 0 {
            return Some(at);
        }
        at = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
        if at > body.len() {
            return None;
        }
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, body) = input;
    let (end, done, failed) = scan(&[body]);
    let pieces: Vec<&[u8]> = body.chunks(usize::from(size).max(1)).collect();
    let (cut_end, cut_done, cut_failed) = scan(&pieces);
    assert_eq!((done, failed), (cut_done, cut_failed));
    if done {
        assert_eq!(end, cut_end);
        let data = end_of_data(body).expect("a body that passed is one to everybody");
        assert!(data < end && body[..end].ends_with(b"\r\n"));
    }
});
