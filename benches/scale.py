#!/usr/bin/env python3
"""How the cost of a request and the memory grow with the configuration: 1, 100 and 1000 services of 10 endpoints each,
with a route by host for each of them. The load goes to one service in the middle.

    cargo build --release --bins --example echo_app && benches/scale.py [--report docs/benchmarks]

The endpoints are 10 loopback addresses of one application. CPU time per request is the figure, as in benches/peers;
rounds are interleaved, medians compared. Standard library and wrk only."""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/scripts"))

from sidecar import ask, base_config, binary, end, rss_kib, wait_for  # noqa: E402

SIZES = [1, 100, 1000]
ENDPOINTS = 10
TICKS = os.sysconf("SC_CLK_TCK")
# What is promised: a request costs the same among a thousand services as alone, within 10 %.
BOUND = 1.10


def application():
    command = [binary("ECHO_APP_BIN", "examples/echo_app"), "--listen", "0.0.0.0:0"]
    child = subprocess.Popen(pinned(1, command), stdout=subprocess.PIPE, text=True)
    return child, child.stdout.readline().split(":")[-1].strip()


def pinned(core, command):
    return ["taskset", "-c", str(core), *map(str, command)]


def configuration(services, port):
    config = base_config(f"127.0.0.1:{port}")
    names = [f"service-{number}" for number in range(services)]
    config["services"] = {
        name: {"endpoints": [f"127.0.{number // 250 + 1}.{endpoint + 1}:{port}" for endpoint in range(ENDPOINTS)]}
        for number, name in enumerate(names)}
    config["routes"] = [{"name": name, "match": {"hosts": [f"{name}.mesh"]}, "service": name} for name in names]
    return config, f"service-{services // 2}.mesh"


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(services, port, seconds):
    """One fresh sidecar: µs of CPU per request, KiB of memory before the load."""
    config, host = configuration(services, port)
    with tempfile.TemporaryDirectory(prefix="outrigger-scale-") as directory:
        path = Path(directory) / "outrigger.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        log = open(Path(directory) / "log", "wb")
        command = pinned(0, [binary("OUTRIGGER_BIN", "outrigger"), "run", "--config", path])
        with log, subprocess.Popen(command, stdout=log, stderr=log) as child:
            try:
                wait_for(lambda: ask(config["admin"]["metrics_address"], "/readyz")[0] == 200, "ready", 30)
                memory = rss_kib(child.pid)
                url = f"http://{config['listeners']['outbound']['address']}/"
                load(url, host, 1)
                before = cpu_seconds(child.pid)
                requests = load(url, host, seconds)
                return (cpu_seconds(child.pid) - before) / requests * 1e6, memory
            finally:
                end(child)


def load(url, host, seconds):
    command = pinned(1, ["wrk", "-t1", "-c64", f"-d{seconds}s", "-H", f"Host: {host}", url])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "Socket errors" in done.stdout or "Non-2xx" in done.stdout:
        sys.exit(done.stdout)
    return int(re.search(r"(\d+) requests in", done.stdout)[1])


def report(results, rounds, seconds):
    base = statistics.median(cpu for cpu, _ in results[SIZES[0]])
    memory = {size: statistics.median(kib for _, kib in results[size]) for size in SIZES}
    endpoints = (SIZES[-1] - SIZES[0]) * ENDPOINTS
    per_endpoint = (memory[SIZES[-1]] - memory[SIZES[0]]) / endpoints
    lines = [f"# How cost grows with the configuration, {datetime.date.today()}", "",
             f"`benches/scale.py`, {rounds} rounds of {seconds} s, one worker on a core of its own, 64 keep-alive connections,",
             f"52-byte answers, `peak_ewma`; {ENDPOINTS} endpoints and one route by host for each service.", "",
             "| services | endpoints | µs CPU per request (median, min-max) | × 1 service | MiB resident |",
             "|--:|--:|--:|--:|--:|"]
    for size in SIZES:
        cpu = [one for one, _ in results[size]]
        middle = statistics.median(cpu)
        lines.append(f"| {size} | {size * ENDPOINTS} | {middle:.1f} ({min(cpu):.1f}-{max(cpu):.1f}) | {middle / base:.2f} | "
                     f"{memory[size] / 1024:.1f} |")
    worst = max(statistics.median(cpu for cpu, _ in results[size]) for size in SIZES) / base
    lines += ["", f"{'met' if worst <= BOUND else 'MISSED'}: at most {BOUND:.2f} × the cost with one service (worst {worst:.2f}).",
              "", f"Memory: {per_endpoint:.1f} KiB for each endpoint, its share of service, route and metrics included.", ""]
    return "\n".join(lines), worst <= BOUND


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--report", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    app, port = application()
    results = {size: [] for size in SIZES}
    try:
        for number in range(arguments.rounds):
            for size in SIZES:
                cpu, memory = measure(size, port, arguments.seconds)
                results[size].append((cpu, memory))
                print(f"round {number + 1}: {size:5} services {cpu:6.2f} us CPU per request, {memory / 1024:6.1f} MiB", flush=True)
                time.sleep(0.2)
    finally:
        end(app)
    text, met = report(results, arguments.rounds, arguments.seconds)
    print(text)
    if arguments.report:
        (arguments.report / f"scale-{datetime.date.today()}.md").write_text(text, encoding="utf-8")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
