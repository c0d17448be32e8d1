//! Tables of what counts as a context, and what becomes of the headers.

use http::{HeaderName, HeaderValue};

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const W3C: &[Propagation] = &[Propagation::TraceContext];
const B3: &[Propagation] = &[Propagation::B3];
const BOTH: &[Propagation] = &[Propagation::TraceContext, Propagation::B3];

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn propagated(fields: &[(&'static str, &str)], formats: &[Propagation]) -> (HeaderMap, Option<String>) {
    let mut map = headers(fields);
    let id = propagate(&mut map, formats, &mut fastrand::Rng::with_seed(7));
    (map, id.map(|id| id.to_string()))
}

fn text<'a>(map: &'a HeaderMap, name: &str) -> Option<&'a str> {
    map.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn traceparents_that_are_valid() {
    let cases = [
        (PARENT, Sampling::On),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", Sampling::Off),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02", Sampling::Off),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff", Sampling::On),
        ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Sampling::On),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-holds", Sampling::On),
        ("fe-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", Sampling::On),
    ];
    for (value, sampling) in cases {
        let context = w3c::parse(value.as_bytes()).unwrap_or_else(|| panic!("{value} is valid"));
        assert_eq!((context.trace_id.to_string().as_str(), context.sampling), (TRACE, sampling), "{value}");
        assert_eq!(context.span_id, SpanId(0x00f0_67aa_0ba9_02b7_u64.to_be_bytes()));
    }
}

