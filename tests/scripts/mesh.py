"""What the trials of membership are made of: a mesh of sidecars in a test network, a watch over what each of them thinks of
the others, a steady load of requests, and the keyring. Standard library only.

Each member stands on a host of its own (testnet.py), so all have the same ports. Those of the service `api` are called n1,
n2, … and have the echo application beside them; `web` is the client, whose sidecar knows of `api` by gossip alone."""

import collections
import http.client
import json
import random
import re
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from sidecar import binary, check, end

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position
import testnet

APP, ADMIN, METRICS = "127.0.0.1:8080", "127.0.0.1:15000", "127.0.0.1:15020"
OUTBOUND = "127.0.0.1:15001"
INBOUND_PORT, GOSSIP_PORT = 15006, 7946
CLIENT = "web"
SEEDS = 3  # so that a seed may be down
READY_SECONDS = 15
ONE_VIEW_SECONDS = 10
POLL_SECONDS = 0.1
LOG_LINES = 40
# Of several lives of one name, the one that matters most is what is thought of it.
STATES = ["alive", "suspect", "left", "dead"]
# An endpoint that does not answer is given up soon, and the next one asked: what is tried here is that the mesh loses no
# member, not how patient a request is.
ROUTE = {"name": "all", "match": {"path_prefix": "/"}, "service": "api", "timeout": "10s",
         "retry": {"attempts": 5, "per_try_timeout": "500ms",
                   "retry_on": ["connect-failure", "refused-stream", "reset", "gateway-error"]}}


class Trial:
    """What one run of a script has: the network, certificates, a directory, and chance."""

    def __init__(self, hosts, seed, logs=None):
        self.seed = seed
        self.chance = random.Random(seed)
        self.folder = tempfile.TemporaryDirectory(prefix="outrigger-") if logs is None else None
        self.directory = Path(logs or self.folder.name)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.network = testnet.Network(hosts, seed)
        self.certificates = {}
        self.meshes = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.network.close()
        if self.folder is not None:
            self.folder.cleanup()

    def outrigger(self, *arguments):
        done = self.network.hosts[0].run(binary("OUTRIGGER_BIN", "outrigger"), *arguments)
        check(done.returncode == 0, f"outrigger {' '.join(map(str, arguments[:3]))}", done.stderr)
        return done.stdout

    def certificate(self, service, node):
        """The directory with the certificate of one node; the authority is made with the first."""
        authority = self.directory / "ca"
        if not self.certificates:
            self.outrigger("ca", "init", "--dir", authority, "--trust-domain", "mesh.local")
        if (service, node) not in self.certificates:
            out = self.directory / "tls" / f"{service}-{node}"
            out.parent.mkdir(exist_ok=True)
            self.outrigger("ca", "issue", service, "--dir", authority, "--node", node, "--out", out)
            self.certificates[service, node] = out
        return self.certificates[service, node]

    def key(self):
        """A gossip key."""
        return self.chance.randbytes(32).hex()


