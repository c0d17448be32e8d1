//! Formats a record as one line. Whatever clients send stays inside its field: a line has exactly one newline, at
//! its end, and no control character.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use http::Version;

use super::{AccessRecord, TcpRecord, tcp};
use crate::telemetry::LogFormat;

/// More of a host or a path than this is cut off and marked with `…`.
const MAX_FIELD: usize = 2048;

/// Formats lines into one buffer that it keeps.
pub(super) struct Formatter {
    format: LogFormat,
    line: Vec<u8>,
    clock: Clock,
}

impl Formatter {
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, line: Vec::with_capacity(1024), clock: Clock::default() }
    }

    /// The line with its newline; valid until the next call.
    pub(super) fn line(&mut self, record: &AccessRecord<'_>) -> &[u8] {
        self.line.clear();
        let now = self.clock.rfc3339(record.at);
        let mut fields = Fields { line: &mut self.line, format: self.format };
        fields.open();
        fields.token("ts", now);
        write_fields(&mut fields, record);
        fields.close();
        &self.line
    }

    /// The same for a TCP connection.
    pub(super) fn tcp_line(&mut self, record: &TcpRecord<'_>) -> &[u8] {
        self.line.clear();
        let now = self.clock.rfc3339(record.at);
        let mut fields = Fields { line: &mut self.line, format: self.format };
        fields.open();
        fields.token("ts", now);
        tcp::write_fields(&mut fields, record);
        fields.close();
        &self.line
    }
}

fn write_fields(fields: &mut Fields<'_>, record: &AccessRecord<'_>) {
    fields.token("direction", record.direction.as_str().as_bytes());
    fields.token("method", record.method.as_str().as_bytes());
    fields.text("host", record.host);
    fields.text("path", record.path.as_bytes());
    fields.text("route", record.route.as_bytes());
    fields.text("service", record.service.as_bytes());
    if let Some(endpoint) = record.endpoint {
        // Rare enough among all requests, and long enough among all fields, for a formatter of its own.
        fields.text("endpoint", endpoint.to_string().as_bytes());
    }
    fields.number("status", u64::from(record.status));
    fields.token("flag", record.flag.as_str().as_bytes());
    fields.token("code", record.flag.short_code().as_bytes());
    fields.number("bytes_in", record.bytes_in);
    fields.number("bytes_out", record.bytes_out);
    fields.millis("duration_ms", Some(record.duration));
    fields.millis("ttfb_ms", record.time_to_first_byte);
    fields.millis("upstream_ms", record.upstream);
    if let Some(overhead) = record.overhead {
        fields.number("overhead_us", u64::try_from(overhead.as_micros()).unwrap_or(u64::MAX));
    }
    fields.number("attempts", u64::from(record.attempts));
    fields.token("protocol", protocol(record.protocol).as_bytes());
    fields.text("request_id", record.request_id);
    if let Some(trace_id) = record.trace_id {
        fields.token("trace_id", &trace_id.hex());
    }
    if !record.source.is_empty() {
        fields.text("source", record.source.as_bytes());
    }
    if !record.rule.is_empty() {
        fields.text("rule", record.rule.as_bytes());
    }
    if let Some(client) = record.client {
        let mut buffer = [0; 48];
        let mut rest = &mut buffer[..];
        // The longest address has 45 characters.
        let _ = write!(rest, "{client}");
        let length = 48 - rest.len();
        fields.token("client", &buffer[..length]);
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "unknown",
    }
}

/// Writes `"key":value,` or `key=value `, depending on the format.
pub(super) struct Fields<'a> {
    line: &'a mut Vec<u8>,
    format: LogFormat,
}

impl Fields<'_> {
    fn open(&mut self) {
        if self.format == LogFormat::Json {
            self.line.push(b'{');
        }
    }

    /// Replaces the separator after the last field by the end of the line.
    fn close(&mut self) {
        self.line.pop();
        self.line.extend_from_slice(match self.format {
            LogFormat::Json => b"}\n",
            LogFormat::Text => b"\n",
        });
    }

    fn key(&mut self, key: &str) {
        match self.format {
            LogFormat::Json => {
                self.line.push(b'"');
                self.line.extend_from_slice(key.as_bytes());
                self.line.extend_from_slice(b"\":");
            }
            LogFormat::Text => {
                self.line.extend_from_slice(key.as_bytes());
                self.line.push(b'=');
            }
        }
    }

    fn end(&mut self) {
        self.line.push(match self.format {
            LogFormat::Json => b',',
            LogFormat::Text => b' ',
        });
    }

    /// A value of visible ASCII without quotes and backslashes. Text leaves out what is empty.
    pub(super) fn token(&mut self, key: &str, value: &[u8]) {
        match self.format {
            LogFormat::Json => {
                self.key(key);
                self.line.push(b'"');
                self.line.extend_from_slice(value);
                self.line.push(b'"');
            }
            LogFormat::Text if value.is_empty() => return,
            LogFormat::Text => {
                self.key(key);
                self.line.extend_from_slice(value);
            }
        }
        self.end();
    }

    /// A value that somebody else chose. Text quotes it where it could be read as something else.
    pub(super) fn text(&mut self, key: &str, value: &[u8]) {
        let quoted = match self.format {
            LogFormat::Json => true,
            LogFormat::Text if value.is_empty() => return,
            LogFormat::Text => !value.iter().all(|byte| is_plain(*byte)),
        };
        self.key(key);
        if quoted {
            self.line.push(b'"');
        }
        let kept = &value[..value.len().min(MAX_FIELD)];
        escape(self.line, kept);
        if kept.len() < value.len() {
            self.line.extend_from_slice("…".as_bytes());
        }
        if quoted {
            self.line.push(b'"');
        }
        self.end();
    }

    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_number(self.line, value);
        self.end();
    }

    /// Milliseconds with three decimals.
    pub(super) fn millis(&mut self, key: &str, value: Option<Duration>) {
        let Some(value) = value else { return };
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.key(key);
        push_number(self.line, micros / 1000);
        self.line.push(b'.');
        push_padded(self.line, micros % 1000, 3);
        self.end();
    }
}

