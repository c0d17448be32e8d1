//! Reads single values: text, numbers, words, durations, sizes, shares. Each reader reports what is wrong and
//! then returns `None`, so that reading can go on.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use bytesize::ByteSize;

use super::{
    codes::{self, Code},
    report::{Finding, Report, error},
    suggest::closest,
    tree::{Content, Kind, Node, Scalar},
    yaml,
};

/// A year; longer waits are slips.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn expected(node: &Node, what: &str, example: &str) -> Finding {
    error(codes::WRONG_TYPE, node.span, format!("expected {what}, found {}", node.found()))
        .label(format!("not {what}"))
        .help(format!("for example `{example}`"))
}

/// A finding about the content of a scalar.
pub(super) fn malformed(code: Code, node: &Node, message: impl Into<String>) -> Finding {
    error(code, node.span, message)
}

/// What to show of a value in a message: nothing of one that was substituted.
pub(super) fn shown(scalar: &Scalar) -> String {
    if scalar.secret { "the substituted value".to_owned() } else { format!("`{}`", shorten(&scalar.text)) }
}

/// One short line of any text.
pub(super) fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let text = text.trim();
    let mut line: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// A scalar that is not empty (null).
fn scalar<'n>(node: &'n Node, what: &str, example: &str, report: &mut Report) -> Option<&'n Scalar> {
    match &node.content {
        Content::Scalar(scalar) if scalar.kind != Kind::Null => Some(scalar),
        _ => report.add(expected(node, what, example)),
    }
}

/// What the scalar is; a substituted one is what its text would be without quotes.
fn kind(scalar: &Scalar) -> Kind {
    if scalar.secret { yaml::resolve_plain(&scalar.text) } else { scalar.kind }
}

/// Text. A number or a truth value must be quoted, lest `1.10` becomes `1.1`.
pub(super) fn text<'n>(node: &'n Node, report: &mut Report) -> Option<&'n str> {
    text_scalar(node, "text", "\"text\"", report).map(|scalar| scalar.text.as_str())
}

/// Text with everything there is to know about it, `what` and `example` being for messages.
pub(super) fn text_scalar<'n>(
    node: &'n Node,
    what: &str,
    example: &str,
    report: &mut Report,
) -> Option<&'n Scalar> {
    let scalar = scalar(node, what, example, report)?;
    if scalar.kind == Kind::Text {
        return Some(scalar);
    }
    let finding = expected(node, what, example);
    report.add(finding.help(format!("quote it: \"{}\"", scalar.text)))
}

/// A whole number within `range`.
pub(super) fn number(node: &Node, range: RangeInclusive<u64>, report: &mut Report) -> Option<u64> {
    let example = range.start().max(&1).to_string();
    let scalar = scalar(node, "a number", &example, report)?;
    let value = match kind(scalar) {
        Kind::Unsigned(value) if range.contains(&value) => return Some(value),
        Kind::Unsigned(_) | Kind::Number(_) => shown(scalar),
        Kind::Null | Kind::Bool(_) | Kind::Text => {
            return report.add(expected(node, "a whole number", &example));
        }
    };
    let message = if range.start() == range.end() {
        format!("{value} is not known; the only value is {}", range.start())
    } else {
        format!("{value} is not a whole number from {} to {}", range.start(), range.end())
    };
    report.add(malformed(codes::OUT_OF_RANGE, node, message).label("out of range"))
}

/// A whole number within `range` that fits 32 bits.
pub(super) fn number_u32(node: &Node, range: RangeInclusive<u32>, report: &mut Report) -> Option<u32> {
    let wide = u64::from(*range.start())..=u64::from(*range.end());
    number(node, wide, report).and_then(|value| u32::try_from(value).ok())
}

/// `true` or `false`.
pub(super) fn flag(node: &Node, report: &mut Report) -> Option<bool> {
    let scalar = scalar(node, "`true` or `false`", "true", report)?;
    match kind(scalar) {
        Kind::Bool(value) => Some(value),
        _ => {
            let finding = expected(node, "`true` or `false`", "true");
            report.add(match scalar.text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" | "enabled" => finding.suggest(Some("true")),
                "no" | "off" | "n" | "disabled" => finding.suggest(Some("false")),
                _ => finding,
            })
        }
    }
}

