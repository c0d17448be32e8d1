#!/usr/bin/env python3
"""Writes build/text.order anew: what a sidecar runs when it starts, rests and ends, and after it what it runs when there
are requests. A sidecar in a small mesh is watched by callgrind meanwhile, first without requests, then with. Needs a
release build without an order, valgrind, curl and nm; takes some minutes. ADR 0036 says why there is an order, and that
an old one only costs memory.

    OUTRIGGER_TEXT_ORDER=off cargo build --release --locked --bin outrigger --example echo_app
    tests/scripts/text_order.py             # writes the order
    tests/scripts/text_order.py --check     # fails if a build has too little of the order; needs only nm"""

import argparse
import collections
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from sidecar import ROOT, TARGET, ask, binary, check, echo_app, end, free_ports, need_tools, wait_for

ORDER = ROOT / "build/text.order"
READY_SECONDS, REST_SECONDS = 120, 15
REQUESTS = 30
# What a list may lose before it is worth another: a share of its patterns.
MOST_LOST = 0.2
SECTION = b".text.ordered"
HEAD = """# Functions by the names of their sections, in the order in which a release has them: ADR 0036. Written by
# tests/scripts/text_order.py. A name that is in no build any more is harmless, a function that is missing costs memory.
"""


def glob(symbol):
    """The symbol without what changes from build to build: hashes of crates and instances, numbers of versions."""
    symbol = re.sub(r"\.llvm\.\d+$", "", symbol)
    if symbol.startswith("_ZN"):
        return re.sub(r"17h[0-9a-f]{16}E.*$", "17h*", symbol)
    if symbol.startswith("_R"):
        return re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", symbol) + "*"
    return re.sub(r"aws_lc_\d+_\d+_\d+_", "aws_lc_*_", symbol)


def functions(program):
    """Of each function of the program, in the order of their addresses: its symbol and how long it is."""
    said = subprocess.run(["nm", "--numeric-sort", "--print-size", "--defined-only", program], capture_output=True,
                          text=True, check=True).stdout
    fields = [line.split() for line in said.splitlines()]
    return {field[3]: int(field[1], 16) for field in fields if len(field) == 4 and field[2] in "tTwW"}


def executed(profile, program):
    """The symbols of the functions of the program in a profile of callgrind."""
    found, objects, names, inside = set(), {}, {}, False
    for line in Path(profile).read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"c?(ob|fn)=\((\d+)\)(?: (.*))?", line)
        if match is None:
            continue
        known = objects if match[1] == "ob" else names
        if match[3]:
            known[match[2]] = match[3]
        if line.startswith("ob="):
            inside = objects[match[2]] == str(program)
        elif line.startswith("fn=") and inside:
            found.add(names[match[2]].partition("'")[0])  # 'N is the depth of a recursion
    return found


class Member:
    """A sidecar before an application, with certificates of its own."""

    def __init__(self, name, other, app, directory):
        self.directory = directory
        ports = [f"127.0.0.1:{port}" for port in free_ports(5)]
        self.inbound, self.outbound, self.admin, self.metrics, self.gossip = ports
        tls = directory / f"{name}-tls"
        subprocess.run([binary("OUTRIGGER_BIN", "outrigger"), "ca", "issue", name, "--dir", directory / "ca", "--node", name,
                        "--out", tls], check=True, capture_output=True)
        self.path = directory / f"{name}.yaml"
        self.config = {
            "version": 1,
            "service": {"name": name, "address": app},
            "workers": 1,
            "listeners": {"inbound": {"address": self.inbound}, "outbound": {"address": self.outbound}},
            "defaults": {"connect_timeout": "20s"},  # one of them is fifty times slower than it would be
            "routes": [{"match": {"path_prefix": "/"}, "service": other}],
            "mtls": {"ca": {f"{part}_file": str(tls / file) for part, file in
                            (("cert", "tls.crt"), ("key", "tls.key"), ("ca", "ca.crt"))}},
            "intentions": {"rules": [{"source": "*", "action": "allow"}]},
            "admin": {"address": self.admin, "metrics_address": self.metrics},
        }

    def start(self, seed, key, wrapper=()):
        name = self.config["service"]["name"]
        self.config["mesh"] = {"node": name, "bind": self.gossip, "join": [seed.gossip], "gossip_key": key,
                               "profile": "lan", "data_dir": str(self.directory / name)}
        self.path.write_text(json.dumps(self.config), encoding="utf-8")
        self.path.chmod(0o600)  # it has the key in it
        with open(self.path.with_suffix(".log"), "wb") as log:
            return subprocess.Popen([*wrapper, binary("OUTRIGGER_BIN", "outrigger"), "run", "--config", self.path],
                                    stdout=log, stderr=subprocess.STDOUT)

    def sees(self, count):
        """Whether it sees that many alive."""
        status, text = ask(self.admin, "/v1/members")
        return status == 200 and sum(item["state"] == "alive" for item in json.loads(text)["items"]) == count


