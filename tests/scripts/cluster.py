"""What the trials of the replicated store are made of: servers in a test network (testnet.py), clients that note down what
they asked and what they were told, and the checker that judges their histories. Standard library only."""

import atexit
import http.client
import json
import os
import random
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

from mesh import ADMIN, CLIENT, GOSSIP_PORT, Mesh, Node
from planted import bug_environment, program
from sidecar import TARGET, check, need_tools

STORE_PORT = 7947
# Two loaded cores must not cause elections.
HEARTBEAT, ELECTION_TIMEOUT = "100ms", "300ms"
FOUNDED_SECONDS = 40
SERVES_SECONDS = 30
AGREE_SECONDS = 20
# The admin API answers within 4 s, or says that it does not know.
ANSWER_SECONDS = 6
CLIENTS = 6
KEYS = 5
# How often a client reads, writes, compares and removes.
MIX = (("get", 45), ("put", 30), ("cas", 20), ("delete", 5))
CHANGE = {"Content-Type": "application/json", "X-Outrigger": "1"}


class Server(Node):
    """A sidecar that keeps a replica."""

    def __init__(self, cluster, name, host, bug=None):
        super().__init__(cluster, name, host, service=CLIENT)  # the one that has no application beside it
        self.store_directory = self.directory / "store"
        self.bug = bug
        self.environment = bug_environment(bug)

    def program(self):
        return program(self.bug)

    def config(self):
        return {
            **super().config(),
            "store": {"mode": "server", "bind": f"{self.host.address}:{STORE_PORT}", "data_dir": str(self.store_directory),
                      "bootstrap_expect": len(self.mesh.api), "heartbeat": HEARTBEAT,
                      "election_timeout": ELECTION_TIMEOUT, **self.mesh.store},
        }

    def raft(self):
        """What it says of the store; None if it does not answer."""
        status, text = self.host.ask(ADMIN, "/v1/raft", timeout=2)
        return json.loads(text) if status == 200 else None

    def leads(self):
        return (self.raft() or {}).get("role") == "leader"


class Cluster(Mesh):
    """Servers that have founded a store. With `disk_mib`, each of them has a disk of its own of that size; `store` is
    what their section `store` has besides."""

    def __init__(self, trial, size, bug=None, disk_mib=None, store=None):
        # pylint: disable=super-init-not-called  # no client, no applications
        self.trial = trial
        self.network = trial.network
        trial.meshes += 1
        self.directory = trial.directory / f"cluster-{trial.meshes}"
        self.key = trial.key()
        self.nodes = {}
        self.watches = []
        self.api = []
        self.disks = []
        self.bug = bug
        self.store = store or {}
        for number, host in enumerate(trial.network.hosts[:size], 1):
            name = f"n{number}"
            server = Server(self, name, host, bug)
            self.nodes[name] = server
            self.api.append(server)
            if disk_mib:
                self.disks.append(Disk(server.store_directory, disk_mib))

    def seeds(self):
        return [f"{server.host.address}:{GOSSIP_PORT}" for server in self.api]

    def running(self):
        return [server for server in self.api if server.is_running and not server.is_stopped]

    def start(self):
        for server in self.api:
            server.start()
        for server in self.api:
            server.until_ready()
        self.until(lambda: all(self.votes(server) for server in self.api), f"{len(self.api)} servers found a store",
                   FOUNDED_SECONDS)

    def end(self, has_failed):
        super().end(has_failed)
        for disk in self.disks:
            disk.remove()

    def votes(self, server):
        """Whether it sees a leader, and as many voters as there are servers."""
        told = server.raft() or {}
        return told.get("leader") and len(told.get("voters", [])) == len(self.api)

    def leader(self, among=None, seconds=SERVES_SECONDS):
        """Who leads; waits until somebody does."""
        found = []

        def is_led():
            found[:] = [server for server in among or self.running() if server.leads()]
            return found

        # Not by `until`, which says something each time.
        deadline = time.monotonic() + seconds
        while not is_led():
            if time.monotonic() > deadline:
                check(False, f"somebody leads within {seconds} s", self.picture())
            time.sleep(0.05)
        return found[0]

    def followers(self, leader):
        return [server for server in self.running() if server is not leader]

    def picture(self):
        lines = [super().picture()]
        for server in self.api:
            told = server.raft() if server in self.running() else None
            lines.append(f"{server}: {told and {name: told.get(name) for name in ('role', 'leader', 'term', 'revision')}}")
        return "\n".join(lines)


