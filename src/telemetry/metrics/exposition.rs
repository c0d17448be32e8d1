//! The Prometheus text format 0.0.4: writing what the recorder of the metrics crate does not write for us, and
//! leaving out of its text what is no longer in use.

use std::fmt::Write;

use super::{
    family::{Family, Kind},
    hot::HistogramSnapshot,
    labels::Hidden,
};

/// Writes the `# HELP` and `# TYPE` lines.
pub(super) fn header(out: &mut String, family: &Family) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    // Writing into a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help, name = family.name);
}

/// Writes one sample of a counter or gauge.
pub(super) fn sample<'a>(
    out: &mut String,
    name: &str,
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    value: impl std::fmt::Display,
) {
    out.push_str(name);
    let before = out.len();
    for (label, text) in labels {
        out.push(if out.len() == before { '{' } else { ',' });
        let _ = write!(out, "{label}=\"");
        escape(out, text);
        out.push('"');
    }
    if out.len() != before {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

/// Writes all samples of one histogram.
pub(super) fn histogram(out: &mut String, name: &str, labels: &[(&str, &str)], seen: &HistogramSnapshot) {
    let bucket = format!("{name}_bucket");
    for (bound, count) in &seen.cumulative {
        let le = bound.map_or_else(|| "+Inf".to_owned(), |nanos| (nanos as f64 / 1e9).to_string());
        sample(out, &bucket, labels.iter().copied().chain([("le", le.as_str())]), count);
    }
    sample(out, &format!("{name}_sum"), labels.iter().copied(), seen.sum_seconds);
    sample(out, &format!("{name}_count"), labels.iter().copied(), seen.count);
}

fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

/// `text` without the samples that `hidden` covers and without empty lines.
pub(super) fn without_hidden(text: &str, hidden: &Hidden) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if line.is_empty() || (!line.starts_with('#') && hidden.covers(|name| label_of(line, name))) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Value of a label in a sample line. Only for labels whose values need no escapes, which the names of services
/// and routes never do.
fn label_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = line;
    loop {
        let at = rest.find(name)?;
        let starts = at > 0 && matches!(rest.as_bytes()[at - 1], b'{' | b',');
        let tail = &rest[at + name.len()..];
        if let Some(value) = tail.strip_prefix("=\"").filter(|_| starts) {
            return value.split('"').next();
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut out = String::new();
        sample(&mut out, "m", [("a", "x\"y\\z\n")], 1);
        assert_eq!(out, "m{a=\"x\\\"y\\\\z\\n\"} 1\n");
    }

    #[test]
    fn a_sample_without_labels_has_no_braces() {
        let mut out = String::new();
        sample(&mut out, "m", [], 0.5);
        assert_eq!(out, "m 0.5\n");
    }

    #[test]
    fn a_label_is_found_by_its_whole_name() {
        let line = "m{service_x=\"no\",service=\"yes\",route=\"r\"} 1";
        assert_eq!(label_of(line, "service"), Some("yes"));
        assert_eq!(label_of(line, "route"), Some("r"));
        assert_eq!(label_of(line, "direction"), None);
    }
}
