//! The figures as a picture: news over time as lines, the rest as bars.

use std::fmt::Write as _;

use crate::trials::{Figures, News, percentile};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 80.0;
const BAR: f64 = 18.0;
const COLOURS: [&str; 3] = ["#5b8c5a", "#3d6fa5", "#d2691e"];

/// The picture.
pub(crate) fn svg(figures: &Figures) -> String {
    let mut body = String::new();
    let mut y = 46.0;
    curves(&mut body, &mut y, figures);
    for (title, of) in
        [("until the first suspects it", 0), ("until the first declares it dead", 1), ("until all know", 2)]
    {
        let rows = figures.kills.iter().map(|(runs, kills)| {
            let samples = [&kills.suspected, &kills.dead, &kills.known][of];
            let [low, high] = [0.5, 0.99].map(|share| percentile(samples, share));
            (format!("N = {}", runs.members), low, Some(high), COLOURS[1])
        });
        bars(
            &mut body,
            &mut y,
            &format!("A process is gone: seconds {title}, p50 (line: to p99)"),
            rows.collect(),
        );
    }
    let rows = figures.numb.iter().flat_map(|verdicts| {
        let label = |layer| format!("{} {layer}", verdicts.stalling);
        [
            (label("on"), verdicts.on as f64, None, COLOURS[2]),
            (label("off"), verdicts.off as f64, None, COLOURS[0]),
        ]
    });
    bars(
        &mut body,
        &mut y,
        "False deaths at N = 128 by members whose sockets stall, Lifeguard on and off",
        rows.collect(),
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" viewBox=\"0 0 {WIDTH} {y}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" fill=\"#666\">Virtual time; each group has its own scale.</text>\n{body}</svg>\n"
    )
}

fn title(body: &mut String, y: &mut f64, text: &str) {
    let _ = writeln!(body, "<text x=\"{LEFT}\" y=\"{y}\" font-weight=\"bold\">{text}</text>");
    *y += 10.0;
}

/// A row of the picture: what, how much, up to how much, in which colour.
type Row = (String, f64, Option<f64>, &'static str);

fn bars(body: &mut String, y: &mut f64, text: &str, rows: Vec<Row>) {
    title(body, y, text);
    let longest =
        rows.iter().map(|(_, value, high, _)| high.unwrap_or(*value)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    for (label, value, high, colour) in rows {
        let middle = *y + BAR / 2.0;
        let (length, end) = ((value * scale).max(1.0), high.unwrap_or(value) * scale);
        let _ = writeln!(
            body,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"#222\"/>",
            LEFT - 8.0,
            middle + 4.0,
            LEFT + length,
            LEFT + end.max(length),
        );
        let digits = usize::from(high.is_some()) * 2;
        let at = LEFT + end.max(length) + 6.0;
        let _ = writeln!(body, "<text x=\"{at:.1}\" y=\"{:.1}\">{value:.digits$}</text>", middle + 4.0);
        *y += BAR + 4.0;
    }
    *y += 34.0;
}

/// The share of the largest mesh that had heard, over time.
fn curves(body: &mut String, y: &mut f64, figures: &Figures) {
    let largest = figures.news.iter().map(|(runs, ..)| runs.members).max().unwrap_or(0);
    title(
        body,
        y,
        &format!("News: share of {largest} members that have heard, over seconds, by share of packets lost"),
    );
    let wanted: Vec<(f64, &News)> = figures
        .news
        .iter()
        .filter(|(runs, ..)| runs.members == largest)
        .map(|(_, loss, news)| (*loss, news))
        .collect();
    let all = wanted.iter().flat_map(|(_, news)| news.reached.iter().flatten());
    let end = all.copied().fold(0.2, f64::max);
    let (width, height) = (WIDTH - LEFT - RIGHT, 180.0);
    let top = *y;
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let at = top + height * (1.0 - share);
        let _ = writeln!(
            body,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
            LEFT + width,
            LEFT - 8.0,
            at + 4.0,
            share * 100.0,
        );
    }
    for tick in 0..=(end / 0.2) as usize {
        let x = LEFT + width * tick as f64 * 0.2 / end;
        let below = top + height + 18.0;
        let _ = writeln!(
            body,
            "<text x=\"{x:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{:.1}</text>",
            tick as f64 * 0.2
        );
    }
    for (line, (loss, news)) in wanted.iter().enumerate() {
        let mut times: Vec<f64> = news.reached.iter().flatten().copied().collect();
        times.sort_unstable_by(f64::total_cmp);
        let points = (0..=200).map(|step| {
            let share = f64::from(step) / 200.0;
            let x = LEFT + width * percentile(&times, share) / end;
            format!("{x:.1},{:.1}", top + height * (1.0 - share))
        });
        let colour = COLOURS[line % COLOURS.len()];
        let _ = writeln!(
            body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{:.0} % lost</text>",
            points.collect::<Vec<_>>().join(" "),
            LEFT + 14.0,
            top + 20.0 + 20.0 * line as f64,
            loss * 100.0,
        );
    }
    *y += height + 60.0;
}
