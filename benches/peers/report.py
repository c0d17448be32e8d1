"""Turns the results into a table, the verdict against the targets, and a dated report with a chart."""

import datetime
import os
import platform
from pathlib import Path

TITLES = {
    "h1": "HTTP/1.1 keep-alive, 64 connections, 52-byte answer",
    "h1-64k": "HTTP/1.1 keep-alive, 64 connections, 64 KiB answer",
    "h2": "HTTP/2, 16 connections x 16 streams, 52-byte answer",
    "conn": "HTTP/1.1, 64 clients, a new connection per request",
    "idle": "10 000 idle keep-alive connections",
    "tcp": "bytes passed on, 64 connections, requests with a 52-byte answer",
    "tcp-64k": "bytes passed on, 64 connections, requests with a 64 KiB answer",
    "mesh": "two sidecars with mutual TLS 1.3 between them, 64 connections, 52-byte answer",
    "mesh-64k": "two sidecars with mutual TLS 1.3 between them, 64 connections, 64 KiB answer",
    "mesh-1m": "two sidecars with mutual TLS 1.3 between them, 64 connections, 1 MiB answer",
    "handshake": "full handshakes with mutual TLS 1.3, ECDSA P-256",
    "idle-mtls": "2 000 idle keep-alive connections with mutual TLS 1.3",
}
# (scenario, measure, rival or None for an absolute figure, limit): the project's own aims.
TARGETS = [
    ("h1", "cpu_us", "haproxy", 1.25),
    ("h1", "cpu_us", "envoy", 0.45),
    ("h1-64k", "cpu_us", "haproxy", 1.25),
    ("h2", "cpu_us", "envoy", 0.6),
    ("idle", "rss_mib", None, 20),
    ("idle", "idle_kib", None, 20),
    ("tcp", "cpu_us", "haproxy", 1.1),
    ("tcp-64k", "cpu_us", "haproxy", 1.1),
    ("mesh", "cpu_us", "haproxy", 1.15),
    ("mesh", "cpu_us", "envoy", 0.45),
    ("mesh-64k", "cpu_us", "haproxy", 1.15),
    ("mesh-1m", "cpu_us", "haproxy", 1.15),
    ("handshake", "cpu_us", "nginx", 1.0),
    ("idle-mtls", "idle_kib", None, 40),
]
UNIT = {"cpu_us": "µs CPU per request", "rss_mib": "MiB RSS when idle", "idle_kib": "KiB per idle connection"}
COLOURS = {"nginx": "#5b8c5a", "haproxy": "#3d6fa5", "envoy": "#a05195", "outrigger": "#d2691e"}


def headline(scenario):
    return "idle_kib" if scenario.startswith("idle") else "cpu_us"


def unit(scenario, measure):
    return "µs CPU per handshake" if scenario == "handshake" else UNIT[measure]


def rows(results):
    """One row of plain cells per scenario and proxy."""
    for scenario, by_proxy in results.samples.items():
        measure = headline(scenario)
        for proxy in sorted(by_proxy, key=list(COLOURS).index):
            low, high = results.spread(scenario, proxy, measure)
            idle = measure == "idle_kib"
            # Its load generator is what is saturated there, so waiting times would be its own.
            untimed = idle or scenario == "handshake"
            yield [
                scenario, proxy, f"{results.median(scenario, proxy, measure):.2f}", f"{low:.2f}-{high:.2f}",
                "-" if idle else f"{results.median(scenario, proxy, 'requests_per_second'):.0f}",
                "-" if untimed else f"{results.median(scenario, proxy, 'p50_us') / 1000:.2f}",
                "-" if untimed else f"{results.median(scenario, proxy, 'p99_us') / 1000:.2f}",
                f"{results.median(scenario, proxy, 'rss_mib'):.1f}",
                *(ratio_cell(results, scenario, proxy, rival, measure) for rival in ("haproxy", "envoy")),
            ]


def ratio_cell(results, scenario, proxy, rival, measure):
    ratio = results.ratio(scenario, proxy, rival, measure)
    return f"{ratio:.2f}" if ratio else "-"


HEAD = ["scenario", "proxy", "median", "min-max", "requests/s", "p50 ms", "p99 ms", "RSS MiB",
        "x haproxy", "x envoy"]


def table(results):
    """For a terminal: columns aligned by width. Median is µs CPU per request, where idle KiB per connection."""
    cells = [HEAD, *rows(results)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) if column < 2 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))) for row in cells]
    return "\n".join(["", "median: us CPU per request; idle: KiB per connection", *lines])


def judged(results):
    """(text, figure, limit, met) of each target that this run has figures for."""
    for scenario, measure, rival, limit in TARGETS:
        if rival:
            figure = results.ratio(scenario, "outrigger", rival, measure)
            text = f"{scenario}: {unit(scenario, measure)}, outrigger / {rival}"
        else:
            figure = results.median(scenario, "outrigger", measure)
            text = f"{scenario}: {unit(scenario, measure)}"
        if figure is not None:
            yield text, figure, limit, figure <= limit


