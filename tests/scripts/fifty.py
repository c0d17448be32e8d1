#!/usr/bin/env python3
"""Fifty sidecars on one machine: they form one view within 10 s of the last start, and then rest. Prints what they cost at
rest as a table in Markdown, from /proc: share of a core, and memory: resident, what of that is its own and not the
program, which all of them share, and its own with its part of what they share. Only the view can fail here: a machine
that does something else beside it makes no sidecar worse.

    fifty.py --count 50 --seconds 20 --profile lan
    fifty.py --report docs/benchmarks       # writes at-rest-DATE.md there"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import secrets
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from sidecar import ROOT, TARGET, ask, binary, check, end

ONE_VIEW_SECONDS = 10
READY_SECONDS = 60
SEEDS = 3
MOST_PERCENT, MOST_MB = 1.0, 20.0
# Below those that the kernel gives to connections: fifty sidecars that start make many, and would take each other's.
PORTS = range(15000, 32000)
TICKS = os.sysconf("SC_CLK_TCK")


class Member:
    """One sidecar on loopback, with ports of its own."""

    def __init__(self, number, ports, directory):
        self.name = f"n{number}"
        self.inbound, self.outbound, self.admin, self.metrics, self.gossip = (f"127.0.0.1:{port}" for port in ports)
        self.directory = directory / self.name
        self.directory.mkdir()
        self.child = None

    def start(self, seeds, key, tls, profile):
        config = {
            "version": 1,
            "service": {"name": "api", "address": "127.0.0.1:9"},  # nobody asks it for anything
            "workers": 1,
            "listeners": {"inbound": {"address": self.inbound}, "outbound": {"address": self.outbound}},
            "mtls": {"ca": {f"{part}_file": str(tls / name) for part, name in
                            (("cert", "tls.crt"), ("key", "tls.key"), ("ca", "ca.crt"))}},
            "intentions": {"rules": [{"source": "*", "action": "allow"}]},
            "mesh": {"node": self.name, "bind": self.gossip, "join": seeds, "gossip_key": key, "profile": profile,
                     "data_dir": str(self.directory / "data")},
            "admin": {"address": self.admin, "metrics_address": self.metrics},
            "shutdown": {"grace": "0s"},
        }
        path = self.directory / "outrigger.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")
        path.chmod(0o600)  # it has the key in it
        with open(self.directory / "outrigger.log", "wb") as log:
            self.child = subprocess.Popen([binary("OUTRIGGER_BIN", "outrigger"), "run", "--config", path], stdout=log,
                                          stderr=subprocess.STDOUT)

    def is_ready(self):
        if self.child.poll() is not None:
            check(False, f"{self.name} runs", (self.directory / "outrigger.log").read_text(encoding="utf-8")[-4000:])
        return ask(self.metrics, "/readyz")[0] == 200

    def alive(self):
        """How many members it sees alive."""
        status, text = ask(self.admin, "/v1/members")
        return sum(item["state"] == "alive" for item in json.loads(text)["items"]) if status == 200 else 0

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mb(self, kind):
        """`Pss`: with its part of what is shared. `Rss`: with all of what is shared. `Anonymous`: what no file stands
        behind, hence its own."""
        said = Path(f"/proc/{self.child.pid}/smaps_rollup").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in said.splitlines() if line.startswith(f"{kind}:")) * 1024 / 1e6


def quiet_ports(count):
    """Ports on loopback that nobody has now, neither for TCP nor for UDP."""
    found = []
    for port in random.sample(PORTS, len(PORTS)):
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as tried:
                    tried.bind(("127.0.0.1", port))
        except OSError:
            continue
        found.append(port)
        if len(found) == count:
            return found
    check(False, f"{count} free ports")


def outrigger(*arguments):
    done = subprocess.run([binary("OUTRIGGER_BIN", "outrigger"), *map(str, arguments)], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        check(False, f"outrigger {' '.join(map(str, arguments[:3]))}", done.stderr)


def certificates(directory, members):
    """One for each, since each proves who it is."""
    authority = directory / "ca"
    outrigger("ca", "init", "--dir", authority, "--trust-domain", "mesh.local")
    for member in members:
        outrigger("ca", "issue", "api", "--dir", authority, "--node", member.name, "--out", member.directory / "tls")


def until(members, condition, what, seconds):
    """Until the condition holds for each; those for whom it did are not asked again. Returns how long that took."""
    begun, left = time.monotonic(), list(members)
    while left := [member for member in left if not condition(member)]:
        if time.monotonic() - begun > seconds:
            seen = sorted({member.alive() for member in left})
            check(False, f"{what} within {seconds} s", f"{len(left)} do not; they see {seen} alive")
        time.sleep(0.1)
    return time.monotonic() - begun


def at_rest(members, seconds):
    """Of each, over some seconds in which nobody asks them anything: its share of a core in percent, and megabytes."""
    begun, before = time.monotonic(), [member.cpu_seconds() for member in members]
    time.sleep(seconds)
    took = time.monotonic() - begun
    shares = [(member.cpu_seconds() - was) / took * 100 for member, was in zip(members, before)]
    return shares, *([member.memory_mb(kind) for member in members] for kind in ("Pss", "Anonymous", "Rss"))


def table(members, took, seconds, shares, memory, own, resident):
    rows = [("CPU of each over %d s, %% of a core" % seconds, shares, MOST_PERCENT, "%.2f"),
            ("resident memory of each (RSS), MB", resident, MOST_MB, "%.1f"), ("of that its own, MB", own, None, "%.1f"),
            ("its part of what all have (PSS), MB", memory, None, "%.1f")]
    lines = [f"{len(members)} sidecars, one view {took:.1f} s after the last start (at most {ONE_VIEW_SECONDS})", "",
             "| at rest | least | median | most | all together | target for each | |", "|---|---|---|---|---|---|---|"]
    for what, values, target, form in rows:
        figures = [form % value for value in (min(values), statistics.median(values), max(values), sum(values))]
        verdict = "|" if target is None else f"{target:g} | {'met' if max(values) <= target else '**missed**'}"
        lines.append(f"| {what} | {' | '.join(figures)} | {verdict} |")
    return "\n".join(lines)


def write_report(args, found):
    """The table, with what it was measured on."""
    today = datetime.date.today().isoformat()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False,
                            cwd=ROOT).stdout.strip()
    size = os.path.getsize(binary("OUTRIGGER_BIN", "outrigger")) / 1e6
    text = f"""# Sidecars at rest, {today}

