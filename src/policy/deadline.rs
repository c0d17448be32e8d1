//! The time that is left for a request, as it travels from hop to hop: relative, so that no two clocks have to
//! agree. gRPC has a header of its own for it; for everything else it is `x-request-timeout-ms`.

use std::time::Duration;

use http::HeaderName;

/// Whole milliseconds that are left, 0 to 10 digits. Not one of the sidecar's reserved names: the application
/// reads it, and sends it on with its own calls.
pub const REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout").
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Longest text of a deadline.
const LONGEST: usize = 10;

/// Reads `x-request-timeout-ms`. What is malformed is `None`: a caller's slip must not fail its request.
#[must_use]
pub fn parse_timeout_ms(value: &[u8]) -> Option<Duration> {
    digits(value, LONGEST).map(Duration::from_millis)
}

/// Reads `grpc-timeout`.
#[must_use]
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, value) = value.split_last()?;
    let amount = digits(value, 8)?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Writes `grpc-timeout` for this many milliseconds, which must be at most 10^8 seconds.
#[must_use]
pub fn grpc_timeout(millis: u64) -> String {
    const MOST: u64 = 99_999_999;
    if millis <= MOST { format!("{millis}m") } else { format!("{}S", (millis / 1000).min(MOST)) }
}

fn digits(value: &[u8], most: usize) -> Option<u64> {
    if value.is_empty() || value.len() > most || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit_and_nothing_else_is() {
        let cases: [(&str, Option<Duration>); 12] = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000m", None),
            ("m", None),
            ("5", None),
            ("-5m", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(parse_timeout_ms(b"1500"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_timeout_ms(b"0"), Some(Duration::ZERO));
        for wrong in ["", "1s", "+1", "1.5", " 1", "12345678901"] {
            assert_eq!(parse_timeout_ms(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_back_and_never_as_more() {
        for millis in [0, 1, 999, 99_999_999, 100_000_000, 12_345_678_901] {
            let read = parse_grpc_timeout(grpc_timeout(millis).as_bytes()).unwrap();
            let meant = Duration::from_millis(millis);
            assert!(read <= meant && meant - read < Duration::from_secs(1), "{millis}");
        }
    }
}
