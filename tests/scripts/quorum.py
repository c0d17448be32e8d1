#!/usr/bin/env python3
"""Keyspaces that are kept by quorum keep what they promise, whatever happens to their servers: 3 or 5 real sidecars in a test
network with clients at work, while servers are killed, cut off and hard to reach. Needs root, iproute2 and /dev/net/tun.

    quorum.py                         # all faults, several times, with 3 and with 5 servers
    quorum.py --quick                 # each once, with 3
    quorum.py --bug hints-as-writes   # passes if the planted bug is found; needs a build with the feature `planted-bugs`

Each key has one writer, whose values are numbers that grow, so of two values it is known which is newer. What must hold:
a write that was acknowledged, or a newer one, is in each later read by quorum; what was refused is never there; the few
refuse in time; a session sees what it wrote and never goes back; all have the same in the end; what was removed stays away.
With --logs DIR, what was asked and told is kept."""

import argparse
import json
import os
import random
import threading
import time
import urllib.parse
from dataclasses import asdict, dataclass

from cluster import AGREE_SECONDS, SERVES_SECONDS, Client, Cluster
from mesh import Trial, testnet
from sidecar import check, skip

CLIENTS = 6
# Of each client in each keyspace.
KEYS = 2
MIX = (("put", 35), ("delete", 5), ("quorum", 30), ("session", 30))
PAUSE_SECONDS = 0.03
# Writes and reads that were answered: with fewer a run proves nothing.
LEAST_ANSWERED = 150
# From the fault on, for the servers that can go on, on a loaded machine.
PROGRESS_SECONDS = 15
# A call has 1 s for itself and 1 s for the way; the rest is the machine's.
REFUSED_SECONDS = 4
# Until gossip says so, on a loaded machine.
GONE_SECONDS = 30
FOUND_SECONDS = 20
BUGS = ("hints-as-writes",)


def keyspaces(size):
    """By how many replicas each is read and written: by most of them; by one and all; and, of 5 servers, on some only."""
    most = size // 2 + 1
    spaces = {"most": {"replicas": size, "quorum_reads": most, "quorum_writes": most},
              "each": {"replicas": size, "quorum_reads": 1, "quorum_writes": size}}
    if size > 3:
        spaces["some"] = {}
    return {name: {"level": "quorum", **space} for name, space in spaces.items()}


@dataclass
class Write:
    """A value, or a removal. Numbers of one key grow."""
    key: str
    number: int
    is_removal: bool
    level: str  # of a session that sees it afterwards, or not
    client: int
    node: str
    call: int
    end: int = 0
    outcome: str = "unknown"  # until it is known: acknowledged ("ok"), "refused"


@dataclass
class Read:
    """What was found: a number, or None if there is no value."""
    key: str
    number: int | None
    level: str
    client: int
    node: str
    call: int
    end: int