def request(member):
    """Through its outbound listener to the application behind the other: HTTP/1.1 and HTTP/2, with a body and without."""
    for protocol in ("--http1.1", "--http2-prior-knowledge"):
        for body in ((), ("--data", "x" * 4000)):
            done = subprocess.run(["curl", "--silent", "--fail", "--max-time", "60", protocol, *body,
                                   f"http://{member.outbound}/"], capture_output=True, check=False)
            if done.returncode != 0:
                return False
    return True


def watch(has_requests):
    """What a sidecar executes in its whole life: it joins one, is joined by another, and sees that one die."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrigger-")))
        subprocess.run([binary("OUTRIGGER_BIN", "outrigger"), "ca", "init", "--dir", directory / "ca", "--trust-domain",
                        "mesh.local"], check=True, capture_output=True)
        seed, watched, last = (Member(name, other, stack.enter_context(echo_app(name)), directory)
                               for name, other in (("one", "two"), ("two", "one"), ("three", "one")))
        profile, key = directory / "profile", secrets.token_hex(32)
        callgrind = ["valgrind", "--tool=callgrind", "--demangle=no", f"--callgrind-out-file={profile}"]

        def start(member, by, wrapper=()):
            child = member.start(by, key, wrapper)
            stack.callback(end, child, signal.SIGKILL)
            return child

        def all_see(members):
            for member in members:
                wait_for(lambda member=member: member.sees(len(members)), f"all {len(members)} see each other", READY_SECONDS)

        start(seed, seed)
        child = start(watched, seed, callgrind)
        all_see([seed, watched])
        third = start(last, watched)
        all_see([seed, watched, last])
        end(third, signal.SIGKILL)
        all_see([seed, watched])
        if has_requests:
            # Its first ones may come before it knows what the other has told about itself.
            wait_for(lambda: request(watched) and request(seed), "requests are answered", READY_SECONDS)
            check(all(request(watched) and request(seed) for _ in range(REQUESTS)), "all requests are answered")
        else:
            time.sleep(REST_SECONDS)
        check(end(child, signal.SIGTERM, READY_SECONDS) == 0, "it ends well", watched.path.with_suffix(".log").read_text())
        return executed(profile, Path(binary("OUTRIGGER_BIN", "outrigger")).resolve())


def order(sizes, ran, but=()):
    """The patterns for what ran, in the order of the program."""
    patterns = dict.fromkeys(glob(symbol) for symbol in sizes if symbol in ran)
    return [name for name in patterns if name not in but]


def write(program):
    # Valgrind knows only the symbols of `.text`.
    check(SECTION not in program.read_bytes(), "the build has no order", "build it with OUTRIGGER_TEXT_ORDER=off")
    sizes = functions(program)
    at_rest = watch(has_requests=False)
    check(len(at_rest & sizes.keys()) > 1000, "functions of the program are seen", len(at_rest))
    first = order(sizes, at_rest)
    then = order(sizes, watch(has_requests=True), but=set(first))
    parts = (("Start, rest and end.", first), ("Requests.", then))
    ORDER.write_text(HEAD + "".join(f"\n# {title}\n" + "\n".join(names) + "\n" for title, names in parts), encoding="utf-8")
    print(f"{len(first)} patterns for a sidecar at rest and {len(then)} for its requests are in {ORDER.relative_to(ROOT)}")


def tell(program):
    """How much of the order a build has: the fewer, the older it is."""
    names = [line for line in ORDER.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    sizes = collections.Counter()
    for symbol, size in functions(program).items():
        sizes[glob(symbol)] += size
    there = [name for name in names if name in sizes]
    print(f"{len(there)} of {len(names)} patterns name a function of {program}; "
          f"{sum(sizes[name] for name in there) / 1e6:.1f} of {sum(sizes.values()) / 1e6:.1f} MB are in the order")
    check(len(there) >= (1 - MOST_LOST) * len(names), "the order is not too old")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="only look how much of the order the build has")
    args = options.parse_args()
    # Only releases have an order, however new a debug build is.
    os.environ.setdefault("OUTRIGGER_BIN", str(TARGET / "release/outrigger"))
    program = Path(os.environ["OUTRIGGER_BIN"]).resolve()
    if args.check:
        need_tools("nm")
        tell(program)
    else:
        need_tools("nm", "valgrind", "curl")
        write(program)


if __name__ == "__main__":
    main()