class Disk:
    """A file system of its own, which can be full."""

    def __init__(self, path, mib):
        self.path = path
        path.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "outrigger-trial", path], check=True)
        atexit.register(self.remove)

    def fill(self):
        """Leaves no room for anything."""
        with open(self.path / "fill", "wb", buffering=0) as file:
            for piece in (1 << 20, 1 << 12):
                try:
                    while file.write(b"\1" * piece) == piece:
                        pass
                except OSError:
                    pass

    def free(self):
        (self.path / "fill").unlink()

    def remove(self):
        atexit.unregister(self.remove)
        subprocess.run(["umount", "--lazy", self.path], check=False)


class History:
    """What clients asked and were told, as JSON lines for the checker. All threads write to it."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.lines = []
        self.counts = {"ok": 0, "failed": 0, "unknown": 0}

    def add(self, line):
        with self.lock:
            self.lines.append(line)
            self.counts[line["outcome"]] += 1

    def write(self):
        self.path.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def answered_since(self, instant, nodes=None):
        """How many were called at or after an instant and answered, by some nodes."""
        with self.lock:
            return sum(1 for line in self.lines if line["outcome"] == "ok" and line["call"] >= instant
                       and (nodes is None or line["node"] in nodes))


class Asked(Exception):
    """The script asked for something that makes no sense."""


class Client:
    """Asks one server at a time, and notes down in a history what it was told."""

    def __init__(self, number, history, level="strong"):
        self.number = number
        self.history = history
        self.level = level
        self.server = None
        self.connection = None
        self.seen = {}  # key: (value, revision) as it was last read

    def use(self, server):
        if server is not self.server:
            self.close()
            self.server = server

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def get(self, key, level=None):
        """What is there: (value, revision), (None, 0) if nothing is; None if there was no answer."""
        level = level or self.level
        query = urllib.parse.urlencode({"key": key, "level": level})
        line, status, told = self.ask(key, {"op": "get", "level": level}, "GET", f"/v1/kv?{query}")
        if status == 200:
            line.update(value=told["value"], revision=told["revision"])
        elif status == 404 and "there is no key" in str(told.get("detail", told)):
            line.update(value=None, revision=None)
            status = 200
        else:
            line.update(value=None)
        if level != "eventual":
            # Those promise nothing.
            self.note(line, status)
        if status != 200:
            return None
        self.seen[key] = (line["value"], line["revision"] or 0)
        return self.seen[key]

    def put(self, key, value):
        """Its revision; None if there was no answer, or it was refused."""
        line, status, told = self.ask(key, {"op": "put", "value": value}, "PUT", "/v1/kv", {"key": key, "value": value})
        return self.changed(line, status, told)

    def cas(self, key, value):
        """Sets it if what is there is what was read last."""
        expected, revision = self.seen[key]
        asked = {"op": "cas", "expected": expected, "value": value, "held": None}
        line, status, told = self.ask(key, asked, "PUT", "/v1/kv", {"key": key, "value": value, "if_revision": revision})
        if status in (200, 409):
            line["held"] = status == 200
        return self.changed(line, 200 if status == 409 else status, told if status == 200 else {})

    def delete(self, key):
        query = urllib.parse.urlencode({"key": key})
        line, status, told = self.ask(key, {"op": "delete", "deleted": None}, "DELETE", f"/v1/kv?{query}")
        if status == 200:
            line["deleted"] = told["deleted"]
        return self.changed(line, status, told)

    def changed(self, line, status, told):
        line["revision"] = told.get("revision") if status == 200 else None
        self.note(line, status)
        return line["revision"]

    def ask(self, key, asked, method, path, body=None):
        """One request: (what to note down, status or what was thrown, what was told)."""
        line = {"client": self.number, "node": self.server.name, "key": key, **asked}
        headers, body = ({}, None) if method == "GET" else (CHANGE, body and json.dumps(body))
        line["call"] = time.monotonic_ns()
        is_sent = False
        try:
            if self.connection is None:
                self.connection = self.server.host.http(ADMIN, timeout=ANSWER_SECONDS)
                self.connection.connect()
            is_sent = True
            self.connection.request(method, path, body=body, headers=headers)
            response = self.connection.getresponse()
            status, text = response.status, response.read()
            told = json.loads(text) if text else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            status, told = (repr(error) if is_sent else 0), {}
        line["return"] = time.monotonic_ns()
        line["said"] = status
        return line, status, told

    def note(self, line, status):
        match status:
            case 200:
                line["outcome"] = "ok"
            case 0 | 503:
                # Nobody was there, or the store says that nothing has happened and nothing will.
                line["outcome"] = "failed"
            case 500 | 504 | str():
                line["outcome"] = "unknown"
            case _:
                raise Asked(line)
        self.history.add(line)


class Clients:
    """Clients at work: half of them ask one server only, the others another one now and then. What was not answered is
    not asked again, and no value is written twice."""

    def __init__(self, cluster, name, seed, history, pause=0.03):
        self.cluster = cluster
        self.history = history
        self.pause = pause
        self.keys = [f"{name}/{number}" for number in range(KEYS)]
        self.over = threading.Event()
        self.errors = []
        chances = [random.Random(f"{seed}/{name}/{number}") for number in range(CLIENTS)]
        self.threads = [threading.Thread(target=self.run, args=one, daemon=True) for one in enumerate(chances)]
        for thread in self.threads:
            thread.start()

    def run(self, number, chance):
        client = Client(number, self.history)
        servers = self.cluster.api
        written = 0
        try:
            while not self.over.wait(chance.uniform(0, 2 * self.pause)):
                if client.server is None or (number % 2 and chance.random() < 0.2):
                    client.use(chance.choice(servers) if number % 2 else servers[number // 2 % len(servers)])
                key, what = chance.choice(self.keys), chance.choices(*zip(*MIX))[0]
                if what == "cas" and key not in client.seen:
                    what = "get"
                written += 1
                value = f"{number}-{written}"
                match what:
                    case "get":
                        answer = client.get(key, "lease" if chance.random() < 0.25 else "strong")
                    case "put":
                        answer = client.put(key, value)
                    case "cas":
                        answer = client.cas(key, value)
                    case _:
                        answer = client.delete(key)
                if answer is None:
                    # Whoever is refused at once does not ask a thousand times a second.
                    self.over.wait(0.1)
        except Exception as error:  # pylint: disable=broad-exception-caught  # told by `end`
            self.errors.append(error)
        finally:
            client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        if self.errors:
            check(False, "clients work", self.errors)


def checker():
    """The program that judges histories; built if need be."""
    if given := os.environ.get("LINEARIZABILITY_BIN"):
        return given
    target = TARGET / "linearizability"
    manifest = Path(__file__).resolve().parents[1] / "linearizability/Cargo.toml"
    need_tools("cargo")
    build = ["cargo", "build", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir", target]
    subprocess.run(build, check=True)
    return target / "debug/linearizability"


def judge(history, limit=60):
    """What the checker says: (exit code, words)."""
    history.write()
    done = subprocess.run([checker(), "--limit", str(limit), history.path], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr
