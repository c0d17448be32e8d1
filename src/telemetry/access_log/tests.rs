//! The access log from a record to the bytes in its sink.

use std::{
    io::{ErrorKind, Write},
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, mpsc},
    time::SystemTime,
};

use http::{Method, Version};
use metrics::CounterFn;
use proptest::prelude::*;

use super::*;
use crate::{
    telemetry::{LogFormat, trace::TraceId},
    types::{Direction, EndpointAddress},
};

const SOON: Duration = Duration::from_secs(20);

fn params(format: LogFormat) -> AccessLogParams {
    AccessLogParams {
        enabled: true,
        sink: AccessLogSink::Stdout,
        format,
        sample: 1.0,
        only: AccessLogFilter::All,
        slow: Duration::from_secs(1),
    }
}

fn record() -> AccessRecord<'static> {
    AccessRecord {
        at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_798_761_599_042),
        direction: Direction::Outbound,
        method: &Method::GET,
        host: b"shop.example",
        path: "/a/b",
        route: "shop/all",
        service: "shop",
        endpoint: None,
        status: 200,
        flag: Flag::None,
        bytes_in: 0,
        bytes_out: 52,
        duration: Duration::from_micros(1_234),
        time_to_first_byte: None,
        upstream: None,
        overhead: None,
        attempts: 1,
        protocol: Version::HTTP_11,
        request_id: b"req-1",
        source: "",
        rule: "",
        trace_id: None,
        client: None,
    }
}

fn line(format: LogFormat, record: &AccessRecord<'_>) -> String {
    String::from_utf8(Formatter::new(format).line(record).to_vec()).unwrap()
}

/// A sink that keeps what it gets.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that says when it is entered, then blocks until the other end is dropped.
struct Blocked {
    entered: mpsc::Sender<()>,
    release: mpsc::Receiver<()>,
}

impl Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.release.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink whose reader went away.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Counted(std::sync::atomic::AtomicU64);

impl CounterFn for Counted {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

fn start(
    params: AccessLogParams,
    out: impl Write + Send + 'static,
) -> (AccessLogWriter, AccessLogOwner, Arc<Counted>) {
    let counted = Arc::new(Counted::default());
    let dropped = metrics::Counter::from_arc(Arc::clone(&counted));
    let (log, owner) = AccessLog::start_with(params, dropped, Some(Sink::to(out))).unwrap();
    (log.writer(fastrand::Rng::with_seed(1)), owner, counted)
}

#[test]
fn a_json_line_has_every_field() {
    let endpoint = EndpointAddress::Tcp("10.0.0.1:80".parse().unwrap());
    let full = AccessRecord {
        source: "shop",
        endpoint: Some(&endpoint),
        status: 503,
        flag: Flag::UpstreamConnect,
        bytes_in: 7,
        duration: Duration::from_nanos(2_000_999),
        time_to_first_byte: Some(Duration::from_micros(1)),
        upstream: Some(Duration::from_secs(61)),
        overhead: Some(Duration::from_nanos(15_900)),
        protocol: Version::HTTP_2,
        trace_id: TraceId::new([0xab; 16]),
        client: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9))),
        ..record()
    };
    let expected = concat!(
        r#"{"ts":"2026-12-31T23:59:59.042Z","direction":"outbound","method":"GET","host":"shop.example","#,
        r#""path":"/a/b","route":"shop/all","service":"shop","endpoint":"10.0.0.1:80","status":503,"#,
        r#""flag":"upstream_connect","code":"UF","bytes_in":7,"bytes_out":52,"duration_ms":2.000,"#,
        r#""ttfb_ms":0.001,"upstream_ms":61000.000,"overhead_us":15,"attempts":1,"protocol":"HTTP/2","#,
        r#""request_id":"req-1","trace_id":"abababababababababababababababab","source":"shop","client":"127.0.0.9"}"#,
        "\n"
    );
    assert_eq!(line(LogFormat::Json, &full), expected);
    assert!(serde_json::from_str::<serde_json::Value>(expected).is_ok());
}

#[test]
fn a_text_line_leaves_out_what_is_empty_and_quotes_what_could_mislead() {
    let hostile = AccessRecord { path: "/x status=500", host: b"", ..record() };
    assert_eq!(
        line(LogFormat::Text, &hostile),
        concat!(
            "ts=2026-12-31T23:59:59.042Z direction=outbound method=GET path=\"/x status=500\" ",
            "route=shop/all service=shop status=200 code=- bytes_in=0 bytes_out=52 duration_ms=1.234 ",
            "attempts=1 protocol=HTTP/1.1 request_id=req-1\n"
        )
    );
}

#[test]
fn a_path_of_any_length_gives_a_line_of_bounded_length() {
    let long = "/é".repeat(40_000);
    for format in [LogFormat::Json, LogFormat::Text] {
        let line = line(format, &AccessRecord { path: &long, ..record() });
        assert!(line.len() < 2 * 2048 && line.contains('…'), "{}", line.len());
    }
}

proptest! {
    #[test]
    fn nothing_a_client_sends_leaves_its_field(host: Vec<u8>, path: String, id: Vec<u8>) {
        let hostile = AccessRecord { host: &host, path: &path, request_id: &id, ..record() };
        let json = line(LogFormat::Json, &hostile);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(read["path"].as_str().unwrap(), path.as_str());
        prop_assert_eq!(read["status"].as_u64(), Some(200));
        for line in [json, line(LogFormat::Text, &hostile)] {
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.ends_with('\n'));
            prop_assert!(!line.trim_end().chars().any(char::is_control));
        }
    }
}

