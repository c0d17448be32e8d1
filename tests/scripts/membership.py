#!/usr/bin/env python3
"""Sidecars find each other by gossip, and nobody healthy is condemned: real processes in a test network, which are
killed, stopped, restarted, moved, cut off, slowed down, impersonated and shouted at, most of it under a load of requests
none of which may fail. Needs root, iproute2 and /dev/net/tun; without faketime wall clocks are left as they are.

    membership.py                   # all trials with 3, 5 and 7 members: half an hour
    membership.py --quick           # a short form of those that find most
    membership.py --only partition --only bridge --sizes 5 --repeat 10
    membership.py --list"""

import argparse
import os
import time

from mesh import CLIENT, GOSSIP_PORT, Keyring, Load, Mesh, Node, Trial, testnet
from sidecar import check, end, skip

# All bounds are for a loaded machine of two cores; what is usual is a fraction of them.
DEATH_SECONDS = 15
RETURN_SECONDS = 15
MERGE_SECONDS = 10
LEFT_SECONDS = 5
REFUTED_SECONDS = 10
KEYS_SECONDS = 10
TRAFFIC_SECONDS = 20
SIZES = (3, 5, 7)
SPARES = 2  # hosts for those who move, and for strangers
DROPPED = "outrigger_gossip_dropped_total"
# How far clocks are ahead: further than any timer of the mesh, but within the life of a certificate.
MONOTONIC_AHEAD, WALL_AHEAD = 5_000_000, 7200
# What a log may say of a name that is taken.
TAKEN_WORDS = ("taken", "already", "conflict", "in use", "another node", "other node")

SCENARIOS = {}


def scenario(name, sizes=SIZES, quick=()):
    """Registers a trial: with how many members it is run, and with how many in the short form."""
    def register(function):
        SCENARIOS[name] = (function, sizes, quick)
        return function
    return register


class Options:
    is_quick = False

    @classmethod
    def hold(cls, seconds, quick):
        """How long something is kept up."""
        return quick if cls.is_quick else seconds


@scenario("one-view", quick=(3,))
def all_form_one_view(trial, size):
    """Everybody finds everybody, and the client everybody's application."""
    with Mesh(trial, size) as mesh:
        names = {node.name for node in mesh.running()}
        for node in mesh.running():
            status = node.status()
            check({item["node"] for item in status["items"]} == names, f"{node} knows {len(names)} members", status)
            check(not status.get("isolated"), f"{node} does not feel isolated")
        items = {item["node"]: item for item in mesh.client.status()["items"]}
        check(items["n1"]["service"] == "api" and items[CLIENT]["service"] == CLIENT, "  and what they stand beside")
        said = mesh.client.cli("members", "-o", "json")
        check(said.returncode == 0 and all(f'"{name}"' in said.stdout for name in names), "the command tells the same",
              said.stdout + said.stderr)
        with Load(mesh.client) as load:
            for node in mesh.api:
                load.until_answered_by(node, TRAFFIC_SECONDS, f"the client's requests reach {node}")
        load.check_none_failed("without an endpoint list")


@scenario("kill", quick=(3,))
def a_member_is_killed_and_comes_back(trial, size):
    """Under load: it is dead for all, then alive for all, first at its address and then at another one."""
    with Mesh(trial, size) as mesh, Load(mesh.client) as load:
        watch, victim = mesh.watch(), mesh.api[1]
        others = {node.name for node in mesh.running() if node is not victim}
        load.until_answered_by(victim, TRAFFIC_SECONDS, f"{victim} serves")
        before = generation(mesh.client, victim)
        victim.kill()
        mesh.until_seen(victim, "dead", DEATH_SECONDS, f"killed: everybody sees {victim} dead")
        load.check_none_failed("a member was killed")
        victim.start().until_ready()
        mesh.until_back(victim, RETURN_SECONDS, f"started again: everybody sees {victim} alive")
        load.until_answered_by(victim, TRAFFIC_SECONDS, "  and it serves again")
        after = generation(mesh.client, victim)
        check(before is None or after > before, "  in another life", (before, after))
        victim.kill()
        mesh.until_seen(victim, "dead", DEATH_SECONDS, f"killed again: everybody sees {victim} dead")
        victim.move(mesh.spares[0])
        victim.start().until_ready()
        mesh.until_back(victim, RETURN_SECONDS, f"started elsewhere: everybody sees {victim} alive at its new address")
        load.until_answered_by(victim, TRAFFIC_SECONDS, "  and it serves again")
        watch.check_none("dead", "nobody else was ever called dead", of=others)
        load.check_none_failed("killed twice, moved once")


