#!/usr/bin/env python3
"""Servers of the store are killed at random moments, hundreds of times, while clients write. Whatever was acknowledged is
there after each start and at the end. On loopback, without mTLS: needs neither root nor a test network.

    crash_loop.py                               # one server, 500 times: a quarter of an hour
    crash_loop.py --servers 3 --times 100       # three: one of them, or all at once
    crash_loop.py --times 20 --seed 7
    crash_loop.py --bug early-ack --times 20    # passes if something is lost; needs a build with `planted-bugs`"""

import argparse
import http.client
import json
import random
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

from planted import bug_environment, program
from sidecar import ask, check, free_ports

HEARTBEAT, ELECTION_TIMEOUT = "50ms", "150ms"
# From a start on, on a loaded machine.
SERVES_SECONDS = 40
WRITERS = 3
# A life of a server: from its start to its end, whether it has begun to serve or not.
SHORTEST_LIFE, LONGEST_LIFE = 0.05, 1.6
CHANGE = {"Content-Type": "application/json", "X-Outrigger": "1"}
# Keys that are looked at after each start: the latest.
LATEST = 20
PAGE = 1000


class Server:
    """A sidecar with a replica, on ports that it keeps."""

    def __init__(self, directory, number, ports, seeds, expect, bug):
        self.directory = directory / f"n{number}"
        self.directory.mkdir()
        inbound, outbound, self.admin, metrics, gossip, store = (f"127.0.0.1:{port}" for port in ports)
        self.bug = bug
        self.child = None
        config = {
            "version": 1,
            "service": {"name": "web", "address": "127.0.0.1:9"},
            "workers": 1,
            "listeners": {"inbound": {"address": inbound}, "outbound": {"address": outbound}},
            "mtls": {"mode": "disabled"},
            "admin": {"address": self.admin, "metrics_address": metrics},
            "mesh": {"node": f"n{number}", "bind": gossip, "join": seeds, "gossip_key": "5a" * 32, "profile": "local",
                     "data_dir": str(self.directory / "mesh")},
            "store": {"mode": "server", "bind": store, "data_dir": str(self.directory / "store"),
                      "bootstrap_expect": expect, "heartbeat": HEARTBEAT, "election_timeout": ELECTION_TIMEOUT},
        }
        self.path = self.directory / "outrigger.yaml"
        self.path.write_text(json.dumps(config), encoding="utf-8")
        self.path.chmod(0o600)

    def start(self):
        with open(self.directory / "outrigger.log", "ab") as log:
            self.child = subprocess.Popen([program(self.bug), "run", "--config", self.path], stdin=subprocess.DEVNULL,
                                          stdout=log, stderr=subprocess.STDOUT, env=bug_environment(self.bug))

    def kill(self):
        if self.child is not None:
            self.child.send_signal(signal.SIGKILL)
            self.child.wait()

    def get(self, query):
        return ask(self.admin, f"/v1/kv?{urllib.parse.urlencode(query)}")

    def serves(self):
        """Whether it answers a certain read: only then is it known what there is."""
        if self.child.poll() is not None:
            check(False, f"{self.directory.name} stays up", self.log())
        status, text = self.get({"key": "nothing", "level": "strong"})
        return status == 404 and "there is no key" in text

    def until_serves(self):
        begun = time.monotonic()
        while not self.serves():
            if time.monotonic() - begun > SERVES_SECONDS:
                check(False, f"{self.directory.name} serves within {SERVES_SECONDS} s", self.log())
            time.sleep(0.02)

    def log(self):
        return (self.directory / "outrigger.log").read_text(encoding="utf-8", errors="replace")[-4000:]


class Writers:
    """Each writes one new key after the other, and knows what was acknowledged."""

    def __init__(self, servers):
        self.servers = servers
        self.lock = threading.Lock()
        self.acknowledged = {}  # key: value
        self.latest = []
        self.refused = 0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(WRITERS)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        count, connection = 0, None
        while not self.over.is_set():
            count += 1
            key, value = f"{number}/{count:07}", f"{number}-{count}"
            try:
                if connection is None:
                    host, port = self.servers[(number + count) % len(self.servers)].admin.split(":")
                    connection = http.client.HTTPConnection(host, int(port), timeout=6)
                connection.request("PUT", "/v1/kv", json.dumps({"key": key, "value": value}), CHANGE)
                response = connection.getresponse()
                response.read()
                is_acknowledged = response.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                connection, is_acknowledged = None, False
            with self.lock:
                if is_acknowledged:
                    self.acknowledged[key] = value
                    self.latest = [*self.latest[1 - LATEST:], key]
                else:
                    self.refused += 1
            # Enough that some are under way whenever the server dies.
            self.over.wait(0.003 if is_acknowledged else 0.02)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def missing_latest(writers, server):
    """Of the latest that were acknowledged before this was asked, those that are not there."""
    with writers.lock:
        latest = list(writers.latest)
    lost = []
    for key in latest:
        status, text = server.get({"key": key, "level": "strong"})
        if status == 404 or (status == 200 and json.loads(text)["value"] != writers.acknowledged[key]):
            lost.append((key, status, text))
    return lost


