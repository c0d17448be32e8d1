//! Budgets of frames, with the time chosen.

use std::time::Duration;

use super::*;

fn at(millis: u64) -> Mono {
    Mono::ZERO.after(Duration::from_millis(millis))
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    bytes.extend_from_slice(payload);
    bytes
}

/// A client's connection behind its preface.
fn watch() -> FrameWatch {
    let mut watch = FrameWatch::new(Role::Server, at(0));
    assert_eq!(watch.received(super::super::H2_PREFACE, at(0)), Ok(()));
    watch
}

/// How many of `bytes` are taken at one instant, at most 100,000.
fn taken(watch: &mut FrameWatch, bytes: &[u8]) -> (u32, Option<Flood>) {
    for count in 0..100_000 {
        if let Err(flood) = watch.received(bytes, at(1)) {
            return (count, Some(flood));
        }
    }
    (100_000, None)
}

#[test]
fn each_frame_that_brings_nothing_has_an_end_and_a_name() {
    for (bytes, flood) in [
        (frame(PING, 0, 0, &[0; 8]), Flood::Pings),
        (frame(SETTINGS, 0, 0, &[]), Flood::Settings),
        (frame(PRIORITY, 0, 1, &[0; 5]), Flood::Priorities),
        (frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), Flood::Windows),
        (frame(CONTINUATION, 0, 1, &[]), Flood::Continuations),
        (frame(DATA, 0, 1, &[]), Flood::Empty),
        (frame(DATA, FLAG_PADDED, 1, &[3, 0, 0, 0]), Flood::Empty),
        (frame(HEADERS, 0, 1, &[]), Flood::Empty),
        (frame(99, 0, 0, &[1]), Flood::Unknown),
    ] {
        assert_eq!(taken(&mut watch(), &bytes), (CONTROL_BURST, Some(flood)), "{flood:?}");
    }
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    assert_eq!(taken(&mut watch(), &reset), (RESET_BURST, Some(Flood::Resets)));
}

#[test]
fn answers_to_us_and_content_are_free() {
    for bytes in [
        frame(PING, FLAG_ACK, 0, &[0; 8]),
        frame(SETTINGS, FLAG_ACK, 0, &[]),
        frame(DATA, 0, 1, b"x"),
        frame(DATA, FLAG_PADDED, 1, &[2, b'x', 0, 0]),
        frame(DATA, FLAG_END_STREAM, 1, &[]),
        frame(HEADERS, 4, 1, &[0x82]),
    ] {
        assert_eq!(taken(&mut watch(), &bytes).1, None, "{bytes:?}");
    }
}

#[test]
fn what_an_exchange_needs_is_earned_by_it() {
    let mut watch = watch();
    let window = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 64, 0]);
    let data = frame(DATA, 0, 1, &[0; 100]);
    for _ in 0..100_000 {
        assert_eq!(watch.sent(&data, at(1)), Ok(()));
        for _ in 0..2 {
            assert_eq!(watch.received(&window, at(1)), Ok(()));
        }
    }
}

#[test]
fn half_of_the_requests_may_be_taken_back_and_no_more() {
    let request = frame(HEADERS, 5, 1, &[0x82]);
    let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    let half = [request.clone(), request.clone(), reset.clone()].concat();
    assert_eq!(taken(&mut watch(), &half).1, None);
    let all = [request, reset].concat();
    let (count, flood) = taken(&mut watch(), &all);
    assert_eq!(flood, Some(Flood::Resets));
    assert!((RESET_BURST..=2 * RESET_BURST).contains(&count), "{count}");
}

#[test]
fn errors_that_make_us_reset_count_as_resets_of_the_peer_and_our_own_reasons_do_not() {
    let mut watch = watch();
    let own = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    for _ in 0..10_000 {
        assert_eq!(watch.sent(&own, at(1)), Ok(()));
    }
    let theirs = frame(RST_STREAM, 0, 1, &[0, 0, 0, 1]);
    let results: Vec<_> = (0..=RESET_BURST).map(|_| watch.sent(&theirs, at(1))).collect();
    assert!(results[..RESET_BURST as usize].iter().all(Result::is_ok));
    assert_eq!(results[RESET_BURST as usize], Err(Flood::Resets));
}

#[test]
fn a_budget_fills_up_with_time_to_its_burst_and_no_further() {
    let ping = frame(PING, 0, 0, &[0; 8]);
    let mut watch = watch();
    assert_eq!(taken(&mut watch, &ping).0, CONTROL_BURST);
    assert_eq!(watch.received(&ping, at(2)), Err(Flood::Pings));
    for _ in 0..CONTROL_PER_SECOND {
        assert_eq!(watch.received(&ping, at(1000)), Ok(()));
    }
    assert_eq!(watch.received(&ping, at(1000)), Err(Flood::Pings));
    for _ in 0..CONTROL_BURST {
        assert_eq!(watch.received(&ping, at(3_600_000)), Ok(()));
    }
    assert_eq!(watch.received(&ping, at(3_600_000)), Err(Flood::Pings));
}

#[test]
fn frames_are_the_same_however_they_are_cut() {
    let mut stream = super::super::H2_PREFACE.to_vec();
    for kind in 0..12 {
        stream.extend(frame(kind, kind & 9, kind, &vec![kind; usize::from(kind) * 3]));
    }
    let whole = frames_of(&stream, stream.len());
    assert_eq!(whole.len(), 12);
    for cut in 1..30 {
        assert_eq!(frames_of(&stream, cut), whole, "pieces of {cut}");
    }
}

fn frames_of(stream: &[u8], cut: usize) -> Vec<Seen> {
    let mut cursor = Cursor::behind(PREFACE);
    let mut frames = Vec::new();
    for mut piece in stream.chunks(cut) {
        while let Some(frame) = cursor.next(&mut piece) {
            frames.push(frame);
        }
        assert!(piece.is_empty());
    }
    assert!(cursor.is_between_frames());
    frames
}

#[test]
fn a_farewell_never_cuts_a_frame_in_two() {
    let mut watch = watch();
    assert_eq!(watch.received(&frame(HEADERS, 5, 7, &[0x82]), at(0)), Ok(()));
    let farewell = watch.farewell().expect("nothing has been written");
    assert_eq!(farewell, [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 11]);
    let data = frame(DATA, 0, 1, &[0; 20]);
    for cut in 1..data.len() {
        assert_eq!(watch.sent(&data[..cut], at(0)), Ok(()));
        assert_eq!(watch.farewell(), None, "{cut}");
        assert_eq!(watch.sent(&data[cut..], at(0)), Ok(()));
        assert!(watch.farewell().is_some());
    }
}