#[test]
fn traceparents_that_are_invalid() {
    let cases = [
        ("", "empty"),
        ("00", "cut off"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", "no flags"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", "half a flag byte"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011", "too long"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-", "version 00 ends there"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x", "version 00 ends there"),
        ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x", "no dash before the rest"),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "forbidden version"),
        ("0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "version is not hexadecimal"),
        ("0A-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "upper case in the version"),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", "upper case in the trace id"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01", "upper case in the span id"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0A", "upper case in the flags"),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", "trace id of zeros"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", "span id of zeros"),
        ("00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01", "dash in the wrong place"),
        ("00-4bf92f3577b34da6a3ce929d0e0e473z-00f067aa0ba902b7-01", "not a digit"),
        ("00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01", "other separators"),
        (" 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "leading space"),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é", "not ASCII"),
    ];
    for (value, why) in cases {
        assert_eq!(w3c::parse(value.as_bytes()), None, "{why}: {value}");
    }
}

#[test]
fn a_valid_context_passes_through_untouched() {
    let came = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2"), ("b3", "junk")];
    let (map, id) = propagated(&came, W3C);
    assert_eq!(map, headers(&came));
    assert_eq!(id.as_deref(), Some(TRACE));
}

#[test]
fn an_invalid_traceparent_is_removed_with_its_tracestate_and_no_trace_starts() {
    let invalid = [("traceparent", "00-zz"), ("tracestate", "a=1"), ("tracestate", "b=2")];
    let twice = [("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1")];
    let orphan = [("tracestate", "a=1")];
    for came in [&invalid[..], &twice[..], &orphan[..], &[]] {
        let (map, id) = propagated(came, W3C);
        assert_eq!((map, id), (HeaderMap::new(), None), "{came:?}");
    }
}

#[test]
fn two_traces_that_start_here_differ() {
    let mut rng = fastrand::Rng::with_seed(1);
    let ids = [(); 2].map(|()| propagate(&mut headers(&[("b3", "1")]), B3, &mut rng).unwrap());
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn without_formats_nothing_is_read_or_written() {
    let came = [("traceparent", "junk"), ("b3", "junk")];
    let (map, id) = propagated(&came, &[]);
    assert_eq!((map, id), (headers(&came), None));
}

#[test]
fn single_b3_headers() {
    let span = "00f067aa0ba902b7";
    let full = format!("{TRACE}-{span}");
    let valid = [
        (full.clone(), TRACE, Sampling::Deferred),
        (format!("{full}-0"), TRACE, Sampling::Off),
        (format!("{full}-1"), TRACE, Sampling::On),
        (format!("{full}-d"), TRACE, Sampling::Debug),
        (format!("{full}-1-05e3ac9a4f6e3b90"), TRACE, Sampling::On),
        (format!("a3ce929d0e0e4736-{span}-1"), "0000000000000000a3ce929d0e0e4736", Sampling::On),
    ];
    for (value, trace, sampling) in valid {
        let context = TraceContext::extract(&headers(&[("b3", &value)]), B3).unwrap();
        assert_eq!((context.trace_id.to_string().as_str(), context.sampling), (trace, sampling), "{value}");
        let (map, _) = propagated(&[("b3", &value)], B3);
        assert_eq!(map, headers(&[("b3", &value)]), "passes through untouched");
    }
    let invalid = [
        String::new(),
        "x".into(),
        TRACE.into(),
        format!("{full}-"),
        format!("{full}-2"),
        format!("{full}-1-"),
        format!("{full}-1-05e3ac9a4f6e3b90-1"),
        format!("{TRACE}-00f067aa0ba902b"),
        format!("{TRACE}-0000000000000000"),
        format!("0000000000000000-{span}"),
        format!("{TRACE}0-{span}"),
        full.to_uppercase(),
    ];
    for value in invalid {
        assert_eq!(TraceContext::extract(&headers(&[("b3", &value)]), B3), None, "{value}");
        assert_eq!(propagated(&[("b3", &value)], B3), (HeaderMap::new(), None), "{value}");
    }
}

#[test]
fn multiple_b3_headers() {
    let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", "00f067aa0ba902b7")];
    for (more, sampling) in [
        (&[][..], Sampling::Deferred),
        (&[("x-b3-sampled", "0")][..], Sampling::Off),
        (&[("x-b3-sampled", "1")][..], Sampling::On),
        (&[("x-b3-sampled", "true"), ("x-b3-parentspanid", "05e3ac9a4f6e3b90")][..], Sampling::On),
        (&[("x-b3-flags", "1")][..], Sampling::Debug),
    ] {
        let came = [&ids[..], more].concat();
        assert_eq!(TraceContext::extract(&headers(&came), B3).unwrap().sampling, sampling);
        assert_eq!(propagated(&came, B3).0, headers(&came), "passes through untouched");
    }
    for broken in [
        &[("x-b3-traceid", TRACE)][..],
        &[("x-b3-spanid", "00f067aa0ba902b7")][..],
        &[ids[0], ids[1], ("x-b3-sampled", "maybe")][..],
        &[ids[0], ids[1], ("x-b3-parentspanid", "x")][..],
        &[ids[0], ids[0], ids[1]][..],
    ] {
        let (map, id) = propagated(broken, B3);
        // A decision that came with broken ids still holds, for a trace that starts here.
        let starts = map.len() == 1 && map.contains_key("b3") && id.is_some();
        assert!(starts || (map.is_empty() && id.is_none()), "{broken:?} became {map:?}");
    }
}

#[test]
fn a_b3_decision_without_a_trace_holds_for_the_trace_that_starts() {
    for (value, ending) in [("0", "-0"), ("1", "-1"), ("d", "-d")] {
        let (map, _) = propagated(&[("b3", value)], B3);
        assert!(text(&map, "b3").unwrap().ends_with(ending));
    }
    let (map, _) = propagated(&[("x-b3-sampled", "1")], BOTH);
    assert!(text(&map, "b3").unwrap().ends_with("-1") && text(&map, "traceparent").unwrap().ends_with("-01"));
    assert!(!map.contains_key("x-b3-sampled"));
}

#[test]
fn the_format_that_is_missing_is_written_from_the_one_that_came() {
    let (map, id) = propagated(&[("traceparent", PARENT), ("tracestate", "a=1")], BOTH);
    assert_eq!(text(&map, "b3"), Some("4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1"));
    assert_eq!((text(&map, "traceparent"), text(&map, "tracestate")), (Some(PARENT), Some("a=1")));
    assert_eq!(id.as_deref(), Some(TRACE));

    let came = [("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-0"), ("tracestate", "a=1")];
    let (map, id) = propagated(&came, BOTH);
    let padded = "0000000000000000a3ce929d0e0e4736";
    let written = format!("00-{padded}-00f067aa0ba902b7-00");
    assert_eq!(text(&map, "traceparent"), Some(written.as_str()));
    assert_eq!(text(&map, "b3"), Some(came[0].1));
    assert_eq!(text(&map, "tracestate"), None, "it belonged to no valid traceparent");
    assert_eq!(id.as_deref(), Some(padded));
}

#[test]
fn traceparent_wins_over_b3() {
    let came = [("traceparent", PARENT), ("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-0")];
    let (map, id) = propagated(&came, BOTH);
    assert_eq!((map, id.as_deref()), (headers(&came), Some(TRACE)));
}
