#!/usr/bin/env python3
"""The strong tier of the store is linearizable, whatever happens to its servers: 3 and 5 real sidecars in a test network
with clients at work, while servers are killed and stopped, cut off from each other and run out of disk. Others' checkers
judge what the clients saw (tests/linearizability). Needs root, iproute2 and /dev/net/tun.

    store.py                            # all scenarios with 3 and 5 servers
    store.py --quick                    # a short form of those that find most
    store.py --scenario minority --nodes 5 --seed 7 --repeat 10
    store.py --bug stale-read           # passes if the planted bug is found; needs a build with the feature `planted-bugs`
    store.py --list

With --logs DIR, histories and logs are kept; `tests/linearizability` judges a history again."""

import argparse
import json
import os
import random
import shutil
import time

from cluster import AGREE_SECONDS, SERVES_SECONDS, Client, Clients, Cluster, History, judge
from mesh import Trial, testnet
from sidecar import binary, check, skip

SIZES = (3, 5)
# Of a history: with fewer answers it proves nothing.
LEAST_ANSWERED = 150
# From the fault on, for the servers that can: an election, on a loaded machine.
PROGRESS_SECONDS = 15
# What a refusal may take: the API's patience, and a loaded machine.
REFUSED_SECONDS = 6
DISK_MIB = 24
# Servers that are new stand by for a while before they vote.
VOTE_SECONDS = 90

SCENARIOS = {}
# The scenario that exposes each planted bug.
BUGS = {"stale-read": "split", "early-ack": "blackout", "leader-restore": "blackout"}


def scenario(name, sizes=SIZES, quick=(), disk_mib=None):
    """Registers a scenario: with how many servers it is run, and with how many in the short form."""
    def register(function):
        SCENARIOS[name] = (function, sizes, quick, disk_mib)
        return function
    return register


class Run:
    """One scenario at work: the servers, the clients, and what they saw."""

    def __init__(self, cluster, name, seed, is_quick):
        self.cluster = cluster
        self.network = cluster.network
        self.name = name
        self.is_quick = is_quick
        self.chance = random.Random(f"{seed}/{name}/nemesis")
        self.history = History(cluster.directory / f"{name}.jsonl")
        self.clients = Clients(cluster, name, seed, self.history)
        self.own = Client(99, self.history)

    @property
    def has_bug(self):
        return self.cluster.bug is not None

    def hold(self, seconds, quick=None):
        """Keeps things as they are, while clients are at work."""
        time.sleep(quick if self.is_quick and quick is not None else seconds)

    def rounds(self, count, quick=1):
        return range(quick if self.is_quick else count)

    def until_progress(self, servers, what, seconds=PROGRESS_SECONDS):
        """Until something that was asked of one of these servers from now on is answered."""
        now, nodes = time.monotonic_ns(), {server.name for server in servers}
        self.cluster.until(lambda: self.history.answered_since(now, nodes), what, seconds)

    def until_served(self, what="healed"):
        """Until every server has answered a write and a read that were asked of it from now on."""
        for server in self.cluster.api:
            begun = time.monotonic()
            self.own.use(server)
            key = f"{self.name}/served"
            while not (self.own.put(key, f"99-{time.monotonic_ns()}") and self.own.get(key)):
                if time.monotonic() - begun > SERVES_SECONDS:
                    check(False, f"{what}: {server} serves within {SERVES_SECONDS} s", self.cluster.picture())
                time.sleep(0.1)
        check(True, f"{what}: everybody serves")

    def groups(self, leader):
        """The leader with as many others as make no quorum, and the others."""
        rest = self.cluster.followers(leader)
        self.chance.shuffle(rest)
        few = (len(self.cluster.api) - 1) // 2
        return [leader, *rest[:few - 1]], rest[few - 1:]

    def finish(self):
        """All servers say the same, and the checkers agree that it was right."""
        self.until_served("at last")
        self.hold(1)
        self.clients.end()
        keys = [*self.clients.keys, f"{self.name}/served"]
        finals = {server.name: self.read_all(server, keys) for server in self.cluster.api}
        if not self.has_bug:
            check(len(set(map(str, finals.values()))) == 1, "all servers read the same", finals)
        wanted = finals[self.cluster.api[0].name]
        for server in self.cluster.api:
            # Whoever has been away has it soon, without asking anybody.
            self.own.use(server)
            self.cluster.until(lambda: self.has_bug or [self.own.get(key, "eventual") for key in keys] == wanted,
                               f"{server} has it itself", AGREE_SECONDS)
        self.own.close()
        self.judge()

    def read_all(self, server, keys):
        self.own.use(server)
        found = []
        for key in keys:
            read = self.own.get(key)
            check_quietly(read is not None, f"{server} answers for {key}", self.cluster.picture())
            found.append(read)
        return found

    def judge(self):
        counts = self.history.counts
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        check(counts["ok"] >= LEAST_ANSWERED, f"{self.name}: {told}", f"at least {LEAST_ANSWERED} have to be answered")
        code, words = judge(self.history)
        if self.has_bug:
            check(code == 1, f"the checkers find the planted bug ({code})", words)
            print(words, flush=True)
        else:
            check(code == 0, f"{self.name} is linearizable", f"{words}\n--- judged {code}: {self.history.path}")
            print("".join(f"    {line}\n" for line in words.splitlines()), end="", flush=True)