class Node:
    """One member: its sidecar, and the application beside it."""

    def __init__(self, mesh, name, host, service="api", gossip=None, directory=None):
        self.mesh = mesh
        self.name = name
        self.host = host
        self.service = service
        self.gossip = gossip or {}  # what its section `mesh` says otherwise than the others'
        self.directory = mesh.directory / (directory or name)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log_path = self.directory / "outrigger.log"
        self.ahead = {}  # its clocks, as `Host.spawn` takes them
        self.environment = None  # of the sidecar; None: that of the script
        self.process = None
        self.apps = {}
        self.is_stopped = False

    def __repr__(self):
        return self.name

    @property
    def is_running(self):
        return self.process is not None and self.process.poll() is None

    @property
    def gossip_address(self):
        return f"{self.host.address}:{GOSSIP_PORT}"

    def config(self):
        tls = self.mesh.trial.certificate(self.service, self.name)
        return {
            "version": 1,
            "service": {"name": self.service, "address": APP},
            "workers": 1,
            "listeners": {"inbound": {"address": f"{self.host.address}:{INBOUND_PORT}"}, "outbound": {"address": OUTBOUND}},
            # With most endpoints gone at once, everything is tried again for some seconds.
            "defaults": {"retry_budget": {"percent": 100, "min_per_second": 200}, "connect_timeout": "400ms"},
            "routes": [ROUTE],
            "mtls": {"ca": {"cert_file": str(tls / "tls.crt"), "key_file": str(tls / "tls.key"),
                            "ca_file": str(tls / "ca.crt")}},
            "intentions": {"rules": [{"source": "*", "action": "allow"}]},
            "mesh": {"node": self.name, "bind": self.gossip_address, "join": self.mesh.seeds(),
                     "gossip_key": self.mesh.key, "profile": "lan", "data_dir": str(self.directory / "data"),
                     **self.gossip},
            "admin": {"address": ADMIN, "metrics_address": METRICS},
            "shutdown": {"grace": "1s", "drain_timeout": "10s"},
        }

    def program(self):
        return binary("OUTRIGGER_BIN", "outrigger")

    def start(self):
        """Starts the sidecar, and the application if it does not run; see `until_ready`."""
        if self.service != CLIENT and self.host not in self.apps:
            echo = [binary("ECHO_APP_BIN", "examples/echo_app"), "--listen", APP, "--name", self.name]
            self.apps[self.host] = self.host.spawn(echo, log=self.directory / "app.log")
        path = self.directory / "outrigger.yaml"
        path.write_text(json.dumps(self.config(), indent=2), encoding="utf-8")
        path.chmod(0o600)  # it has the key in it
        command = [self.program(), "run", "--config", path]
        self.process = self.host.spawn(command, log=self.log_path, env=self.environment, **self.ahead)
        self.is_stopped = False
        return self

    def until_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        while self.host.ask(METRICS, "/readyz", timeout=2)[0] != 200:
            if not self.is_running:
                check(False, f"{self} starts", self.log()[-4000:])
            if time.monotonic() > deadline:
                check(False, f"{self} is ready within {READY_SECONDS} s", self.log()[-4000:])
            time.sleep(0.05)
        return self

    def terminate(self):
        """Asks it to end in good order; checks that it does."""
        code = end(self.process, signal.SIGTERM, 30)
        check(code == 0, f"{self} leaves with exit code 0 (got {code})", self.log()[-4000:])

    def kill(self):
        testnet.kill(self.process)

    def stop(self):
        self.is_stopped = True
        testnet.stop(self.process)

    def go_on(self):
        testnet.go_on(self.process)
        self.is_stopped = False

    def move(self, host):
        """The next start is on another host, with another address."""
        if (app := self.apps.pop(self.host, None)) is not None:
            testnet.kill(app)
        self.host = host

    def cli(self, *arguments, given=None):
        """A verb of the command line, asked of this sidecar."""
        return self.host.run(binary("OUTRIGGER_BIN", "outrigger"), *arguments, "--admin", f"http://{ADMIN}", input=given)

    def status(self):
        """The answer of /v1/members; None if there is none."""
        status, text = self.host.ask(ADMIN, "/v1/members", timeout=2)
        return json.loads(text) if status == 200 else None

    def members(self):
        """Everybody it knows: {name: what is known of the life that matters}."""
        found = {}
        for item in (self.status() or {"items": []})["items"]:
            # Somebody's name comes later than somebody.
            name = item["node"] or item["id"]
            known = found.get(name)
            if known is None or STATES.index(item["state"]) < STATES.index(known["state"]):
                found[name] = item
        return found

    def view(self):
        """What it thinks of each: {name: state}."""
        return {name: item["state"] for name, item in self.members().items()}

    def serves(self):
        """Whether a request of its application to `api` is answered."""
        return self.host.ask(OUTBOUND, "/")[0] == 200

    def metric(self, name):
        """The sum over all label sets; 0 if there is none."""
        lines = self.host.ask(METRICS, "/metrics")[1].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def log(self):
        """What it said in all its lives."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def log_size(self):
        return self.log_path.stat().st_size

    def deaths_logged(self, since=0):
        """Names of those whom its log calls dead, from a size of the log on."""
        with open(self.log_path, "rb") as file:
            file.seek(since)
            lines = file.read().decode("utf-8", "replace").splitlines()
        names = set()
        for line in lines:
            words = {word for text in strings_of(line) for word in re.findall(r"[\w.-]+", text)}
            if "dead" in words:
                names |= words & self.mesh.nodes.keys()
        return names


def strings_of(line):
    """Every text in a line of the log, which is JSON."""
    try:
        left = [json.loads(line)]
    except ValueError:
        return
    while left:
        match left.pop():
            case dict() as value:
                left += value.values()
            case list() as value:
                left += value
            case str() as value:
                yield value


class Mesh:
    """A client and `size` members of `api`. Inside of `with`, all of them have found each other."""

    def __init__(self, trial, size):
        hosts = trial.network.hosts
        self.trial = trial
        self.network = trial.network
        trial.meshes += 1
        self.directory = trial.directory / f"mesh-{trial.meshes}"
        self.key = trial.key()
        self.spares = hosts[size:-1]
        self.nodes = {}
        self.watches = []
        self.api = [self.add(f"n{number}", hosts[number - 1]) for number in range(1, size + 1)]
        self.client = self.add(CLIENT, hosts[-1], service=CLIENT)

    def add(self, name, host, **more):
        node = Node(self, name, host, **more)
        self.nodes[more.get("directory", name)] = node
        return node

    def seeds(self):
        # As they were at first: nobody changes everybody's configuration because one has moved.
        return [f"{host.address}:{GOSSIP_PORT}" for host in self.network.hosts[:min(SEEDS, len(self.api) or SEEDS)]]

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.end(has_failed=True)
            raise
        return self

    def __exit__(self, kind, *_):
        self.end(kind is not None)

    def start(self):
        members = [*self.api, self.client]
        for node in members:
            node.start()
        for node in members:
            node.until_ready()
        self.until_one_view()
        self.until(lambda: all(node.serves() for node in members), "everybody's requests are answered", ONE_VIEW_SECONDS)

    def end(self, has_failed):
        for watch in self.watches:
            watch.end()
        if has_failed:
            self.tell()
        for node in self.nodes.values():
            if node.process is not None:
                node.kill()
            for app in node.apps.values():
                testnet.kill(app)
        self.network.reset()
        self.network.capture(None)

    def tell(self):
        """What may explain a failure."""
        print(f"--- seed {self.trial.seed}; views:\n{self.picture()}\n--- network: {self.network.counts()}")
        for node in self.nodes.values():
            lines = node.log().splitlines()[-LOG_LINES:]
            print(f"--- the log of {node.directory.name}, last lines ---", *lines, sep="\n")

    def running(self):
        """Those that should answer now."""
        return [node for node in [*self.api, self.client] if node.is_running and not node.is_stopped]

    def picture(self):
        """Who thinks what of whom."""
        lines = []
        for node in self.nodes.values():
            if node.is_running and not node.is_stopped:
                lines.append(f"{node.directory.name:>8}: " + " ".join(f"{n}={s}" for n, s in sorted(node.view().items())))
        return "\n".join(lines)

    def until(self, condition, what, seconds):
        """Polls until `condition()` holds; ends the script, with everybody's view, when time is up."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > seconds:
                check(False, f"{what} within {seconds} s", self.picture())
            time.sleep(POLL_SECONDS)
        check(True, f"{what} ({time.monotonic() - begun:.1f} s)")

    def until_one_view(self, seconds=ONE_VIEW_SECONDS, what="everybody sees everybody alive"):
        self.until(lambda: self.all_alive(self.running()), what, seconds)

    def all_alive(self, nodes, by=None):
        """Whether `by` (all that run) see these alive, in their present life, and have seen them prove who they are."""
        lives = {node: node.members().get(node.name, {}).get("generation") for node in nodes}
        for observer in by or self.running():
            members = observer.members()
            for node in nodes:
                known = members.get(node.name)
                if known is None or known["state"] != "alive" or known["address"] != node.gossip_address:
                    return False
                if known.get("generation") != lives[node]:
                    return False
                if observer is not node and not known.get("confirmed", True):
                    return False
        return True

    def until_seen(self, node, state, seconds, what=None):
        """Until all others see `node` in `state`."""
        others = [other for other in self.running() if other is not node]
        self.until(lambda: all(other.view().get(node.name) == state for other in others),
                   what or f"everybody sees {node} {state}", seconds)

    def until_back(self, node, seconds, what):
        self.until(lambda: self.all_alive([node]), what, seconds)

    def watch(self):
        watch = Watch(self)
        self.watches.append(watch)
        return watch