/// Bytes that need neither quotes nor escapes in a text line.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=')
}

/// Writes `value` as the inside of a JSON string. What is not UTF-8 becomes U+FFFD; control characters, C1 among
/// them because terminals obey those too, become `\u00XX`.
fn escape(line: &mut Vec<u8>, value: &[u8]) {
    // Nearly always: nothing to escape.
    if value.iter().all(|byte| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\')) {
        line.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            escape_character(line, character);
        }
        if !chunk.invalid().is_empty() {
            line.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_character(line: &mut Vec<u8>, character: char) {
    match character {
        '"' => line.extend_from_slice(b"\\\""),
        '\\' => line.extend_from_slice(b"\\\\"),
        '\n' => line.extend_from_slice(b"\\n"),
        '\r' => line.extend_from_slice(b"\\r"),
        '\t' => line.extend_from_slice(b"\\t"),
        // U+2028 and U+2029 end a line for some readers; the others change the direction of what follows.
        control
            if control.is_control()
                || matches!(control, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
        {
            // Writing into a Vec cannot fail.
            let _ = write!(line, "\\u{:04x}", u32::from(control));
        }
        other => line.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

fn push_number(line: &mut Vec<u8>, mut value: u64) {
    // u64::MAX has twenty digits.
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

/// The last `width` digits of `value`.
fn push_padded(line: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        line.push(b'0' + (value / 10u64.pow(place) % 10) as u8);
    }
}

/// Formats instants; remembers the last second, which most lines share.
struct Clock {
    second: Option<u64>,
    text: Vec<u8>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: None, text: Vec::with_capacity(24) }
    }
}

impl Clock {
    /// RFC 3339 in UTC with milliseconds. Instants before 1970 are shown as its first.
    fn rfc3339(&mut self, at: SystemTime) -> &[u8] {
        let unix = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if self.second == Some(unix.as_secs()) {
            // The length of "2026-11-22T10:11:12."
            self.text.truncate(20);
        } else {
            self.second = Some(unix.as_secs());
            self.text.clear();
            push_second(&mut self.text, unix.as_secs());
            self.text.push(b'.');
        }
        push_padded(&mut self.text, u64::from(unix.subsec_millis()), 3);
        self.text.push(b'Z');
        &self.text
    }
}

fn push_second(text: &mut Vec<u8>, unix: u64) {
    let (year, month, day) = civil_date(unix / 86_400);
    let of_day = unix % 86_400;
    for (value, width, after) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (of_day / 3600, 2, b':'),
        (of_day / 60 % 60, 2, b':'),
        (of_day % 60, 2, b' '),
    ] {
        push_padded(text, value, width);
        text.push(after);
    }
    text.pop();
}

/// Year, month and day of a day counted from 1970-01-01.
///
/// Counts in years that begin in March, so that the leap day is the last of its year; a month then starts
/// `(153 × month + 2) / 5` days after the year does.
fn civil_date(days: u64) -> (u64, u64, u64) {
    /// From 0000-03-01 to 1970-01-01.
    const DAYS_BEFORE_1970: u64 = 719_468;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = days + DAYS_BEFORE_1970;
    let of_era = days % DAYS_OF_400_YEARS;
    // Takes out the leap days before dividing by the length of a plain year.
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + days / DAYS_OF_400_YEARS * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rfc3339(unix_millis: u64) -> String {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_millis);
        String::from_utf8(Clock::default().rfc3339(at).to_vec()).unwrap()
    }

    #[test]
    fn instants_are_written_in_utc() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599_042, "2026-12-31T23:59:59.042Z"),
        ] {
            assert_eq!(rfc3339(millis), text);
        }
    }

    #[test]
    fn a_second_that_was_cached_is_written_like_any_other() {
        let mut clock = Clock::default();
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        clock.rfc3339(second);
        assert_eq!(clock.rfc3339(second + Duration::from_millis(7)), b"2001-09-09T01:46:40.007Z");
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut previous = civil_date(0);
        for day in 1..146_097 {
            let (y, m, d) = civil_date(day);
            let (py, pm, pd) = previous;
            let follows = (y, m, d) == (py, pm, pd + 1)
                || ((y, m, d) == (py, pm + 1, 1) && pd >= 28)
                || ((y, m, d) == (py + 1, 1, 1) && (pm, pd) == (12, 31));
            assert!(follows, "{previous:?} is followed by {:?}", (y, m, d));
            previous = (y, m, d);
        }
        assert_eq!(previous, (2369, 12, 31));
    }

    #[test]
    fn numbers_have_all_their_digits() {
        for value in [0, 7, 10, 12_345, u64::MAX] {
            let mut line = Vec::new();
            push_number(&mut line, value);
            assert_eq!(String::from_utf8(line).unwrap(), value.to_string());
        }
    }

    proptest! {
        #[test]
        fn escaped_bytes_read_back_as_the_text_they_were(value: Vec<u8>) {
            let mut line = vec![b'"'];
            escape(&mut line, &value);
            line.push(b'"');
            prop_assert!(!line.iter().any(u8::is_ascii_control));
            let read: String = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&value));
        }

        #[test]
        fn escaped_text_has_no_control_character(value: String) {
            let mut line = Vec::new();
            escape(&mut line, value.as_bytes());
            prop_assert!(!String::from_utf8(line).unwrap().chars().any(char::is_control));
        }
    }
}