def generation(observer, node):
    return observer.members()[node.name].get("generation")


@scenario("pause")
def a_member_stands_still_for_two_seconds(trial, size):
    """A pause of two seconds is no death, whatever is suspected meanwhile."""
    with Mesh(trial, size) as mesh:
        watch, paused = mesh.watch(), mesh.api[1]
        for _ in range(Options.hold(3, 1)):
            paused.stop()
            time.sleep(2)
            paused.go_on()
            mesh.until_one_view(REFUTED_SECONDS, f"after 2 s of silence everybody sees {paused} alive")
            time.sleep(3)
        mesh.until_one_view(REFUTED_SECONDS)
        watch.check_none("dead", f"nobody was called dead ({watch.suspicions()})")


@scenario("observer", quick=(3,))
def an_observer_stands_still_for_five_seconds(trial, size):
    """Who slept finds that it slept, not that the others died."""
    with Mesh(trial, size) as mesh:
        sleeper = mesh.api[0]
        others = {node.name for node in mesh.running() if node is not sleeper}
        watch, said = mesh.watch(), sleeper.log_size()
        sleeper.stop()
        time.sleep(5)
        sleeper.go_on()
        until = time.monotonic() + Options.hold(10, 4)
        while time.monotonic() < until:
            view = sleeper.view()
            check_quietly("dead" not in [view.get(name) for name in others], f"{sleeper} calls nobody dead", view)
            time.sleep(0.03)
        mesh.until_one_view(REFUTED_SECONDS, "everybody sees everybody alive again")
        watch.check_none("dead", f"nobody called anybody but {sleeper} dead ({watch.suspicions()})", of=others)
        check(not sleeper.deaths_logged(said) & others, f"the log of {sleeper} speaks of no death",
              sleeper.deaths_logged(said))


def check_quietly(holds, what, detail):
    """For checks in a loop: says something only if it fails."""
    if not holds:
        check(False, what, detail)