Change = collections.namedtuple("Change", "at observer subject before after")


class Watch:
    """Looks several times a second what each member that runs thinks of each, and remembers what changed."""

    def __init__(self, mesh, seconds=0.15):
        self.mesh = mesh
        self.seconds = seconds
        self.begun = time.monotonic()
        self.changes = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.look, args=(node,), daemon=True)
                        for node in [*mesh.api, mesh.client]]
        for thread in self.threads:
            thread.start()

    def look(self, node):
        before = {}
        while not self.over.wait(self.seconds):
            if not node.is_running or node.is_stopped:
                continue
            try:
                view = node.view()
            except (OSError, ValueError):
                continue
            # A view that is empty is no answer.
            for name in (before.keys() | view.keys()) if view else ():
                if before.get(name) != view.get(name):
                    at = time.monotonic() - self.begun
                    self.changes.append(Change(at, node.name, name, before.get(name), view.get(name)))
            before = view or before

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def seen(self, state, of=None, by=None):
        """Changes to `state`, as far as they concern `of` and were seen `by` (names)."""
        return [change for change in list(self.changes) if change.after == state
                and (of is None or change.subject in of) and (by is None or change.observer in by)]

    def check_none(self, state, what, of=None, by=None):
        found = self.seen(state, of, by)
        check(not found, what, "\n".join(describe(change) for change in found))

    def suspicions(self):
        """In words, for whoever reads the output."""
        found = self.seen("suspect")
        return f"{len(found)} suspicions" if found else "no suspicion"