/// One of `words`. Those of `later` are planned, but not available.
pub(super) fn word<T: Clone>(
    node: &Node,
    words: &[(&'static str, T)],
    later: &[&'static str],
    report: &mut Report,
) -> Option<T> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let choice = format!("one of: {}", names.join(", "));
    let example = names.first().copied().unwrap_or_default();
    let scalar = text_scalar(node, "a word", example, report)?;
    if let Some((_, value)) = words.iter().find(|(name, _)| *name == scalar.text) {
        return Some(value.clone());
    }
    if later.contains(&scalar.text.as_str()) {
        let message = format!("`{}` is not available in this version", scalar.text);
        return report.add(malformed(codes::LATER_WORD, node, message).label("not built yet").note(choice));
    }
    report.add(
        malformed(codes::UNKNOWN_WORD, node, format!("{} is not a word that may stand here", shown(scalar)))
            .label("unknown")
            .suggest(closest(&scalar.text, names.iter().chain(later).copied(), &[]))
            .note(choice),
    )
}

/// What `value` is called among `words`.
pub(super) fn word_for<T: PartialEq>(value: &T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word)
}

/// A duration of zero or more.
pub(super) fn duration(node: &Node, report: &mut Report) -> Option<Duration> {
    let scalar = scalar(node, "a duration", "30s", report)?;
    match kind(scalar) {
        Kind::Unsigned(_) | Kind::Number(_) => {
            let finding = malformed(codes::BAD_QUANTITY, node, format!("{} has no unit", shown(scalar)));
            let meant = (!scalar.secret).then(|| format!("{}s", scalar.text));
            return report.add(finding.label("a duration needs a unit").suggest(meant.as_deref()));
        }
        Kind::Bool(_) | Kind::Null => return report.add(expected(node, "a duration", "30s")),
        Kind::Text => {}
    }
    match parse_duration(&scalar.text) {
        Some(value) if value <= LONGEST => Some(value),
        Some(_) => report.add(malformed(codes::OUT_OF_RANGE, node, "longer than a year").label("too long")),
        None => report.add(
            malformed(codes::BAD_QUANTITY, node, format!("{} is not a duration", shown(scalar)))
                .label("expected numbers with the units h, m, s, ms")
                .help("for example `500ms`, `15s` or `1h30m`"),
        ),
    }
}

/// A duration of at least `least`.
pub(super) fn duration_from(node: &Node, least: Duration, report: &mut Report) -> Option<Duration> {
    let value = duration(node, report)?;
    if value >= least {
        return Some(value);
    }
    let message = format!("must be at least {}", show_duration(least));
    report.add(malformed(codes::OUT_OF_RANGE, node, message).label("too short"))
}

/// A limit that `0s` switches off.
pub(super) fn limit(node: &Node, report: &mut Report) -> Option<Option<Duration>> {
    duration(node, report).map(|value| (!value.is_zero()).then_some(value))
}

/// A wait: at least a millisecond, so that it cannot expire before it began.
pub(super) fn wait(node: &Node, report: &mut Report) -> Option<Duration> {
    duration_from(node, Duration::from_millis(1), report)
}

/// GEP-2257: one to four parts of up to five digits and a unit, in any order that humantime takes. humantime
/// alone would also take `2months`, `3 years` and spaces.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest.bytes().skip(digits).take_while(u8::is_ascii_alphabetic).count();
        if !(1..=5).contains(&digits) || !matches!(&rest[digits..digits + letters], "h" | "m" | "s" | "ms") {
            return None;
        }
        rest = &rest[digits + letters..];
        parts += 1;
    }
    if !(1..=4).contains(&parts) {
        return None;
    }
    humantime::parse_duration(text).ok()
}