#[test]
fn filters_and_samples_let_failed_requests_pass() {
    let mut rng = fastrand::Rng::with_seed(1);
    let good = record();
    let slow = AccessRecord { duration: Duration::from_secs(2), ..record() };
    let failed = AccessRecord { status: 500, ..record() };
    let flagged = AccessRecord { flag: Flag::NoRoute, status: 404, ..record() };
    let direct = AccessRecord { flag: Flag::Direct, ..record() };
    for (only, sample, expected) in [
        (AccessLogFilter::All, 1.0, [true, true, true, true, true]),
        (AccessLogFilter::All, 0.0, [false, false, true, true, false]),
        (AccessLogFilter::Slow, 1.0, [false, true, true, true, false]),
        (AccessLogFilter::Slow, 0.0, [false, false, true, true, false]),
        (AccessLogFilter::Errors, 1.0, [false, false, true, true, false]),
    ] {
        let params = AccessLogParams { only, sample, ..params(LogFormat::Json) };
        let got = [&good, &slow, &failed, &flagged, &direct].map(|record| wanted(&params, record, &mut rng));
        assert_eq!(got, expected, "{only:?} {sample}");
    }
}

#[test]
fn a_sample_takes_about_its_share() {
    let params = AccessLogParams { sample: 0.25, ..params(LogFormat::Json) };
    let mut rng = fastrand::Rng::with_seed(5);
    let taken = (0..10_000).filter(|_| wanted(&params, &record(), &mut rng)).count();
    assert!((2_300..2_700).contains(&taken), "{taken}");
}

#[test]
fn lines_reach_the_sink_in_order_when_flushed_or_stopped() {
    let kept = Kept::default();
    let (mut writer, owner, _) = start(params(LogFormat::Text), kept.clone());
    writer.record(&AccessRecord { path: "/1", ..record() });
    writer.record(&AccessRecord { path: "/2", ..record() });
    assert!(owner.flush(SOON));
    assert_eq!(kept.lines().len(), 2);
    writer.record(&AccessRecord { path: "/3", ..record() });
    assert!(owner.stop(SOON));
    let paths: Vec<_> = kept.lines().iter().map(|line| line.contains("path=/3")).collect();
    assert_eq!(paths, [false, false, true]);
}

#[test]
fn a_slow_sink_makes_lines_drop_and_count_and_never_blocks_a_worker() {
    let (entered, was_entered) = mpsc::channel();
    let (release, blocked_on) = mpsc::channel();
    let (mut writer, owner, dropped) =
        start(params(LogFormat::Json), Blocked { entered, release: blocked_on });
    writer.record(&record());
    was_entered.recv_timeout(SOON).expect("the writer got the first line");
    for _ in 0..MAX_QUEUED_LINES + 100 {
        writer.record(&record());
    }
    assert_eq!(dropped.0.load(Ordering::Relaxed), 100);
    assert!(!owner.stop(Duration::from_millis(1)), "a blocked sink is not waited for longer than told");
    drop(release);
}

#[test]
fn long_lines_fill_the_queue_by_their_bytes() {
    let (entered, was_entered) = mpsc::channel();
    let (release, blocked_on) = mpsc::channel();
    let (mut writer, _owner, dropped) =
        start(params(LogFormat::Json), Blocked { entered, release: blocked_on });
    writer.record(&record());
    was_entered.recv_timeout(SOON).expect("the writer got the first line");
    let long = "x".repeat(2048);
    for _ in 0..MAX_QUEUED_LINES {
        writer.record(&AccessRecord { path: &long, ..record() });
    }
    assert!(dropped.0.load(Ordering::Relaxed) > 0);
    drop(release);
}

#[test]
fn a_sink_whose_reader_is_gone_drops_lines_and_goes_on() {
    let (mut writer, owner, dropped) = start(params(LogFormat::Json), Closed);
    for round in 1..=3 {
        writer.record(&record());
        assert!(owner.flush(SOON));
        assert_eq!(dropped.0.load(Ordering::Relaxed), round);
    }
    assert!(owner.stop(SOON));
    writer.record(&record());
    assert_eq!(dropped.0.load(Ordering::Relaxed), 4, "nobody is there to write it");
}

#[test]
fn a_file_that_was_moved_away_is_made_anew_on_reopen() {
    let directory = std::env::temp_dir().join(format!("outrigger-access-log-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (path, moved) = (directory.join("access.log"), directory.join("access.log.1"));
    let sink = AccessLogSink::File(path.clone());
    let file = AccessLogParams { sink, ..params(LogFormat::Text) };
    let (log, owner) = AccessLog::start(file, metrics::Counter::noop()).unwrap();
    let mut writer = log.writer(fastrand::Rng::with_seed(1));

    writer.record(&AccessRecord { path: "/before", ..record() });
    assert!(owner.flush(SOON));
    std::fs::rename(&path, &moved).unwrap();
    owner.reopen();
    assert!(owner.flush(SOON));
    writer.record(&AccessRecord { path: "/after", ..record() });
    assert!(owner.stop(SOON));

    assert!(std::fs::read_to_string(&moved).unwrap().contains("path=/before"));
    let new = std::fs::read_to_string(&path).unwrap();
    assert!(new.contains("path=/after") && !new.contains("path=/before"));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_sink_that_cannot_be_opened_is_an_error_and_a_log_that_is_off_opens_none() {
    let sink = AccessLogSink::File("/nonexistent/directory/access.log".into());
    let file = AccessLogParams { sink, ..params(LogFormat::Text) };
    let off = AccessLogParams { enabled: false, ..file.clone() };
    assert!(AccessLog::start(file, metrics::Counter::noop()).is_err());
    let (log, owner) = AccessLog::start(off, metrics::Counter::noop()).unwrap();
    log.writer(fastrand::Rng::with_seed(1)).record(&record());
    assert!(owner.flush(SOON) && owner.stop(SOON));
}
