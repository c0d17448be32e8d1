#!/usr/bin/env python3
"""Compares nginx, HAProxy, Envoy and Outrigger under the same load; see benches/README.md for the method.

The proxy under test has one core for itself; the application and the load generator share the other. In a mesh there
are two proxies, and they share one core.
"""

import argparse
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import certificates
import load
import mtls
import proxies
import report
from processes import Failure, Process, Together, wait_until

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_SECONDS = 1
# The kernel tells CPU time in steps of 10 ms. Below this, rounding would show.
MIN_CPU_SECONDS = 0.1
IDLE_CONNECTIONS = 10_000
# Fewer, since the client of each costs far more in Python with TLS than without.
IDLE_TLS_CONNECTIONS = 2_000
MTLS_SCENARIOS = ["mesh", "mesh-64k", "mesh-1m", "handshake", "idle-mtls"]
SCENARIOS = ["h1", "h1-64k", "h2", "conn", "idle", "tcp", "tcp-64k", *MTLS_SCENARIOS]
# What is asked for; "" gives 52 bytes.
PATHS = {"h1-64k": "bytes/65536", "tcp-64k": "bytes/65536", "mesh-64k": "bytes/65536", "mesh-1m": "bytes/1048576"}


@dataclass
class Sample:
    """One measurement of one proxy."""
    cpu_us: float = 0.0
    requests_per_second: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    rss_mib: float = 0.0
    idle_kib: float = 0.0


