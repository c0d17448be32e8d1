//! The figures as text: what was measured, the tables, and whether the project's own aims are met.

use std::fmt::Write as _;

use crate::trials::{Figures, News, Plan, Runs, Verdicts, percentile};

/// The report.
pub(crate) fn markdown(plan: &Plan, figures: &Figures) -> String {
    let mut text = String::from(HEAD);
    let mut add = |part: String| text.push_str(&part);
    add(targets(figures));
    add(kills(figures));
    add(news(figures));
    add(verdicts(plan, figures));
    add(costs(figures));
    text
}

const HEAD: &str = "# The membership in simulation

`cargo bench --bench membership -- --report docs/benchmarks` writes this: each member decides as the sidecar does
(`src/membership/core`, profile `lan`), in virtual time, over a network that delays each packet by 0.2 to 2 ms and loses
those that a table says. The same seeds give the same figures on any machine; seeds count from 0.

![dissemination, deaths and false deaths](membership.svg)
";

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let owned = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut text = String::from("\n");
    text.push_str(&line(&owned(head)));
    text.push_str(&line(&vec!["--:".to_owned(); head.len()]));
    rows.into_iter().for_each(|row| text.push_str(&line(&row)));
    text
}

fn of(members: usize, all: &[(Runs, Vec<f64>)]) -> Option<&Vec<f64>> {
    all.iter().find(|(runs, _)| runs.members == members).map(|(_, samples)| samples)
}

/// What is aimed at, what came out, the limit, and whether it is met.
fn judged(figures: &Figures) -> Vec<(String, f64, String, bool)> {
    let mut found = Vec::new();
    let mut at_most = |what: String, figure: f64, limit: f64| {
        found.push((what, figure, format!("at most {limit}"), figure <= limit));
    };
    for (members, limit) in [(10, 2.7), (1000, 5.3)] {
        for (_, kills) in figures.kills.iter().filter(|(runs, _)| runs.members == members) {
            at_most(format!("N = {members}: declared dead, p50, s"), percentile(&kills.dead, 0.5), limit);
        }
    }
    for (loss, limit) in [(0.0, 2.0), (0.3, 2.4)] {
        for (_, _, news) in figures.news.iter().filter(|(runs, of, _)| runs.members == 1000 && *of == loss) {
            let what = format!("N = 1000, {:.0} % lost: news reach all, the slowest, s", loss * 100.0);
            at_most(what, slowest(news), limit);
        }
    }
    for (runs, samples) in &figures.idle {
        let what = format!("N = {}: bytes sent by a member in a second, idle", runs.members);
        at_most(what, percentile(samples, 1.0), 1024.0);
    }
    for (stalls, what) in [(&figures.numb, "sockets"), (&figures.frozen, "processes")] {
        let few: usize =
            stalls.iter().filter(|verdicts| verdicts.stalling <= 4).map(|verdicts| verdicts.on).sum();
        at_most(format!("N = 128, up to 4 stalling {what}: false deaths"), few as f64, 0.0);
    }
    let sum = |of: fn(&Verdicts) -> usize| figures.numb.iter().map(of).sum::<usize>() as f64;
    let (on, off) = (sum(|verdicts| verdicts.on), sum(|verdicts| verdicts.off));
    let times = off / on.max(1.0);
    let what = "N = 128, 1 to 32 stalling sockets: times fewer false deaths (none counts as one)".to_owned();
    found.push((what, times, "at least 20".to_owned(), times >= 20.0));
    found
}

fn targets(figures: &Figures) -> String {
    let row = |(what, figure, limit, is_met): (String, f64, String, bool)| {
        vec![what, format!("{figure:.2}"), limit, if is_met { "met" } else { "**missed**" }.to_owned()]
    };
    let rows = judged(figures).into_iter().map(row);
    format!("\n## Against the targets\n{}", table(&["target", "figure", "limit", ""], rows))
}

fn times(samples: &[f64]) -> [String; 2] {
    [0.5, 0.99].map(|share| format!("{:.2}", percentile(samples, share)))
}

fn size(runs: Runs) -> [String; 2] {
    [runs.members.to_string(), format!("{} × {}", runs.seeds, runs.trials)]
}