def check_quietly(holds, what, detail):
    """For checks in a loop: says something only if it fails."""
    if not holds:
        check(False, what, detail)


@scenario("kill", quick=(3,))
def servers_are_killed(run):
    """The leader, then a follower, by SIGKILL, each comes back; of five, two at once."""
    cluster = run.cluster
    for _ in run.rounds(4, 2):
        leader = cluster.leader()
        victims = [leader, *run.chance.sample(cluster.followers(leader), len(cluster.api) // 2 - 1)]
        for dead in (victims, [run.chance.choice(cluster.followers(leader))]):
            for server in dead:
                server.kill()
            rest = cluster.running()
            run.until_progress(rest, f"{dead} killed: the others go on")
            run.hold(run.chance.uniform(0.5, 3), 1)
            for server in dead:
                server.start()
            for server in dead:
                server.until_ready()
            run.until_progress(dead, f"{dead} serve again", SERVES_SECONDS)
            run.hold(1)


@scenario("blackout", quick=(3,))
def all_are_killed_at_once(run):
    """What was acknowledged is on disk: all come back, and have it."""
    cluster = run.cluster
    # Some bugs need luck to be seen.
    for _ in range(8) if run.has_bug else run.rounds(4, 2):
        run.hold(run.chance.uniform(1, 3), 1.5)
        for server in cluster.api:
            server.process.kill()
        for server in cluster.api:
            server.kill()
        for server in cluster.api:
            server.start()
        for server in cluster.api:
            server.until_ready()
        run.until_progress(cluster.api, "all killed: they serve again", SERVES_SECONDS)


@scenario("rolling")
def all_are_restarted_in_turn(run):
    """In good order, by SIGTERM, the leader first: each hands over what it has, ends, and comes back."""
    cluster = run.cluster
    for _ in run.rounds(2):
        leader = cluster.leader()
        for server in [leader, *cluster.followers(leader)]:
            server.terminate()
            run.until_progress(cluster.running(), f"{server} has left: the others go on")
            run.hold(run.chance.uniform(0.2, 1))
            server.start()
            server.until_ready()
            run.until_progress([server], f"{server} serves again", SERVES_SECONDS)


@scenario("pause", quick=(3,))
def the_leader_stands_still(run):
    """By SIGSTOP, so that it wakes up believing that it leads."""
    cluster = run.cluster
    for _ in run.rounds(5, 2):
        leader = cluster.leader()
        leader.stop()
        run.until_progress(cluster.running(), f"{leader} stands still: the others go on")
        run.hold(run.chance.uniform(0.5, 4), 1)
        leader.go_on()
        run.until_progress([leader], f"{leader} goes on, and serves", SERVES_SECONDS)
        run.hold(1)


@scenario("split")
def the_leader_is_with_the_few(run):
    """Two sides, the leader on that without a quorum, while clients ask both."""
    cluster = run.cluster
    for _ in run.rounds(3):
        few, many = run.groups(cluster.leader())
        run.network.partition([server.host for server in few], [server.host for server in many])
        run.until_progress(many, f"{few} cut off: the others go on")
        run.hold(run.chance.uniform(2, 6), 3)
        run.network.heal()
        run.until_served()


@scenario("minority", quick=(3,))
def a_minority_says_that_it_is_one(run):
    """It refuses writes and certain reads in time, reads what it has, and takes over what the others decided."""
    cluster, own, key = run.cluster, run.own, "minority/own"
    few, many = run.groups(cluster.leader())
    own.use(few[0])
    before = (own.put(key, "before"), own.get(key))[1]
    for server in cluster.api:
        own.use(server)
        cluster.until(lambda: own.get(key, "eventual") == before, f"{server} has it", AGREE_SECONDS)
    run.network.partition([server.host for server in few], [server.host for server in many])
    run.until_progress(many, f"{few} cut off: the others go on")
    own.use(many[0])
    while (revision := own.put(key, f"decided-{time.monotonic_ns()}")) is None:
        time.sleep(0.1)
    decided = own.get(key)
    check(decided is not None and decided[1] == revision, f"the many write and read: {decided}")
    for server in few:
        own.use(server)
        for what, ask in (("a write", lambda: own.put(key, f"refused-{time.monotonic_ns()}")),
                          ("a strong read", lambda: own.get(key))):
            begun = time.monotonic()
            answer, said = ask(), run.history.lines[-1]["said"]
            took = time.monotonic() - begun
            check(answer is None and said in (503, 504) and took < REFUSED_SECONDS,
                  f"{server}, of the few, refuses {what} with {said} after {took:.1f} s", answer)
        begun = time.monotonic()
        read = own.get(key, "eventual")
        check(read == before, f"  and reads what it has ({time.monotonic() - begun:.2f} s): {read}", before)
    run.network.heal()
    run.until_served()
    # What was refused may have been decided after all only if the answer was that nobody knows (504).
    own.use(many[0])
    now = own.get(key)
    for server in few:
        own.use(server)
        cluster.until(lambda: own.get(key, "eventual") == now, f"{server} has what was decided", AGREE_SECONDS)


@scenario("one-way")
def the_leader_is_heard_or_hears(run):
    """Its packets arrive nowhere, or none arrive at it, or one follower is mute for it."""
    cluster = run.cluster
    for turn in run.rounds(6, 3):
        leader = cluster.leader()
        others = cluster.followers(leader)
        match turn % 3:
            case 0:
                pairs, what = [(leader, other) for other in others], "is not heard"
            case 1:
                pairs, what = [(other, leader) for other in others], "does not hear"
            case _:
                pairs, what = [(run.chance.choice(others), leader)], "does not hear one of them"
        for origin, target in pairs:
            run.network.cut(origin.host, target.host)
        run.until_progress(others, f"{leader} leads and {what}: the others go on")
        run.hold(run.chance.uniform(2, 5), 2)
        run.network.heal()
        run.until_served()


@scenario("bridge")
def only_one_reaches_both_sides(run):
    """The leader reaches one server only, which reaches all (openraft #2080); of three, it loses the third."""
    cluster = run.cluster
    for _ in run.rounds(3):
        leader = cluster.leader()
        bridge, *rest = run.chance.sample(cluster.followers(leader), len(cluster.api) - 1)
        run.network.partition([leader.host, bridge.host], [bridge.host, *(server.host for server in rest)])
        run.until_progress([bridge, *rest], f"{leader} reaches {bridge} only: there is progress")
        run.hold(run.chance.uniform(3, 7), 3)
        run.network.heal()
        run.until_served()


@scenario("rough")
def the_network_is_bad(run):
    """A twentieth of all packets is lost, the others are 10 to 30 ms late, and a leader is killed meanwhile."""
    cluster = run.cluster
    run.network.everywhere(delay_ms=20, jitter_ms=10, loss=0.05)
    run.until_progress(cluster.api, "5 % lost, 20 ms late: there is progress")
    for _ in run.rounds(2):
        run.hold(6, 3)
        leader = cluster.leader()
        leader.kill()
        run.until_progress(cluster.running(), f"{leader} killed: the others go on", SERVES_SECONDS)
        leader.start().until_ready()
    run.hold(4, 1)
    run.network.everywhere()
    run.until_served()


@scenario("disk", quick=(3,), disk_mib=DISK_MIB)
def disks_are_full(run):
    """A follower's, the leader's, then all: nothing that was acknowledged is lost, and room and a restart mend it."""
    cluster = run.cluster
    disks = dict(zip(cluster.api, cluster.disks))
    leader = cluster.leader()
    for full in ([run.chance.choice(cluster.followers(leader))], [leader], cluster.api):
        for server in full:
            disks[server].fill()
        rest = [server for server in cluster.api if server not in full]
        run.hold(4, 3)
        if rest:
            run.until_progress(rest, f"the disks of {full} are full: the others go on")
        for server in full:
            disks[server].free()
            server.kill()
            server.start()
        for server in full:
            server.until_ready()
        run.until_served()


@scenario("chaos")
def many_things_happen(run):
    """Whatever comes, several at once, as chance has it; a quorum is there most of the time."""
    cluster, chance = run.cluster, run.chance
    few = (len(cluster.api) - 1) // 2
    for _ in run.rounds(8, 3):
        done = []
        for server in chance.sample(cluster.api, chance.randint(1, few)):
            match chance.randrange(3):
                case 0:
                    server.kill()
                    done.append(f"{server} killed")
                case 1:
                    server.stop()
                    done.append(f"{server} stopped")
                case _:
                    others = [other.host for other in cluster.api if other is not server]
                    for other in chance.sample(others, chance.randint(1, len(others))):
                        run.network.cut(*chance.choice(((server.host, other), (other, server.host))))
                    done.append(f"{server} partly cut off")
        if chance.random() < 0.5:
            run.network.everywhere(delay_ms=20, jitter_ms=10, loss=0.05)
            done.append("bad network")
        run.hold(chance.uniform(1, 6), 3)
        print(f"note: {', '.join(done)}", flush=True)
        run.network.reset()
        for server in cluster.api:
            if server.is_stopped and server.is_running:
                server.go_on()
            if not server.is_running:
                server.start()
        for server in cluster.api:
            server.until_ready()
        if chance.random() < 0.5:
            run.until_served()


@scenario("wiped")
def most_disks_are_lost(run):
    """All are killed, most disks are wiped: what docs/operations/store.md says brings back what the others had."""
    cluster, own = run.cluster, run.own
    # What only the lost disks had may be lost: first everybody has everything.
    run.clients.end()
    keys = [f"wiped/own/{number}" for number in range(10)]
    own.use(cluster.leader())
    for number, key in enumerate(keys):
        while own.put(key, f"{number}-{time.monotonic_ns()}") is None:
            time.sleep(0.1)
    keys += run.clients.keys
    before = run.read_all(own.server, keys)
    for server in cluster.api:
        own.use(server)
        cluster.until(lambda: [own.get(key, "eventual") for key in keys] == before, f"{server} has all", AGREE_SECONDS)
    for server in cluster.api:
        server.kill()
    left = run.chance.sample(cluster.api, (len(cluster.api) - 1) // 2)
    lost = [server for server in cluster.api if server not in left]
    for server in lost:
        shutil.rmtree(server.store_directory)
        shutil.rmtree(server.directory / "data")

    def raft(verb, server, *more):
        done = server.host.run(binary("OUTRIGGER_BIN", "outrigger"), "raft", verb, "-c",
                               server.directory / "outrigger.yaml", "-o", "json", *more)
        return done.returncode, done.stdout, done.stderr

    def progress(server):
        code, told, said = raft("inspect", server)
        check_quietly(code == 0, f"the disk of {server} is looked at", said)
        told = json.loads(told)
        return told["last_term"], told["last_index"]

    furthest = max(left, key=progress)
    code, _, said = raft("recover", furthest)
    check(code == 7, f"{furthest} of {left} is furthest; without consent nothing is done", said)
    code, told, said = raft("recover", furthest, "--accept-data-loss")
    check(code == 0, f"{furthest} goes on from its disk", told + said)
    furthest.start().until_ready()
    cluster.until(furthest.leads, f"{furthest} leads alone", SERVES_SECONDS)
    for server in lost:
        server.start().until_ready()
    for server in left:
        if server is not furthest:
            server.start().until_ready()
            cluster.until(lambda one=server: "epoch 1" in str((one.raft() or {}).get("failure")),
                          f"{server} is told that it was left behind", SERVES_SECONDS)
            server.kill()
            server.start().until_ready()
    cluster.until(lambda: all(cluster.votes(server) for server in cluster.api),
                  f"{len(cluster.api)} vote again", VOTE_SECONDS)
    for server in cluster.api:
        own.use(server)
        check(run.read_all(server, keys) == before, f"{server} has all that was there")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="the short form")
    options.add_argument("--scenario", action="append", choices=SCENARIOS, metavar="NAME", help="this one; may be repeated")
    options.add_argument("--nodes", type=int, nargs="+", choices=(3, 5), help="with so many servers instead")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--repeat", type=int, default=1, metavar="N", help="N times in a row, with other seeds")
    options.add_argument("--bug", choices=BUGS, help="with this planted bug, which has to be found")
    options.add_argument("--logs", metavar="DIR", help="where histories and logs are kept; default: they are removed")
    options.add_argument("--list", action="store_true", help="only tell what there is")
    args = options.parse_args()
    if args.list:
        for name, (function, _, quick, _) in SCENARIOS.items():
            print(f"{name:10} {'*' if quick else ' '} {function.__doc__}")
        return
    if why := testnet.missing():
        skip(why)
    plan = []
    for name, (_, sizes, quick, _) in SCENARIOS.items():
        if args.bug:
            wanted = args.nodes or [3] if name == BUGS[args.bug] else []
        elif args.scenario:
            wanted = args.nodes or sizes if name in args.scenario else []
        elif args.quick:
            wanted = quick and (args.nodes or quick)
        else:
            wanted = args.nodes or sizes
        plan += [(size, name) for size in wanted]
    # Those with as many servers have the same ones.
    plan.sort(key=lambda one: one[0])
    for seed in range(args.seed, args.seed + args.repeat):
        run(plan, seed, args)


def run(plan, seed, args):
    try:
        trial = Trial(max(size for size, _ in plan), seed, args.logs and os.path.join(args.logs, str(seed)))
    except testnet.Unavailable as unavailable:
        skip(str(unavailable))
    with trial:
        for size in sorted({size for size, _ in plan}):
            names = [name for count, name in plan if count == size]
            alone = [[name] for name in names if SCENARIOS[name][3]]
            together = [name for name in names if not SCENARIOS[name][3]]
            for group in [together] * bool(together) + alone:
                with Cluster(trial, size, args.bug, SCENARIOS[group[0]][3]) as cluster:
                    for name in group:
                        one(cluster, name, seed, args.quick or args.bug)


def one(cluster, name, seed, is_quick):
    print(f"-- {name}: {len(cluster.api)} servers, seed {seed}", flush=True)
    begun = time.monotonic()
    at_work = Run(cluster, name, seed, is_quick)
    try:
        at_work.hold(2, 1)
        SCENARIOS[name][0](at_work)
        at_work.finish()
    finally:
        at_work.clients.over.set()
        # So that it can be looked at, whatever went wrong.
        at_work.history.write()
    print(f"-- {name}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