def verdicts(results):
    lines = [f"{'met   ' if met else 'MISSED'} {text}: {figure:.2f}, at most {limit}"
             for text, figure, limit, met in judged(results)]
    return "\n".join(lines) or "no figures of outrigger to judge"


def write(results, arguments, versions):
    """Writes the report and its chart into the asked directory; returns the paths."""
    directory = Path(arguments.report)
    directory.mkdir(parents=True, exist_ok=True)
    name = f"peers-{datetime.date.today().isoformat()}"
    chart_path, text_path = directory / f"{name}.svg", directory / f"{name}.md"
    chart_path.write_text(chart(results), encoding="utf-8")
    text_path.write_text(markdown(results, arguments, versions, chart_path.name), encoding="utf-8")
    return [text_path, chart_path]


def markdown(results, arguments, versions, chart_name):
    lines = [
        f"# Proxies compared, {datetime.date.today().isoformat()}", "",
        "One proxy at a time, alone on one core; application and load generator on another. In `mesh` scenarios two",
        "of a kind share the core, and figures are those of both. Figures are medians of",
        f"{arguments.rounds} interleaved rounds of {arguments.seconds} s, each on a fresh, warmed-up process.",
        "The method, and why CPU time per request is the figure to trust:"
        " [benches/README.md](../../benches/README.md).", "",
        f"![µs of CPU per request]({chart_name})", "",
        "## Machine and versions", "",
        *(f"- {fact}" for fact in machine_facts()),
        *(f"- {name} {version}" for name, version in versions.items()), "",
        "## Figures", "",
        "`median` and `min-max` are µs of CPU per request, in `handshake` per handshake, in `idle` and `idle-mtls`",
        "KiB of RSS per connection; `RSS` is the whole process after the load, in `idle` and `idle-mtls` before it.",
        "The last two columns are ratios of the medians.", "",
    ]
    for scenario in results.samples:
        lines.append(f"- `{scenario}`: {TITLES[scenario]}")
    lines += ["", markdown_row(HEAD), markdown_row(["---"] * 2 + ["--:"] * (len(HEAD) - 2))]
    lines += [markdown_row(row) for row in rows(results)]
    if targets := list(judged(results)):
        lines += ["", "## Against the targets", "", markdown_row(["target", "figure", "at most", ""]),
                  markdown_row(["---", "--:", "--:", "---"])]
        lines += [markdown_row([text, f"{figure:.2f}", str(limit), "met" if met else "**missed**"])
                  for text, figure, limit, met in targets]
    if results.failures:
        lines += ["", "## Failures", "", *(f"- {failure.splitlines()[0]}" for failure in results.failures)]
    return "\n".join(lines) + "\n"


def markdown_row(cells):
    return f"| {' | '.join(cells)} |"


def machine_facts():
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        models = [line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")]
    with open("/proc/meminfo", encoding="utf-8") as meminfo:
        memory_kib = int(meminfo.readline().split()[1])
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [f"{os.cpu_count()} cores, {models[0] if models else platform.processor()}",
            f"{memory_kib / 1024 ** 2:.0f} GiB of memory, {platform.system()} {platform.release().split('-')[0]}",
            f"load average at the end: {load}"]


BAR, GAP, GROUP_GAP, LEFT, WIDTH, TOP = 18, 4, 34, 110, 760, 46


def chart(results):
    """Horizontal bars, one group per scenario; each group has its own scale (its longest bar)."""
    parts, y = [], TOP
    for scenario, by_proxy in results.samples.items():
        measure = headline(scenario)
        values = {proxy: results.median(scenario, proxy, measure)
                  for proxy in sorted(by_proxy, key=list(COLOURS).index)}
        # The spread's upper end counts too: its line must not leave the picture.
        longest = max(results.spread(scenario, proxy, measure)[1] for proxy in values) or 1
        parts.append(f'<text x="{LEFT}" y="{y}" font-weight="bold">{TITLES[scenario]}'
                     f'<tspan font-weight="normal" fill="#666"> ({unit(scenario, measure)})</tspan></text>')
        y += 10
        for proxy, value in values.items():
            length = max(1, value / longest * (WIDTH - LEFT - 80))
            low, high = (end / longest * (WIDTH - LEFT - 80) for end in results.spread(scenario, proxy, measure))
            middle = y + BAR / 2
            parts += [
                f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{proxy}</text>',
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[proxy]}"/>',
                f'<line x1="{LEFT + low:.1f}" x2="{LEFT + high:.1f}" y1="{middle}" y2="{middle}" stroke="#222"/>',
                f'<text x="{LEFT + max(length, high) + 6:.1f}" y="{middle + 4}">{value:.1f}</text>',
            ]
            y += BAR + GAP
        y += GROUP_GAP
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
            'font-family="sans-serif" font-size="13" fill="#222">')
    note = (f'<text x="{LEFT}" y="22" fill="#666">Shorter is better; the line in a bar spans the rounds. '
            'Each group has its own scale.</text>')
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', note, *parts, "</svg>"]) + "\n"