fn kills(figures: &Figures) -> String {
    let rows = figures.kills.iter().map(|(runs, kills)| {
        let cells = [times(&kills.suspected), times(&kills.dead), times(&kills.known)];
        size(*runs).into_iter().chain(cells.into_iter().flatten()).collect()
    });
    let head =
        ["N", "seeds × kills", "suspected p50", "p99", "declared dead p50", "p99", "dead to all p50", "p99"];
    format!(
        "\n## A process that is gone\n\nSeconds from its end until the first member suspects it, until the first declares it \
         dead, until all have heard.\nThe mesh is whole and idle when it happens. With fewer than 100 kills p99 is the \
         slowest.\n{}",
        table(&head, rows)
    )
}

/// When so much of the mesh had heard.
fn reached(news: &News, share: f64) -> Vec<f64> {
    news.reached.iter().map(|times| percentile(times, share)).collect()
}

fn slowest(news: &News) -> f64 {
    if news.missed > 0 { f64::INFINITY } else { percentile(&reached(news, 1.0), 1.0) }
}

fn news(figures: &Figures) -> String {
    let head =
        ["N", "seeds × news", "lost", "half p50", "99 % p50", "all p50", "all p99", "slowest", "missed"];
    let rows = |all: &[(Runs, f64, News)]| {
        let row = |(runs, loss, news): &(Runs, f64, News)| {
            let all = reached(news, 1.0);
            let p50 = |share| format!("{:.2}", percentile(&reached(news, share), 0.5));
            let mut cells = size(*runs).to_vec();
            cells.extend([format!("{:.0} %", loss * 100.0), p50(0.5), p50(0.99)]);
            cells.extend(times(&all));
            cells.extend([format!("{:.2}", percentile(&all, 1.0)), news.missed.to_string()]);
            cells
        };
        table(&head, all.iter().map(row))
    };
    format!(
        "\n## A piece of news\n\nSeconds from a member's saying something new about itself until half of the mesh, 99 % and \
         all have heard it. News go\nout with three packets in each 200 ms, and with every probe and answer. Packets are lost \
         from that moment on;\n`missed` counts members that had not heard half a minute later.\n{}\nThe same where packets \
         have been lost for five seconds already, so that false suspicions and their refutations\ntravel as well:\n{}",
        rows(&figures.news),
        rows(&figures.late_news)
    )
}

fn verdicts(plan: &Plan, figures: &Figures) -> String {
    let numb = figures.numb.iter().map(|verdicts| {
        [verdicts.stalling, verdicts.on, verdicts.off].map(|count| count.to_string()).to_vec()
    });
    let frozen = figures.frozen.iter().map(|verdicts| {
        let counts = [verdicts.stalling, verdicts.on, verdicts.off, verdicts.off_socket_first];
        counts.map(|count| count.to_string()).to_vec()
    });
    format!(
        "\n## Members that stall\n\nVerdicts of death about members that are well, by whoever found them, among {} of which \
         some stall: blocked for 1 to 8 s,\nawake for 10 to 200 ms, again and again. `off` is SWIM without Lifeguard.\n\nSockets \
         that stall, both ways, while timers run, {} s with each of {} seeds:\n{}\nProcesses that stand still, {} s, {} \
         seed. In this pattern they harm nobody, with the layer or without it, so how much\nLifeguard helps is shown by the \
         sockets alone. `off` runs\n\
         overdue timers before it reads what has come, or after:\n{}",
        plan.numb.members,
        plan.numb.trials,
        plan.numb.seeds,
        table(&["stalling", "on", "off"], numb),
        plan.frozen.trials,
        plan.frozen.seeds,
        table(&["stalling", "on", "off", "off, socket first"], frozen),
    )
}

fn costs(figures: &Figures) -> String {
    let rows = figures.idle.iter().map(|(runs, idle)| {
        let cell = |samples: Option<&Vec<f64>>, digits: usize| {
            samples.map_or_else(String::new, |samples| format!("{:.digits$}", percentile(samples, 0.5)))
        };
        let healed = of(runs.members, &figures.healed);
        let worst = healed.map_or_else(String::new, |samples| format!("{:.1}", percentile(samples, 1.0)));
        let churn = of(runs.members, &figures.churn);
        vec![runs.members.to_string(), cell(Some(idle), 0), cell(churn, 0), cell(healed, 1), worst]
    });
    let mut text = String::from("\n## What it costs, and the end of a partition\n\n");
    let _ = writeln!(
        text,
        "Bytes that a member sends in a second, with all headers and the comparisons over TLS: idle, and with one member in a\n\
         hundred killed in each second and started again a second later. Seconds from the end of a partition in halves, which\n\
         lasted a minute, until everybody sees everybody. Medians of the seeds.",
    );
    text + &table(&["N", "idle B/s", "churn B/s", "healed after", "slowest"], rows)
}