def describe(change):
    return f"after {change.at:.1f} s {change.observer} saw {change.subject} go from {change.before} to {change.after}"


class Load:
    """Requests at a steady rate through a member's sidecar, on connections that are kept. Counts who answered."""

    def __init__(self, node, rate=60, connections=3):
        self.node = node
        self.pause = connections / rate
        self.answered = collections.Counter()
        self.failures = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number * self.pause / connections,), daemon=True)
                        for number in range(connections)]
        for thread in self.threads:
            thread.start()

    def run(self, later):
        connection = self.node.host.http(OUTBOUND, timeout=20)
        due = time.monotonic() + later
        while not self.over.wait(max(due - time.monotonic(), 0)):
            # A slow answer is not made up for by a burst.
            due = max(due, time.monotonic() - self.pause) + self.pause
            asked = time.monotonic()
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                text = response.read()
                if response.status == 200:
                    self.answered[response.headers["x-instance"]] += 1
                else:
                    self.failures.append((asked, f"status {response.status}: {text[:300]!r}"))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((asked, repr(error)))
                connection.close()
        connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def check_none_failed(self, what, since=0):
        """Of those that were sent since an instant."""
        failures = [(asked, why) for asked, why in list(self.failures) if asked >= since]
        total = self.answered.total() + len(self.failures)
        check(total > 0 and not failures, f"{what}: no request failed ({total} up to now)", summary(failures))

    def until_answered_by(self, node, seconds, what):
        before = self.answered[node.name]
        self.node.mesh.until(lambda: self.answered[node.name] > before, what, seconds)


def summary(failures):
    if not failures:
        return ""
    first = failures[0][0]
    return f"{len(failures)} failed:\n" + "\n".join(f"+{asked - first:.2f} s {why}" for asked, why in failures[:10])


class Keyring:
    """`outrigger keyring`, asked of one member."""

    # Not by all members yet, and not possible yet.
    NOT_YET = (1, 7)

    def __init__(self, node):
        self.node = node

    def run(self, *arguments, given=None, seconds=20):
        """Gives an order; again, as long as somebody is not ready for it."""
        deadline = time.monotonic() + seconds
        while (done := self.node.cli("keyring", *arguments, given=given)).returncode in self.NOT_YET:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        check(done.returncode == 0, f"keyring {' '.join(arguments)}", done.stdout + done.stderr)
        return done.stdout

    def generate(self):
        done = self.node.host.run(binary("OUTRIGGER_BIN", "outrigger"), "keyring", "generate")
        check(done.returncode == 0 and len(done.stdout.strip()) == 64, "keyring generate", done.stdout + done.stderr)
        return done.stdout.strip()

    def install(self, key):
        # Never as an argument, which everybody on the machine could see.
        self.run("install", given=key + "\n")

    def keys(self):
        """The marks of its keys, that which it seals with first."""
        done = self.node.cli("keyring", "ls", "-o", "json")
        items = json.loads(done.stdout)["items"] if done.returncode == 0 else []
        return [item["mark"] for item in sorted(items, key=lambda item: not item["primary"])]