/// The duration as it is written in a file: `1h30m`, `250ms`, `0s`.
pub(super) fn show_duration(value: Duration) -> String {
    let millis = value.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")]
        .iter()
        .scan(millis, |left, (size, unit)| {
            let count = *left / size;
            *left %= size;
            Some(if count == 0 { String::new() } else { format!("{count}{unit}") })
        })
        .collect()
}

/// A number of bytes within `range`.
pub(super) fn size(node: &Node, range: RangeInclusive<u32>, report: &mut Report) -> Option<u32> {
    let scalar = scalar(node, "a size", "64KiB", report)?;
    match kind(scalar) {
        Kind::Unsigned(_) | Kind::Number(_) => {
            let finding = malformed(codes::BAD_QUANTITY, node, format!("{} has no unit", shown(scalar)));
            let meant = (!scalar.secret).then(|| format!("{}B", scalar.text));
            return report.add(finding.label("a size needs a unit").suggest(meant.as_deref()));
        }
        Kind::Bool(_) | Kind::Null | Kind::Text => {}
    }
    let digits = scalar.text.bytes().take_while(u8::is_ascii_digit).count();
    let unit_known = matches!(&scalar.text[digits..], "B" | "KB" | "KiB" | "MB" | "MiB" | "GB" | "GiB");
    let bytes = (digits > 0 && unit_known).then(|| ByteSize::from_str(&scalar.text).ok()).flatten();
    let Some(bytes) = bytes else {
        return report.add(
            malformed(codes::BAD_QUANTITY, node, format!("{} is not a size", shown(scalar)))
                .label("expected a whole number with the unit B, KB, KiB, MB or MiB")
                .help("for example `60KiB`"),
        );
    };
    match u32::try_from(bytes.as_u64()) {
        Ok(value) if range.contains(&value) => Some(value),
        _ => {
            let message =
                format!("must be from {} to {}", show_size(*range.start()), show_size(*range.end()));
            report.add(malformed(codes::OUT_OF_RANGE, node, message).label("out of range"))
        }
    }
}

/// The size as it is written in a file, exactly.
pub(super) fn show_size(bytes: u32) -> String {
    const KIB: u32 = 1024;
    const MIB: u32 = 1024 * 1024;
    match bytes {
        0 => "0B".to_owned(),
        _ if bytes.is_multiple_of(MIB) => format!("{}MiB", bytes / MIB),
        _ if bytes.is_multiple_of(KIB) => format!("{}KiB", bytes / KIB),
        _ => format!("{bytes}B"),
    }
}

/// A share written as `5%` or `0.5%`, as a fraction from 0 to 1.
pub(super) fn share(node: &Node, report: &mut Report) -> Option<f64> {
    let scalar = scalar(node, "a share", "5%", report)?;
    let percent = scalar.text.strip_suffix('%').filter(|number| {
        number.starts_with(|c: char| c.is_ascii_digit())
            && number.chars().all(|c| c.is_ascii_digit() || c == '.')
    });
    match percent.and_then(|number| number.parse::<f64>().ok()) {
        Some(percent) if percent <= 100.0 => Some(percent / 100.0),
        Some(_) => report.add(malformed(codes::OUT_OF_RANGE, node, "more than 100%").label("too much")),
        None => {
            let finding = malformed(codes::BAD_QUANTITY, node, format!("{} is not a share", shown(scalar)));
            let finding = finding.label("expected a number with a percent sign");
            let meant = matches!(kind(scalar), Kind::Unsigned(0..=100)) && !scalar.secret;
            report.add(if meant {
                finding.suggest(Some(&format!("{}%", scalar.text)))
            } else {
                finding.help("for example `5%`")
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_the_four_units() {
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
        for wrong in
            ["", "30", "s", "2d", "1 s", "1s ", "-1s", "1.5s", "100000s", "1us", "1month", "1h1m1s1ms1s"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_and_sizes_read_back_as_they_are_shown() {
        for text in ["1h30m", "15s", "250ms", "1m1s1ms", "0s"] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), Some(text));
        }
        assert_eq!(show_size(60 * 1024), "60KiB");
        assert_eq!(show_size(1025), "1025B");
    }
}