@scenario("partition", quick=(5,))
def halves_serve_on_and_merge(trial, size):
    """The client with one half of the members, the others by themselves: each half serves; healed, they are one again."""
    with Mesh(trial, size) as mesh:
        near, far = mesh.api[:size // 2], mesh.api[size // 2:]
        watch = mesh.watch()
        with Load(mesh.client) as here, Load(far[-1]) as there:
            mesh.network.partition([node.host for node in [mesh.client, *near]], [node.host for node in far])
            cut = time.monotonic()
            # Until the silence of the others is noticed, requests may be unlucky several times in a row.
            time.sleep(Options.hold(15, 6))
            settled = time.monotonic()
            time.sleep(4)
            for load, which in ((here, "near"), (there, "far")):
                unlucky = sum(1 for asked, _ in load.failures if asked < settled)
                print(f"note: the {which} half: {unlucky} requests failed in the first {settled - cut:.0f} s")
                load.check_none_failed(f"the {which} half serves on", since=settled)
            for half in ([mesh.client, *near], far):
                names = [node.name for node in half]
                watch.check_none("dead", f"{', '.join(names)} do not call each other dead", of=names, by=names)
            mesh.network.heal()
            mesh.until_one_view(MERGE_SECONDS, "healed: everybody sees everybody alive")
            check(not any(node.status().get("isolated") for node in mesh.running()), "nobody feels isolated")
            healed = time.monotonic()
            time.sleep(3)
            here.check_none_failed("healed, near", since=healed)
            there.check_none_failed("healed, far", since=healed)


@scenario("one-way", quick=(3,))
def one_way_is_cut_between_two(trial, size):
    """One cannot reach another, which reaches it: the others know better, so nobody dies."""
    with Mesh(trial, size) as mesh:
        watch = mesh.watch()
        one, other = mesh.api[:2]
        mesh.network.cut(one.host, other.host)
        time.sleep(Options.hold(20, 6))
        watch.check_none("dead", f"nobody was called dead ({watch.suspicions()})")
        mesh.network.heal()
        mesh.until_one_view(REFUTED_SECONDS)
        watch.check_none("dead", "nor afterwards")


@scenario("bridge", sizes=(5, 7), quick=())
def a_bridge_keeps_both_sides_alive(trial, size):
    """Two sides that reach each other only through one member: it tells each of them that the other lives."""
    with Mesh(trial, size) as mesh:
        watch = mesh.watch()
        bridge, rest = mesh.api[0], mesh.api[1:]
        left, right = rest[:len(rest) // 2], [*rest[len(rest) // 2:], mesh.client]
        mesh.network.partition([node.host for node in [bridge, *left]], [node.host for node in [bridge, *right]])
        time.sleep(Options.hold(20, 8))
        watch.check_none("dead", f"nobody was called dead ({watch.suspicions()})")
        mesh.network.heal()
        mesh.until_one_view(REFUTED_SECONDS)


@scenario("rough", quick=())
def a_bad_network_kills_nobody(trial, size):
    """A fifth of all packets is lost, the others are 10 to 30 ms late, some come twice."""
    with Mesh(trial, size) as mesh:
        watch = mesh.watch()
        mesh.network.everywhere(delay_ms=20, jitter_ms=10, loss=0.2, duplicate=0.05)
        time.sleep(Options.hold(30, 10))
        watch.check_none("dead", f"nobody was called dead ({watch.suspicions()})")
        mesh.network.everywhere()
        mesh.until_one_view(REFUTED_SECONDS)
        watch.check_none("dead", "nor afterwards")


@scenario("clocks", sizes=(3,), quick=())
def clocks_do_not_agree(trial, size):
    """One member's monotonic clock is ahead by weeks, another one's wall clock by hours."""
    skewed = []
    if testnet.can_shift_monotonic():
        skewed.append((1, {"monotonic_ahead": MONOTONIC_AHEAD}))
    else:
        print("NOT TRIED: this kernel has no time namespaces, so no other monotonic clock")
    if testnet.faketime_library():
        skewed.append((2, {"wall_ahead": WALL_AHEAD}))
    else:
        print("NOT TRIED: not installed: faketime, so no other wall clock")
    with Mesh(trial, size) as mesh:
        watch, others = mesh.watch(), {node.name for node in mesh.running()}
        for number, ahead in skewed:
            node = mesh.api[number]
            node.terminate()
            node.ahead = ahead
            node.start().until_ready()
            mesh.until_back(node, RETURN_SECONDS, f"with {ahead} everybody sees {node} alive")
        time.sleep(Options.hold(15, 5))
        watch.check_none("dead", f"nobody was called dead ({watch.suspicions()})")
        with Load(mesh.client) as load:
            for number, _ in skewed:
                load.until_answered_by(mesh.api[number], TRAFFIC_SECONDS, f"{mesh.api[number]} serves")
        load.check_none_failed("clocks do not agree")
        for number, _ in skewed:
            node = mesh.api[number]
            others.discard(node.name)
            node.kill()
            mesh.until_seen(node, "dead", DEATH_SECONDS, f"killed: everybody sees {node} dead")
            node.start().until_ready()
            mesh.until_back(node, RETURN_SECONDS, f"started again: everybody sees {node} alive")
        watch.check_none("dead", "nobody else was called dead", of=others)


@scenario("rolling", quick=(3,))
def everybody_is_restarted_in_turn(trial, size):
    """As for an upgrade, under load: who leaves says so, and nobody is ever called dead."""
    with Mesh(trial, size) as mesh:
        watch = mesh.watch()
        with Load(mesh.client) as load:
            for node in mesh.api:
                node.terminate()
                if node is not mesh.api[0]:
                    # The first one is back before everybody knows that it was gone.
                    mesh.until_seen(node, "left", LEFT_SECONDS)
                node.start().until_ready()
                mesh.until_back(node, RETURN_SECONDS, f"everybody sees {node} alive again")
                load.check_none_failed(f"{node} was restarted")
            load.until_answered_by(mesh.api[-1], TRAFFIC_SECONDS, "the last one serves again")
        load.check_none_failed("all were restarted")
        mesh.client.terminate()
        mesh.client.start().until_ready()
        mesh.until_one_view(RETURN_SECONDS, "everybody sees everybody alive, the client too")
        watch.check_none("dead", f"nobody was ever called dead ({watch.suspicions()})")


@scenario("leave", quick=(3,))
def who_leaves_has_left(trial, size):
    """A graceful leave is `left` for all, at once and for good."""
    with Mesh(trial, size) as mesh, Load(mesh.client) as load:
        watch, leaver = mesh.watch(), mesh.api[-1]
        leaver.terminate()
        mesh.until_seen(leaver, "left", LEFT_SECONDS)
        time.sleep(Options.hold(12, 4))
        views = {node.name: node.view().get(leaver.name) for node in mesh.running()}
        check(set(views.values()) == {"left"}, "it stays so", views)
        watch.check_none("dead", "nobody was ever called dead")
        load.check_none_failed("a member left")


@scenario("strangers", sizes=(3,), quick=(3,))
def who_does_not_belong_never_appears(trial, size):
    """Somebody with another key, and somebody of another mesh that has the same key."""
    with Mesh(trial, size) as mesh:
        before = sum(node.metric(DROPPED) for node in mesh.api)
        strangers = [mesh.add("wrong-key", mesh.spares[0], gossip={"gossip_key": trial.key()}),
                     mesh.add("wrong-name", mesh.spares[1], gossip={"cluster": "elsewhere"})]
        for stranger in strangers:
            # It may well refuse to be ready, or to start at all.
            stranger.start()
        until = time.monotonic() + Options.hold(15, 6)
        while time.monotonic() < until:
            for node in mesh.running():
                known = node.view().keys() & {"wrong-key", "wrong-name"}
                check_quietly(not known, f"{node} knows no stranger", known)
            for stranger in strangers:
                known = stranger.view().keys() - {stranger.name} if stranger.is_running else set()
                check_quietly(not known, f"{stranger} learns of nobody", known)
            time.sleep(0.1)
        check(True, "nobody knows the strangers, and they know nobody")
        check(sum(node.metric(DROPPED) for node in mesh.api) > before, "what they sent was dropped and counted")
        mesh.until_one_view(1)


@scenario("taken-name", sizes=(3,), quick=(3,))
def a_name_that_is_taken_is_refused(trial, size):
    """A second node of a name: the first one stays, the second one says why it is alone."""
    with Mesh(trial, size) as mesh:
        watch, first = mesh.watch(), mesh.api[1]
        names = {node.name for node in mesh.running()}
        # On a host of its own with a directory of its own: another node in every respect but its name.
        second = Node(mesh, first.name, mesh.spares[0], directory="impostor")
        mesh.nodes["impostor"] = second
        second.start()
        mesh.until(lambda: refuses(second), f"the second {first} says that its name is taken", RETURN_SECONDS)
        until = time.monotonic() + Options.hold(8, 3)
        while time.monotonic() < until:
            for node in mesh.running():
                items = [item for item in (node.status() or {"items": []})["items"] if item["node"] == first.name]
                alive = [item["address"] for item in items if item["state"] == "alive"]
                check_quietly(alive == [first.gossip_address], f"{node} sees one {first}, where it was", items)
            time.sleep(0.1)
        mesh.until_one_view(REFUTED_SECONDS)
        watch.check_none("dead", "nobody was called dead", of=names)
        if second.is_running:
            end(second.process)
        mesh.until_one_view(REFUTED_SECONDS, "the second one goes, the first one stays")


def refuses(node):
    """Whether its log has a line, of an error or a warning, about its name."""
    lines = [line for line in node.log().splitlines() if f'"{node.name}"' in line or f"`{node.name}`" in line
             or f" {node.name} " in line]
    return any(word in line.lower() for line in lines for word in TAKEN_WORDS)


@scenario("keys", sizes=(5,), quick=(5,))
def the_key_changes_under_load(trial, size):
    """A new key everywhere before it is used, and used everywhere before the old one goes."""
    with Mesh(trial, size) as mesh:
        watch, names = mesh.watch(), {node.name for node in mesh.running()}
        keyring = Keyring(mesh.api[0])
        with Load(mesh.client) as load:
            old, key = keyring.keys()[0], keyring.generate()
            keyring.install(key)
            mesh.until(lambda: len(keyring.keys()) == 2, "there are two keys", KEYS_SECONDS)
            new = keyring.keys()[1]
            keyring.run("use", new)
            keyring.run("rm", old)
            for node in mesh.running():
                mesh.until(lambda node=node: Keyring(node).keys() == [new], f"{node} has the new key alone", KEYS_SECONDS)
            time.sleep(Options.hold(5, 2))
            restarted = mesh.api[2]
            restarted.kill()
            restarted.start().until_ready()
            mesh.until_back(restarted, RETURN_SECONDS, f"{restarted}, restarted with the old file, has kept the new key")
            load.check_none_failed("the key was changed")
        late = mesh.add("late", mesh.spares[0], gossip={"gossip_key": mesh.key})
        late.start()
        newcomer = mesh.add("newcomer", mesh.spares[1], gossip={"gossip_key": key})
        newcomer.start().until_ready()
        mesh.until(lambda: all(node.view().get("newcomer") == "alive" for node in mesh.running()),
                   "somebody with the new key joins", RETURN_SECONDS)
        time.sleep(Options.hold(8, 2))
        known = [node.name for node in mesh.running() if "late" in node.view()]
        check(not known, "somebody who has the old key only does not", known)
        check(not late.is_running or not late.view().keys() & names, "  and learns of nobody", late.view())
        watch.check_none("dead", "no member was lost", of=names - {restarted.name})
        watch.check_none("left", "  or left", of=names)


@scenario("garbage", sizes=(3, 5), quick=(3,))
def packets_of_no_use_change_nothing(trial, size):
    """Random, truncated and altered packets, and those of an hour ago in their very words."""
    with Mesh(trial, size) as mesh:
        mesh.network.capture(GOSSIP_PORT)
        # Something worth repeating: somebody leaves and comes back, in other words is not there any more.
        leaver = mesh.api[-1]
        leaver.terminate()
        mesh.until_seen(leaver, "left", LEFT_SECONDS)
        leaver.start().until_ready()
        mesh.until_one_view(RETURN_SECONDS)
        seen = mesh.network.captured()
        mesh.network.capture(None)
        check(len(seen) > 50, f"{len(seen)} packets were captured")
        before = {node.name: node.members() for node in mesh.running()}
        dropped = {node.name: node.metric(DROPPED) for node in mesh.api}
        memory = {node.name: resident_mib(node) for node in mesh.api}
        watch = mesh.watch()
        time.sleep(1)
        first = len(watch.changes)
        shoutings = shout(mesh, seen, Options.hold(60, 5))
        time.sleep(1)
        changes = watch.changes[first:]
        check(not changes, f"{shoutings} packets changed nothing", "\n".join(map(str, changes)))
        for node in mesh.running():
            lives = {name: (item.get("generation"), item["incarnation"]) for name, item in node.members().items()}
            known = {name: (item.get("generation"), item["incarnation"]) for name, item in before[node.name].items()}
            check(lives == known, f"nobody had to speak up for {node}", (known, lives))
        for node in mesh.api:
            # Per member: a third of them are packets that only their repetition makes worthless.
            count = node.metric(DROPPED) - dropped[node.name]
            check(count >= shoutings / len(mesh.api) / 2, f"{node} dropped and counted {count:.0f}")
            grown = resident_mib(node) - memory[node.name]
            check(grown < 20, f"  and grew by {grown:.1f} MiB")
        with Load(mesh.client) as load:
            load.until_answered_by(leaver, TRAFFIC_SECONDS, f"{leaver} serves")
        load.check_none_failed("after all that")


def resident_mib(node):
    with open(f"/proc/{node.process.pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


def shout(mesh, seen, seconds, each_per_second=200):
    """Sends what nobody should believe to every member of `api`, from a host that is none, and in others' names. Returns
    how many packets that were."""
    chance, sent, attacker = mesh.trial.chance, 0, mesh.spares[0]
    payloads = [packet[(packet[0] & 15) * 4 + 8:] for _, _, packet in seen]
    to = {node: [packet for _, target, packet in seen if target is node.host] for node in mesh.api}
    until, due = time.monotonic() + seconds, time.monotonic()
    with attacker.udp() as udp:
        while time.monotonic() < until:
            for node in mesh.api:
                kind = chance.randrange(6)
                if kind == 5:
                    mesh.network.inject(node.host, [forged(chance, chance.choice(to[node]))])
                else:
                    udp.sendto(worthless(chance, kind, chance.choice(payloads)), (node.host.address, GOSSIP_PORT))
                sent += 1
            if sent % 500 < len(mesh.api):
                babble(chance, attacker, chance.choice(mesh.api))
            due += 1 / each_per_second
            time.sleep(max(due - time.monotonic(), 0))
    return sent


def worthless(chance, kind, payload):
    """A payload that is none."""
    match kind:
        case 0:
            return chance.randbytes(chance.randrange(1, 1400))
        case 1:
            return payload[:chance.randrange(len(payload))]
        case 2:
            return flipped(chance, payload)
        case 3:
            # Larger than any packet of ours, and in several pieces.
            return chance.randbytes(chance.randrange(1500, 9000))
        case _:
            return payload


def flipped(chance, payload, start=0):
    bit = chance.randrange(start * 8, len(payload) * 8)
    altered = bytearray(payload)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


def forged(chance, packet):
    """A packet as it was seen, from the same sender; half of them with one bit altered."""
    if chance.random() < 0.5:
        return packet
    header = (packet[0] & 15) * 4
    altered = bytearray(flipped(chance, packet, header + 8))
    altered[header + 6:header + 8] = b"\0\0"  # no checksum, which in UDP is one that always holds
    return bytes(altered)


def babble(chance, host, node):
    """Says something of no use to the TCP port, and hangs up."""
    try:
        with host.connect(node.gossip_address, timeout=1) as connection:
            connection.sendall(chance.randbytes(chance.randrange(1, 4000)))
    except OSError:
        # It may refuse, or hang up first.
        pass


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="the short form")
    options.add_argument("--only", action="append", choices=SCENARIOS, metavar="NAME", help="this trial; may be repeated")
    options.add_argument("--sizes", type=int, nargs="+", help="with so many members instead")
    options.add_argument("--repeat", type=int, default=1, metavar="N", help="N times in a row, with other seeds")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--logs", metavar="DIR", help="where the logs are kept; default: they are removed")
    options.add_argument("--list", action="store_true", help="only tell what there is")
    args = options.parse_args()
    if args.list:
        for name, (function, sizes, quick) in SCENARIOS.items():
            print(f"{name:12} {'*' if quick else ' '} {function.__doc__}")
        return
    if why := testnet.missing():
        skip(why)
    Options.is_quick = args.quick
    plan = []
    for name, (function, sizes, quick) in SCENARIOS.items():
        if args.only and name not in args.only or args.quick and not args.only and not quick:
            continue
        wanted = args.sizes or (quick or sizes[:1] if args.quick else sizes)
        plan += [(name, function, size) for size in wanted]
    for seed in range(args.seed, args.seed + args.repeat):
        run(plan, seed, args.logs)


def run(plan, seed, logs):
    try:
        trial = Trial(max(size for _, _, size in plan) + 1 + SPARES, seed, logs and os.path.join(logs, str(seed)))
    except testnet.Unavailable as unavailable:
        skip(str(unavailable))
    with trial:
        for name, function, size in plan:
            print(f"-- {name}: {size} members, seed {seed}", flush=True)
            begun = time.monotonic()
            function(trial, size)
            print(f"-- {name}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