class Record:
    """What clients wrote and read. All threads write to it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.writes = {}  # key: all of it, in the order of their numbers
        self.reads = []
        self.refused_reads = 0

    def begin(self, key, is_removal, level, client, node):
        with self.lock:
            writes = self.writes.setdefault(key, [])
            write = Write(key, len(writes) + 1, is_removal, level, client, node, time.monotonic_ns())
            writes.append(write)
            return write

    def read(self, read):
        with self.lock:
            self.reads.append(read)

    def copy(self):
        with self.lock:
            return {key: list(writes) for key, writes in self.writes.items()}, list(self.reads)

    def acknowledged_since(self, instant, nodes):
        writes, _ = self.copy()
        return any(write.outcome == "ok" and write.call >= instant and write.node in nodes
                   for of_key in writes.values() for write in of_key)

    def told(self):
        writes, reads = self.copy()
        outcomes = [write.outcome for of_key in writes.values() for write in of_key]
        counts = [f"{outcomes.count(outcome)} writes {outcome}" for outcome in ("ok", "refused", "unknown")]
        return outcomes.count("ok"), f"{', '.join(counts)}, {len(reads)} reads ok, {self.refused_reads} not answered"

    def save(self, path):
        writes, reads = self.copy()
        lines = [asdict(write) for of_key in writes.values() for write in of_key] + [asdict(read) for read in reads]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def possible(read, writes):
    """The numbers that a read may have been of, whatever was acknowledged."""
    def may_be(write):
        return write.outcome != "refused" and write.call < read.end
    if read.number is None:
        return [0, *(write.number for write in writes if write.is_removal and may_be(write))]
    found = writes[read.number - 1:read.number]
    return [write.number for write in found if not write.is_removal and may_be(write)]


def lost(record):
    """Reads by quorum that have less than was acknowledged before them, or what was refused or never written."""
    writes, reads = record.copy()
    for read in reads:
        if read.level != "quorum":
            continue
        of_key = writes.get(read.key, [])
        floor = max((write.number for write in of_key if write.outcome == "ok" and write.end < read.call), default=0)
        if not any(number >= floor for number in possible(read, of_key)):
            yield f"{floor} was acknowledged by {of_key[floor - 1].node if floor else 'nobody'} before, and it is {read}"


def gone_back(record):
    """Reads of sessions that have less than the same session has seen. Each client is one."""
    writes, reads = record.copy()
    floors = {}
    done = [write for of_key in writes.values() for write in of_key if write.level == "session" and write.outcome == "ok"]
    for client in {read.client for read in reads}:
        events = [("read", read.end, read) for read in reads if read.client == client and read.level == "session"]
        events += [("write", write.end, write) for write in done if write.client == client]
        for kind, _, event in sorted(events, key=lambda one: one[1]):
            at = (client, event.key)
            if kind == "write":
                floors[at] = max(floors.get(at, 0), event.number)
                continue
            numbers = [number for number in possible(event, writes.get(event.key, [])) if number >= floors.get(at, 0)]
            if not numbers:
                yield f"the session had {floors[at]}, and reads {event}"
            else:
                floors[at] = min(numbers)


def checkers_can_fail():
    """Made-up histories that are wrong in one place each."""
    def record(*told, level="quorum"):
        made = Record()
        for at, (what, outcome) in enumerate(told):
            if what == "put":
                write = made.begin("most/1-0", False, level, 1, "n1")
                write.call, write.end, write.outcome = 2 * at, 2 * at + 1, outcome
            else:
                made.read(Read("most/1-0", outcome, level, 1, "n1", 2 * at, 2 * at + 1))
        return made
    one, two, unknown, refused = ("put", "ok"), ("put", "ok"), ("put", "unknown"), ("put", "refused")
    cases = [(lost, "quorum", [one, two, ("get", 1)], 1), (lost, "quorum", [one, two, ("get", 2)], 0),
             (lost, "quorum", [one, ("get", None)], 1), (lost, "quorum", [one, refused, ("get", 2)], 1),
             (lost, "quorum", [one, unknown, ("get", 2), ("get", 1)], 0), (lost, "quorum", [one, ("get", 7)], 1),
             (gone_back, "session", [one, unknown, ("get", 2), ("get", 1)], 1),
             (gone_back, "session", [one, unknown, ("get", 1), ("get", 2)], 0),
             (gone_back, "session", [one, two, ("get", 1)], 1)]
    for checker, level, told, wrong in cases:
        found = list(checker(record(*told, level=level)))
        if len(found) != wrong:
            check(False, f"{checker.__name__} judges {told} rightly", found)


class Caller(Client):
    """Asks one server at a time, as one session."""

    def __init__(self, number, record):
        super().__init__(number, None)
        self.record = record
        self.session = ""

    def change(self, key, is_removal=False, level="session"):
        """Writes the next value of a key, or removes it: what became of it, and the status."""
        asked = {"level": level, **({"session": self.session} if level == "session" and self.session else {})}
        write = self.record.begin(key, is_removal, level, self.number, self.server.name)
        if is_removal:
            path = f"/v1/kv?{urllib.parse.urlencode({'key': key, **asked})}"
            line, status, told = self.ask(key, {}, "DELETE", path)
        else:
            path = f"/v1/kv?{urllib.parse.urlencode(asked)}"
            line, status, told = self.ask(key, {}, "PUT", path, {"key": key, "value": str(write.number)})
        write.end = line["return"]
        match status:
            case 200:
                write.outcome = "ok"
                self.session = told.get("session", self.session)
            case 0 | 503:
                write.outcome = "refused"
            case 500 | 504 | str():
                pass
            case _:
                raise AssertionError(f"{path}: {status} {told}")
        return write, status

    def look(self, key, level):
        """What is there: (number or None,); None if there was no answer."""
        asked = {"key": key, "level": level, **({"session": self.session} if level == "session" and self.session else {})}
        line, status, told = self.ask(key, {}, "GET", f"/v1/kv?{urllib.parse.urlencode(asked)}")
        if status == 404 and "there is no key" in str(told.get("detail", told)):
            number = None
        elif status == 200:
            number = int(told["value"])
        elif status in (0, 500, 503, 504) or isinstance(status, str):
            self.record.refused_reads += 1
            return None
        else:
            raise AssertionError(f"{key}: {status} {told}")
        self.session = told.get("session", self.session) if level == "session" else self.session
        self.record.read(Read(key, number, level, self.number, self.server.name, line["call"], line["return"]))
        return (number,)


class Callers:
    """Clients at work: half of them stay with one server, the others go from one to another."""

    def __init__(self, cluster, seed, record):
        self.cluster = cluster
        self.record = record
        self.keys = {number: [f"{space}/{number}-{at}" for space in keyspaces(len(cluster.api)) for at in range(KEYS)]
                     for number in range(CLIENTS)}
        self.over = threading.Event()
        self.errors = []
        self.threads = [threading.Thread(target=self.run, args=(number, random.Random(f"{seed}/{number}")), daemon=True)
                        for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, number, chance):
        caller, servers = Caller(number, self.record), self.cluster.api
        everybodys = [key for keys in self.keys.values() for key in keys]
        try:
            while not self.over.wait(chance.uniform(0, 2 * PAUSE_SECONDS)):
                if caller.server is None or (number % 2 and chance.random() < 0.2):
                    caller.use(chance.choice(servers) if number % 2 else servers[number // 2 % len(servers)])
                what = chance.choices(*zip(*MIX))[0]
                if what in ("put", "delete"):
                    write, _ = caller.change(chance.choice(self.keys[number]), what == "delete",
                                             chance.choice(("quorum", "session")))
                    is_answered = write.outcome == "ok"
                else:
                    is_answered = caller.look(chance.choice(everybodys), what) is not None
                if not is_answered:
                    # Whoever is refused at once does not ask a thousand times a second.
                    self.over.wait(0.1)
        except Exception as error:  # pylint: disable=broad-exception-caught  # told by `end`
            self.errors.append(repr(error))
        finally:
            caller.close()

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        check(not self.errors, "clients work", self.errors)


class Run:
    """The servers, the clients, and what they saw."""

    def __init__(self, cluster, seed, is_quick):
        self.cluster = cluster
        self.network = cluster.network
        self.is_quick = is_quick
        self.chance = random.Random(f"{seed}/nemesis")
        self.record = Record()
        self.own = Caller(99, self.record)
        self.until_spread()
        self.clients = Callers(cluster, seed, self.record)

    def hold(self, seconds, quick):
        """Keeps things as they are, while clients are at work."""
        time.sleep(quick if self.is_quick else seconds)

    def until_spread(self):
        """Until all servers know of each other: what each of them writes, each has."""
        def is_spread():
            for at, server in enumerate(self.cluster.api):
                self.own.use(server)
                write, _ = self.own.change(f"each/99-{at}")
                if write.outcome != "ok":
                    return False
                for other in self.cluster.api:
                    self.own.use(other)
                    if self.own.look(write.key, "eventual") != (write.number,):
                        return False
            return True
        self.cluster.until(is_spread, "what one writes all have", SERVES_SECONDS)

    def until_progress(self, servers, what, seconds=PROGRESS_SECONDS):
        """Until a write that was asked of one of these servers from now on is acknowledged."""
        now, names = time.monotonic_ns(), {server.name for server in servers}
        self.cluster.until(lambda: self.record.acknowledged_since(now, names), what, seconds)

    def sides(self):
        """As many as make no quorum, and the others."""
        servers = self.chance.sample(self.cluster.api, len(self.cluster.api))
        few = (len(servers) - 1) // 2
        return servers[:few], servers[few:]

    def part(self, few, many):
        self.network.partition([server.host for server in few], [server.host for server in many])

    def kill(self):
        """A server, or of five two, by SIGKILL; they come back."""
        dead, rest = self.sides()
        for server in dead:
            server.kill()
        self.until_progress(rest, f"{dead} killed: the others go on")
        self.hold(4, 1)
        for server in dead:
            server.start()
        for server in dead:
            server.until_ready()
        self.until_progress(dead, f"{dead} serve again", SERVES_SECONDS)

    def split(self):
        """Two sides. The few refuse by quorum, in time, and have what they had; then all go on."""
        few, many = self.sides()
        self.part(few, many)
        self.until_progress(many, f"{few} cut off: the others go on")
        self.until_refused(few, "before they know it")
        self.cluster.until(lambda: all(server.view().get(other.name) == "dead" for server in few for other in many),
                           f"{few} know that the others are away", GONE_SECONDS)
        self.until_refused(few, "who know it")
        self.hold(5, 1)
        self.network.heal()
        self.until_progress(few, f"{few} are back and serve", SERVES_SECONDS)

    def until_refused(self, few, when):
        """The few refuse by quorum what is asked of them now."""
        for server in few:
            # What it was asked last may have been in another life.
            self.own.close()
            self.own.use(server)
            for key, is_removal in (("most/99-refused", False), ("most/99-refused", True), ("each/99-refused", False)):
                write, status = self.own.change(key, is_removal)
                took = (write.end - write.call) / 1e9
                check(status in (503, 504) and took < REFUSED_SECONDS,
                      f"{server}, of the few, {when}, refuses {'a removal' if is_removal else 'a write'} in `{key[:4]}` with "
                      f"{status} after {took:.1f} s", write)
            begun = time.monotonic()
            check(self.own.look("most/99-refused", "quorum") is None,
                  f"  and a read by quorum ({time.monotonic() - begun:.1f} s)")
            check(self.own.look("each/99-0", "eventual") is not None, "  and reads what it has")

    def one_way(self):
        """One server is not heard, or does not hear, or both with one other only."""
        one, *others = self.chance.sample(self.cluster.api, len(self.cluster.api))
        for cut in self.chance.sample(([(one, other) for other in others], [(other, one) for other in others],
                                       [(one, others[0])]), 1 if self.is_quick else 3):
            for origin, target in cut:
                self.network.cut(origin.host, target.host)
            self.until_progress(others, f"no way {', '.join(f'{a} to {b}' for a, b in cut)}: the others go on")
            self.hold(3, 1)
            self.network.heal()
            self.until_progress([one], f"{one} serves", SERVES_SECONDS)

    def rough(self):
        """A twentieth of all packets is lost, the others are 10 to 30 ms late."""
        self.network.everywhere(delay_ms=20, jitter_ms=10, loss=0.05)
        self.until_progress(self.cluster.api, "5 % lost, 20 ms late: there is progress")
        self.hold(6, 2)
        self.network.everywhere()

    def away(self):
        """Keys that all have are removed while a server is away, which then comes back with them."""
        away = self.chance.choice(self.cluster.api)
        rest = [server for server in self.cluster.api if server is not away]
        keys = [f"most/99-removed-{number}" for number in range(5)]
        self.own.use(rest[0])
        for key in keys:
            self.until_done(key, False)
        for server in self.cluster.api:
            self.own.use(server)
            self.cluster.until(lambda: all((self.own.look(key, "eventual") or (None,))[0] for key in keys),
                               f"{server} has what will be removed", AGREE_SECONDS)
        away.kill()
        self.own.use(rest[-1])
        for key in keys:
            self.until_done(key, True)
        self.hold(2, 0)
        away.start().until_ready()
        self.own.use(away)
        # Nobody else is asked for it, so it is gone when it has heard so.
        self.cluster.until(lambda: all(self.own.look(key, "eventual") == (None,) for key in keys),
                           f"{away} was away and knows what was removed", AGREE_SECONDS)
        return keys

    def until_done(self, key, is_removal):
        begun = time.monotonic()
        while self.own.change(key, is_removal)[0].outcome != "ok":
            if time.monotonic() - begun > SERVES_SECONDS:
                check(False, f"{key} is written", self.cluster.picture())

    def all_keys(self):
        writes, _ = self.record.copy()
        return sorted(writes)

    def finish(self, removed):
        """All have the same; then what was seen is judged."""
        self.clients.end()
        self.network.reset()
        keys, servers = self.all_keys(), self.cluster.api
        told = {}

        def agree():
            for server in servers:
                self.own.use(server)
                told[server.name] = [self.own.look(key, "eventual") for key in keys]
            return None not in sum(told.values(), []) and all(told[server.name] == told[servers[0].name] for server in servers)
        self.cluster.until(agree, f"nothing going on: all have the same in {len(keys)} keys", AGREE_SECONDS)
        for server in servers:
            self.own.use(server)
            for key, found in zip(keys, told[server.name]):
                if (read := self.own.look(key, "quorum")) != found:
                    check(False, f"{server} reads by quorum what all have", f"{key}: {read}, and all have {found}")
        check(all(found == (None,) for key, found in zip(keys, told[servers[0].name]) if key in removed),
              f"{len(removed)} keys that were removed did not come back", told)
        self.own.close()

    def judge(self):
        answered, words = self.record.told()
        check(answered >= LEAST_ANSWERED, words, f"at least {LEAST_ANSWERED} have to be acknowledged")
        for what, found in (("each read by quorum has what was acknowledged before, and nothing that was refused", lost),
                            ("no session went back", gone_back)):
            wrong = list(found(self.record))
            check(not wrong, what, f"{len(wrong)}:\n" + "\n".join(wrong[:20]))


def all_faults(run):
    """Each fault, in an order of chance, then the end."""
    run.hold(2, 1)
    faults = [run.kill, run.split, run.one_way, run.rough] * (1 if run.is_quick else 3)
    run.chance.shuffle(faults)
    for fault in faults:
        print(f"note: {fault.__name__}", flush=True)
        fault()
    removed = run.away()
    run.hold(2, 0)
    run.finish(removed)
    run.judge()


def planted_bug(run):
    """The few are cut off, and what they acknowledge nobody else has."""
    few, many = run.sides()
    run.part(few, many)
    begun, wrong = time.monotonic(), []
    while not wrong and time.monotonic() - begun < FOUND_SECONDS:
        time.sleep(0.2)
        wrong = list(lost(run.record))
    run.clients.end()
    run.own.close()
    check(bool(wrong), f"the planted bug is found after {time.monotonic() - begun:.1f} s: {len(wrong)} reads lack what was "
          f"acknowledged", run.record.told()[1])
    print("".join(f"    {line}\n" for line in wrong[:5]), end="", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="the short form")
    options.add_argument("--nodes", type=int, nargs="+", choices=(3, 5), help="with so many servers instead")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--repeat", type=int, default=1, metavar="N", help="N times in a row, with other seeds")
    options.add_argument("--bug", choices=BUGS, help="with this planted bug, which has to be found")
    options.add_argument("--logs", metavar="DIR", help="where all is kept; default: it is removed")
    args = options.parse_args()
    if why := testnet.missing():
        skip(why)
    checkers_can_fail()
    is_quick = args.quick or args.bug is not None
    for seed in range(args.seed, args.seed + args.repeat):
        for size in args.nodes or ([3] if is_quick else [3, 5]):
            one(size, seed, is_quick, args)


def one(size, seed, is_quick, args):
    print(f"-- {size} servers, seed {seed}", flush=True)
    begun = time.monotonic()
    try:
        trial = Trial(size, seed, args.logs and os.path.join(args.logs, f"{size}-{seed}"))
    except testnet.Unavailable as unavailable:
        skip(str(unavailable))
    cluster = Cluster(trial, size, args.bug, store={"keyspaces": keyspaces(size)})
    for server in cluster.api if args.bug else ():
        # Hints are kept for those who are known to be away: the sooner that is known, the sooner the bug shows.
        server.gossip = {"profile": "local"}
    with trial, cluster:
        run = Run(cluster, seed, is_quick)
        try:
            (planted_bug if args.bug else all_faults)(run)
        finally:
            run.clients.over.set()
            run.record.save(cluster.directory / "history.jsonl")
    print(f"-- {size} servers, seed {seed}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
