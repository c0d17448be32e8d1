//! The figures as text: against what was aimed at, and against etcd.

use std::{fmt::Write as _, time::Duration};

use crate::{
    etcd,
    load::{Sample, Verb, percentile},
    machine::{cores, said, told},
    trials::{CONNECTIONS, Figures, POLL, Plan, Row},
};

/// The report of a run that began at `load` (the load average then).
pub(crate) fn markdown(plan: &Plan, figures: &Figures, load: &str) -> String {
    let mut text = head(plan, load);
    text.push_str(&targets(figures));
    text.push_str(&comparison(figures));
    text.push_str(&rest(figures));
    text.push_str(&others(figures));
    text
}

pub(crate) fn today() -> String {
    said("date", &["-u", "+%F"])
}

fn head(plan: &Plan, load: &str) -> String {
    let memory = told("/proc/meminfo", "MemTotal")
        .split_whitespace()
        .next()
        .map_or(0.0, |kib| kib.parse::<f64>().unwrap_or_default() / 1024.0 / 1024.0);
    let etcd = etcd::version()
        .filter(|_| plan.has_etcd)
        .map_or("not there".to_owned(), |version| format!("{version}, with its defaults"));
    let Plan { rounds, length, kills, news, watchers, .. } = plan;
    format!(
        "# The store, {}\n\n`cargo bench --bench store -- --report docs/benchmarks` writes this; what is measured how is in \
         [benches/README.md](../../benches/README.md).\n\n\
         - **Machine**: {} × {}, {memory:.0} GiB, {}, Linux {}. Servers, clients and all else share it.\n\
         - **Load average** at the beginning {load}, at the end {}.\n\
         - **Outrigger** {}, commit {}, the binary that a release has, with the defaults of its store; data on disk with \
         fsync; no mutual TLS.\n\
         - **etcd** {etcd}; data on the same disk; no TLS. gRPC over HTTP/2, {CONNECTIONS} connection to its leader, as \
         ours.\n\
         - **Rounds**: {rounds} of {} s for each load, in turns; medians, and least to most. {kills} kills, {news} routes, \
         {watchers} watchers.\n",
        today(),
        cores(),
        told("/proc/cpuinfo", "model name"),
        told("/etc/os-release", "PRETTY_NAME"),
        said("uname", &["-r"]),
        said("cut", &["-d ", "-f1-3", "/proc/loadavg"]),
        env!("CARGO_PKG_VERSION"),
        said("git", &["describe", "--always", "--dirty"]),
        length.as_secs_f64(),
    )
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("\n| {} |\n|{}\n", head.join(" | "), "--:|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => f64::NAN,
        0 => values[middle - 1].midpoint(values[middle]),
        _ => values[middle],
    }
}

fn of(samples: &[Sample], what: fn(&Sample) -> f64) -> f64 {
    median(samples.iter().map(what).collect())
}

fn ms(times: &[Duration], share: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    percentile(&times, share).as_secs_f64() * 1e3
}

/// A figure and its limit.
struct Target {
    what: String,
    figure: f64,
    limit: f64,
    is_least: bool,
}

fn judged(figures: &Figures) -> Vec<Target> {
    let mut found = Vec::new();
    let mut add = |what: &str, figure: f64, limit: f64, is_least: bool| {
        // What was not measured is not judged.
        if figure.is_finite() && limit.is_finite() {
            found.push(Target { what: what.to_owned(), figure, limit, is_least });
        }
    };
    let row = |verb: Verb, clients: usize| {
        figures.rows.iter().find(|row| row.verb == verb && row.clients == clients)
    };
    if let Some(one) = row(Verb::Put, 1) {
        add(
            "durable write, 1 client, p50, ms: etcd's in this run",
            of(&one.ours, |s| s.p50_ms),
            of(&one.etcd, |s| s.p50_ms),
            false,
        );
        add("the same: our aim", of(&one.ours, |s| s.p50_ms), 1.5, false);
    }
    if let Some(many) = row(Verb::Put, 64) {
        add(
            "durable writes, 64 clients, per second: etcd's in this run",
            of(&many.ours, |s| s.per_second),
            of(&many.etcd, |s| s.per_second),
            true,
        );
        add("the same: our aim", of(&many.ours, |s| s.per_second), 8000.0, true);
    }
    if let Some(one) = row(Verb::Get, 1) {
        add("linearizable read, 1 client, p50, ms", of(&one.ours, |s| s.p50_ms), 0.6, false);
        add("the same: etcd's in this run", of(&one.ours, |s| s.p50_ms), of(&one.etcd, |s| s.p50_ms), false);
    }
    if let Some(many) = row(Verb::Get, 64) {
        add(
            "linearizable reads, 64 clients, per second: etcd's in this run",
            of(&many.ours, |s| s.per_second),
            of(&many.etcd, |s| s.per_second),
            true,
        );
    }
    add("lease reads in the leader's process, per second", median(figures.within.clone()), 100_000.0, true);
    let mut times = |what: &str, times: &[Duration], share: f64, limit: f64| {
        if !times.is_empty() {
            add(what, ms(times, share), limit, false);
        }
    };
    times("leader killed, next write answered, p50, ms", &figures.kills, 0.5, 650.0);
    times("the same, p99, ms", &figures.kills, 0.99, 1200.0);
    times("route answered to the last of 7 sidecars serving it, p99, ms", &figures.served, 0.99, 20.0);
    times("write answered to the last watcher told, p99, ms", &figures.told_all, 0.99, 250.0);
    let more = median(figures.with.clone()) / median(figures.without.clone()) * 100.0 - 100.0;
    add("more CPU for a request with the store on, %", more, 3.0, false);
    found
}