`tests/scripts/fifty.py --count {args.count} --seconds {args.seconds} --settle {args.settle} --profile {args.profile} --report docs/benchmarks` writes this: that
many real processes on loopback, each with one worker, mutual TLS and the gossip of profile `{args.profile}`, which nobody asks for anything.
CPU and memory are what the kernel says of each (`/proc/PID/stat`, `smaps_rollup`); a MB is 10^6 bytes.

Commit {commit}, a binary of {size:.1f} MB, {os.cpu_count()} cores, Linux {platform.release()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}.

{found}
"""
    path = args.report / f"at-rest-{today}.md"
    path.write_text(text, encoding="utf-8")
    print(f"written: {path}")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=50)
    options.add_argument("--seconds", type=int, default=20, help="how long they are looked at")
    options.add_argument("--settle", type=int, default=5, help="how long they are left alone before that")
    options.add_argument("--profile", default="lan", choices=("local", "lan", "wan"))
    options.add_argument("--report", type=Path, metavar="DIR", help="write at-rest-DATE.md there, of a release build")
    args = options.parse_args()
    if args.report is not None:
        os.environ.setdefault("OUTRIGGER_BIN", str(TARGET / "release/outrigger"))
    with tempfile.TemporaryDirectory(prefix="outrigger-") as directory, contextlib.ExitStack() as running:
        directory, ports = Path(directory), quiet_ports(5 * args.count)
        members = [Member(number, ports[5 * number - 5:5 * number], directory) for number in range(1, args.count + 1)]
        certificates(directory, members)
        seeds, key = [member.gossip for member in members[:SEEDS]], secrets.token_hex(32)
        for member in members:
            member.start(seeds, key, member.directory / "tls", args.profile)
            running.callback(end, member.child, signal.SIGKILL)
        begun = time.monotonic()
        until(members, Member.is_ready, "every sidecar is ready", READY_SECONDS)
        left = max(ONE_VIEW_SECONDS - (time.monotonic() - begun), 0)
        until(members, lambda member: member.alive() == args.count, f"one view of {args.count}", left)
        took = time.monotonic() - begun
        check(took <= ONE_VIEW_SECONDS, f"one view of {args.count} members {took:.1f} s after the last start")
        time.sleep(args.settle)
        figures = at_rest(members, args.seconds)
        alive = {member.alive() for member in members}
        check(alive == {args.count}, "and it stays so", alive)
        found = table(members, took, args.seconds, *figures)
        print(found)
        if args.report is not None:
            write_report(args, found)


if __name__ == "__main__":
    main()