@dataclass
class Results:
    """All samples by scenario and proxy, in the order they were taken, and what went wrong."""
    samples: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)

    def add(self, scenario, proxy, sample):
        self.samples.setdefault(scenario, {}).setdefault(proxy, []).append(sample)

    def median(self, scenario, proxy, what):
        values = [getattr(sample, what) for sample in self.samples.get(scenario, {}).get(proxy, [])]
        return statistics.median(values) if values else None

    def spread(self, scenario, proxy, what):
        values = [getattr(sample, what) for sample in self.samples[scenario][proxy]]
        return min(values), max(values)

    def ratio(self, scenario, proxy, other, what):
        ours, theirs = self.median(scenario, proxy, what), self.median(scenario, other, what)
        return ours / theirs if ours and theirs else None


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {arguments.load_core})
    raise_descriptor_limit()
    started = time.monotonic()
    try:
        contestants = [proxies.find(name, getattr(arguments, name), arguments.target)
                       for name in arguments.proxies]
        results = measure_all(arguments, contestants)
    except Failure as failure:
        sys.exit(f"failed: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(report.table(results))
    print(report.verdicts(results))
    print(f"total {time.monotonic() - started:.0f} s")
    if arguments.report:
        versions = {contestant.name: contestant.version() for contestant in contestants}
        for path in report.write(results, arguments, versions):
            print(f"wrote {path}")
    for failure in results.failures:
        print(f"failed: {failure.splitlines()[0]}", file=sys.stderr)
    sys.exit(1 if results.failures else 0)


def parse_arguments():
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each proxy (default 5)")
    parser.add_argument("--proxies", type=comma_list(proxies.KINDS), default=list(proxies.KINDS))
    parser.add_argument("--scenarios", type=comma_list(SCENARIOS), default=SCENARIOS)
    parser.add_argument("--report", metavar="DIR", help="write peers-DATE.md and .svg into DIR")
    parser.add_argument("--app", default=target / "release/examples/echo_app")
    parser.add_argument("--proxy-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    for name in proxies.KINDS:
        parser.add_argument(f"--{name}", metavar="PATH", help=f"the {name} binary")
    arguments = parser.parse_args()
    arguments.target = target
    return arguments


def comma_list(allowed):
    def parse(text):
        names = text.split(",")
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(allowed)}")
        return names
    return parse


def raise_descriptor_limit():
    """Raises the soft limit, which the children inherit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < proxies.NOFILE:
        sys.exit(f"failed: the hard limit of open files is {hard}; {proxies.NOFILE} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (proxies.NOFILE, hard))


def measure_all(arguments, contestants):
    results = Results()
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        keys = None
        if set(arguments.scenarios) & set(MTLS_SCENARIOS):
            keys = certificates.make(Path(directory) / "certificates")
        command = [arguments.app, "--listen", "127.0.0.1:0"]
        with Process(command, arguments.load_core, Path(directory) / "app.log") as app:
            wait_until(lambda: "listening " in app.log(), 10, "the application", app)
            address = app.log().split("listening ")[1].split()[0]
            for number in range(arguments.rounds):
                # The order rotates, so that no proxy is always the one that starts on a warm or a quiet machine.
                turn = number % len(contestants)
                for scenario in arguments.scenarios:
                    for contestant in contestants[turn:] + contestants[:turn]:
                        if scenario.startswith("tcp") and not contestant.tcp_config:
                            continue
                        measure_into(results, scenario, contestant, address, keys, arguments, directory, number)
    return results


def measure_into(results, scenario, contestant, app, keys, arguments, directory, number):
    try:
        with tempfile.TemporaryDirectory(dir=directory) as place:
            if scenario in MTLS_SCENARIOS:
                sample = measure_mtls(scenario, contestant, app, keys, arguments, Path(place))
            else:
                sample = measure(scenario, contestant, app, arguments, place)
    except Failure as failure:
        results.failures.append(f"{scenario} {contestant.name}: {failure}")
        print(f"round {number + 1} {scenario:9} {contestant.name:10} FAILED: {failure}", flush=True)
        return
    results.add(scenario, contestant.name, sample)
    figure = f"{sample.idle_kib:8.2f} KiB each" if scenario.startswith("idle") else f"{sample.cpu_us:8.2f} us CPU"
    print(f"round {number + 1} {scenario:9} {contestant.name:10} {figure} {sample.requests_per_second:8.0f}/s "
          f"p50 {sample.p50_us / 1000:.2f} ms p99 {sample.p99_us / 1000:.2f} ms rss {sample.rss_mib:.1f} MiB",
          flush=True)


def measure(scenario, contestant, app, arguments, place):
    """Starts the proxy afresh, drives one scenario through it, and ends it."""
    http2 = scenario == "h2"
    mode = "tcp" if scenario.startswith("tcp") else "http2" if http2 else "http1"
    process, listen = contestant.start(app, mode, arguments.proxy_core, place)
    with process:
        proxies.wait_for_answers(process, listen, http2)
        if scenario == "idle":
            return measure_idle(process, load.IdleConnections(address_pair(listen), IDLE_CONNECTIONS))
        return measure_load(process, lambda seconds: drive(scenario, listen, arguments.load_core, seconds), arguments)


def measure_mtls(scenario, contestant, app, keys, arguments, place):
    """As `measure`, with the sidecar of a service, and in a mesh with that of its client in front of it."""
    core = arguments.proxy_core
    inbound, inner = contestant.start_inbound(app, keys, core, place / "inbound")
    with inbound:
        mtls.wait_for_answers(inbound, inner, keys)
        mtls.fail_unless_strict(inner, keys)
        if scenario == "idle-mtls":
            return measure_idle(inbound, mtls.IdleConnections(address_pair(inner), IDLE_TLS_CONNECTIONS, keys))
        if scenario == "handshake":
            return measure_load(
                inbound, lambda seconds: mtls.handshakes(arguments.load_core, inner, keys, seconds), arguments)
        mtls.fail_unless_verified(
            lambda peer, name: contestant.start_outbound(app, peer, keys, core, place / name), keys)
        outbound, listen = contestant.start_outbound(app, inner, keys, core, place / "outbound")
        with outbound:
            proxies.wait_for_answers(outbound, listen, False)
            return measure_load(Together([inbound, outbound]),
                                lambda seconds: drive(scenario, listen, arguments.load_core, seconds), arguments)


def measure_load(process, load_for, arguments):
    """`load_for(seconds)` makes the load: once to warm up, once to measure."""
    load_for(WARM_UP_SECONDS)
    before = process.cpu_seconds()
    done = load_for(arguments.seconds)
    spent = process.cpu_seconds() - before
    if spent < MIN_CPU_SECONDS:
        raise Failure(f"only {done.requests} requests and {spent:.2f} s of CPU: too little to tell what one costs")
    return Sample(cpu_us=spent / done.requests * 1e6, requests_per_second=done.requests / done.seconds,
                  p50_us=done.p50_us, p99_us=done.p99_us, rss_mib=process.rss_kib() / 1024)


def drive(scenario, listen, core, seconds):
    url = f"http://{listen}/{PATHS.get(scenario, '')}"
    if scenario == "h2":
        return load.h2load(core, url, seconds)
    return load.wrk(core, url, seconds, headers=["Connection: close"] if scenario == "conn" else [])


def measure_idle(process, connections):
    """Memory before and after `connections` are opened, once it has settled."""
    before = process.rss_kib()
    with connections:
        time.sleep(1)
        after = process.rss_kib()
        connections.fail_if_cut()
    return Sample(rss_mib=before / 1024, idle_kib=(after - before) / connections.count)


def address_pair(address):
    host, port = address.split(":")
    return host, int(port)


if __name__ == "__main__":
    main()