fn targets(figures: &Figures) -> String {
    let rows = judged(figures).into_iter().map(|Target { what, figure, limit, is_least }| {
        let is_met = if is_least { figure >= limit } else { figure <= limit };
        let limit = format!("{} {}", if is_least { "at least" } else { "at most" }, shown(limit));
        vec![what, shown(figure), limit, if is_met { "met" } else { "**missed**" }.to_owned()]
    });
    format!("\n## Against the targets\n{}", table(&["target", "figure", "limit", ""], rows))
}

fn shown(figure: f64) -> String {
    if figure.abs() >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}

fn comparison(figures: &Figures) -> String {
    if figures.rows.is_empty() {
        return String::new();
    }
    let rows = figures.rows.iter().flat_map(|row| {
        let name = match row.verb {
            Verb::Put => "write",
            Verb::Get => "linearizable read",
            Verb::Lease => "lease read",
        };
        [("Outrigger", &row.ours), ("etcd", &row.etcd)]
            .into_iter()
            .filter(|(_, samples)| !samples.is_empty())
            .map(move |(who, samples)| {
                let most = |what: fn(&Sample) -> f64| {
                    let values = samples.iter().map(what);
                    let (least, most) = (values.clone().fold(f64::MAX, f64::min), values.fold(0.0, f64::max));
                    format!("{} ({}–{})", shown(of(samples, what)), shown(least), shown(most))
                };
                vec![
                    name.to_owned(),
                    row.clients.to_string(),
                    who.to_owned(),
                    most(|s| s.per_second),
                    most(|s| s.p50_ms),
                    most(|s| s.p99_ms),
                    most(|s| s.cpu_us),
                ]
            })
    });
    let ratios = figures.rows.iter().filter(|row| !row.etcd.is_empty()).map(|row: &Row| {
        let each = row.ours.iter().zip(&row.etcd).map(|(ours, etcd)| ours.per_second / etcd.per_second);
        format!("{:?} of {}: {:.2}", row.verb, row.clients, median(each.collect()))
    });
    let ratios = ratios.collect::<Vec<_>>().join(", ");
    let ratios = if ratios.is_empty() {
        String::new()
    } else {
        format!("\nOperations per second, ours by etcd's, median of the rounds: {ratios}.\n")
    };
    format!(
        "\n## Beside etcd\n\nThree servers each, values of 128 bytes. CPU is that of all three servers together.\n{}{ratios}",
        table(&["operation", "clients", "", "per second", "p50, ms", "p99, ms", "CPU each, µs"], rows)
    )
}

fn rest(figures: &Figures) -> String {
    let mut rows = Vec::new();
    let mut add = |what: &str, times: &[Duration]| {
        if !times.is_empty() {
            let mut row = vec![what.to_owned(), times.len().to_string()];
            row.extend([0.5, 0.9, 0.99, 1.0].map(|share| format!("{:.1}", ms(times, share))));
            rows.push(row);
        }
    };
    add("leader killed → next write answered", &figures.kills);
    add("route's write answered → last of 7 sidecars serves it", &figures.served);
    add("route's write begun → last of 7 sidecars serves it", &figures.served_since_asked);
    add("write answered → half of the watchers told", &figures.told_half);
    add("write answered → all watchers told", &figures.told_all);
    let mut text = String::new();
    if !rows.is_empty() {
        text = format!(
            "\n## Times\n\nMilliseconds. Who looks whether a route is served asks each sidecar, then waits for {} ms: that and \
             the request are the resolution, and are part of the figure.\n{}",
            POLL.as_millis(),
            table(&["what", "times", "p50", "p90", "p99", "most"], rows)
        );
    }
    if !figures.within.is_empty() {
        let all: Vec<_> = figures.within.iter().map(|each| shown(*each)).collect();
        let _ = writeln!(
            text,
            "\nLease reads in the leader's process, per second, each round: {}.",
            all.join(", ")
        );
    }
    if !figures.with.is_empty() {
        let us = |all: &[f64]| all.iter().map(|each| format!("{each:.2}")).collect::<Vec<_>>().join(", ");
        let idle = |all: &[Duration]| ms(all, 0.5);
        let _ = writeln!(
            text,
            "\nCPU for a request, µs, each round: {} without a store, {} on the leader of one. At rest a sidecar without a store \
             uses {:.0} ms of CPU in a second, the leader of a store {:.0}.",
            us(&figures.without),
            us(&figures.with),
            idle(&figures.idle_without),
            idle(&figures.idle_with)
        );
    }
    text
}

fn others(figures: &Figures) -> String {
    let all: Vec<_> =
        figures.others.iter().map(|(what, share)| format!("{what}: {:.0} %", share * 100.0)).collect();
    format!(
        "\n## The machine meanwhile\n\nShare of its processors that processes beside the bench used: {}.\n",
        all.join("; ")
    )
}