def all_keys(server):
    """Everything that there is, by a certain read of each page."""
    found, after = {}, None
    while True:
        query = {"prefix": "", "limit": PAGE, "level": "strong", **({"after": after} if after else {})}
        status, text = server.get(query)
        if status != 200:
            time.sleep(0.1)
            continue
        page = json.loads(text)
        found.update((item["key"], item.get("value")) for item in page["items"])
        after = page["next"]
        if after is None:
            return found


def loop(directory, args):
    chance = random.Random(args.seed)
    ports = free_ports(6 * args.servers)
    each = [ports[6 * number:6 * number + 6] for number in range(args.servers)]
    seeds = [f"127.0.0.1:{one[4]}" for one in each] if args.servers > 1 else []
    servers = [Server(directory, number, one, seeds, args.servers, args.bug) for number, one in enumerate(each)]
    writers = None
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.until_serves()
        writers = Writers(servers)
        lost = kill_repeatedly(servers, writers, chance, args)
        for server in servers:
            server.until_serves()
        writers.end()
        if not lost:
            for server in servers:
                there = all_keys(server)
                lost += [(key, there.get(key)) for key, value in writers.acknowledged.items() if there.get(key) != value]
        told = f"{len(writers.acknowledged)} writes were acknowledged, {writers.refused} were not"
        if args.bug:
            check(bool(lost), f"the planted bug is found ({told}): {len(lost)} are lost", "nothing is lost")
        else:
            least = 3 * args.times
            check(len(writers.acknowledged) >= least, told, f"at least {least} have to be, or this proves nothing")
            check(not lost, f"all of them are there after {args.times} kills", lost[:20])
    finally:
        if writers is not None:
            writers.over.set()
        for server in servers:
            server.kill()


def kill_repeatedly(servers, writers, chance, args):
    """Kills so often; returns what was lost, at the first sight of it."""
    before_serving, known = 0, 0
    begun = time.monotonic()
    for round_number in range(1, args.times + 1):
        victims = servers if chance.random() < 0.3 else [chance.choice(servers)]
        time.sleep(chance.uniform(SHORTEST_LIFE, LONGEST_LIFE))
        before_serving += len(writers.acknowledged) == known
        for server in victims:
            server.child.send_signal(signal.SIGKILL)
        for server in victims:
            server.kill()
        known = len(writers.acknowledged)
        for server in victims:
            server.start()
        # Not always: what is killed before it serves has recovered half.
        if chance.random() < 0.7:
            asked = chance.choice(servers)
            asked.until_serves()
            if lost := missing_latest(writers, asked):
                print(f"note: lost after {round_number} kills: {lost[:3]}", flush=True)
                return lost
        if round_number % 50 == 0:
            print(f"note: {round_number} kills in {time.monotonic() - begun:.0f} s, {before_serving} of them before anything "
                  f"was acknowledged, {len(writers.acknowledged)} writes acknowledged", flush=True)
    return []


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=500, metavar="N")
    options.add_argument("--servers", type=int, default=1, choices=(1, 3))
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--bug", choices=("early-ack",), help="with this planted bug, which has to be found")
    options.add_argument("--logs", metavar="DIR", help="where files and logs are kept; default: they are removed")
    args = options.parse_args()
    print(f"-- {args.servers} server(s), {args.times} kills, seed {args.seed}", flush=True)
    if args.logs:
        directory = Path(args.logs) / str(args.seed)
        directory.mkdir(parents=True)
        loop(directory, args)
    else:
        with tempfile.TemporaryDirectory(prefix="outrigger-") as folder:
            loop(Path(folder), args)


if __name__ == "__main__":
    main()
