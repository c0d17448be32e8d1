#!/usr/bin/env python3
"""The test network does what it says, so that what fails in it is the sidecar's fault: delay adds up, loss and copies are
as frequent as asked for, one way is one way, a bridge is seen from both sides that do not see each other, and what is
healed is healed. No sidecar takes part. `--seed N` draws other packets."""

import argparse
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
# pylint: disable=wrong-import-position
import testnet
from sidecar import check, skip, wait_for

PORT = 9000
PACKETS = 1000
# A share of 1000 packets is off by more than five standard deviations once in two million runs.
DEVIATIONS = 5
SERVER = f"""
import socket, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("0.0.0.0", {PORT}))
tcp = socket.create_server(("0.0.0.0", {PORT}))
def packets():
    while True:
        data, sender = udp.recvfrom(2048)
        udp.sendto(data, sender)
def connection(peer):
    with peer:
        while data := peer.recv(65536):
            peer.sendall(data)
threading.Thread(target=packets, daemon=True).start()
print("listening", flush=True)
while True:
    threading.Thread(target=connection, args=(tcp.accept()[0],), daemon=True).start()
"""


def serve(host):
    process = host.spawn([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    check(process.stdout.readline().strip() == "listening", f"{host} echoes")
    return process


def reaches(origin, target, seconds=0.5):
    """Whether a UDP packet comes back. Only for networks that lose nothing by chance."""
    with origin.udp() as sender:
        sender.settimeout(seconds)
        sender.sendto(b"?", (target.address, PORT))
        try:
            return sender.recv(16) == b"?"
        except TimeoutError:
            return False


def hears(origin, target):
    """Whether a UDP packet from one host arrives at the other, whatever becomes of an answer."""
    with origin.udp() as sender, target.udp() as receiver:
        receiver.settimeout(0.5)
        sender.sendto(b"!", receiver.getsockname())
        try:
            return receiver.recv(16) == b"!"
        except TimeoutError:
            return False


def round_trips(origin, target, count):
    """In milliseconds."""
    took = []
    with origin.udp() as sender:
        sender.settimeout(5)
        for _ in range(count):
            begun = time.perf_counter()
            sender.sendto(b"x" * 100, (target.address, PORT))
            sender.recv(2048)
            took.append((time.perf_counter() - begun) * 1000)
    return took


def arrivals(origin, target, count=PACKETS):
    """Sends numbered packets one way; returns the numbers that arrived, in order."""
    arrived = []
    with origin.udp() as sender, target.udp() as receiver:
        for number in range(count):
            sender.sendto(str(number).encode(), receiver.getsockname())
            if number % 20 == 19:
                # No faster than queues can take.
                time.sleep(0.002)
                arrived += received(receiver, 0)
        return arrived + received(receiver, 0.3)


def received(receiver, seconds):
    numbers = []
    while select.select([receiver], [], [], seconds)[0]:
        numbers.append(int(receiver.recv(16)))
    return numbers


def is_plausible(found, share, count=PACKETS):
    return abs(found - share * count) <= DEVIATIONS * (count * share * (1 - share)) ** 0.5


def everybody_reaches_everybody(network):
    unreached = [pair for pair in network.pairs() if not reaches(*pair)]
    check(not unreached, "everybody reaches everybody", unreached)
    one, two = network.hosts[:2]
    with one.connect(f"{two.address}:{PORT}") as connection:
        data = os.urandom(1 << 20)
        threading.Thread(target=connection.sendall, args=(data,)).start()
        back = bytearray()
        while len(back) < len(data):
            back += connection.recv(65536)
        check(back == data, "a megabyte goes there and back over TCP")
    check(network.counts()["crowded_out"] == 0, "nothing was crowded out")
    check(one.ask(f"127.0.0.1:{PORT}", "/")[0] == 0, "what is no HTTP is no answer")


def delay_adds_up(network):
    one, two, three = network.hosts[:3]
    network.between(one, two, delay_ms=20)
    network.one_way(one, three, delay_ms=30)
    both, forth, none = (statistics.median(round_trips(*pair, 20)) for pair in ((one, two), (one, three), (two, three)))
    # A loaded machine adds what it likes, but takes nothing away.
    check(both >= 40, f"20 ms in both directions: {both:.1f} ms there and back")
    check(forth >= 30, f"30 ms in one direction: {forth:.1f} ms there and back")
    check(none < both, f"others are not slowed down: {none:.2f} ms")
    network.between(one, two, delay_ms=20, jitter_ms=10)
    took = round_trips(one, two, 40)
    check(min(took) >= 20 and max(took) - min(took) > 5, f"20±10 ms: {min(took):.0f} to {max(took):.0f} ms")
    arrived = arrivals(one, two, 200)
    check(sorted(arrived) == list(range(200)) and arrived != sorted(arrived), "jitter lets packets overtake each other")
    network.reset()


def loss_and_copies_are_as_frequent_as_asked_for(network):
    one, two = network.hosts[:2]
    network.one_way(one, two, loss=0.2)
    found = len(arrivals(one, two))
    check(is_plausible(found, 0.8), f"of {PACKETS} packets {found} arrive at 20 % loss")
    found = len(arrivals(two, one))
    check(found == PACKETS, "none is lost on the way back")
    network.one_way(one, two, duplicate=0.05)
    found = len(arrivals(one, two)) - PACKETS
    check(is_plausible(found, 0.05), f"of {PACKETS} packets {found} come twice at 5 %")
    network.everywhere(loss=1)
    check(not reaches(one, two), "at 100 % loss nothing arrives")
    network.reset()
    check(reaches(one, two), "and then everything")


def the_same_seed_loses_the_same(seed):
    runs = []
    for _ in range(2):
        with testnet.Network(2, seed) as network:
            one, two = network.hosts
            network.everywhere(loss=0.3)
            runs.append(arrivals(one, two, 200))
    check(runs[0] == runs[1] and len(runs[0]) < 200, f"the same seed loses the same {200 - len(runs[0])} of 200 packets")


def one_way_is_one_way(network):
    one, two, three = network.hosts[:3]
    network.cut(one, two)
    check(not hears(one, two), "a cut from one to two: two does not hear one")
    check(hears(two, one), "  but one hears two")
    check(not reaches(two, one), "  whose answers do not arrive")
    check(reaches(one, three) and reaches(three, two), "  and others are not touched")
    network.heal()
    check(reaches(one, two), "  healed")


def partitions_hold_and_heal(network):
    left, bridge, right = network.hosts[:2], network.hosts[2], network.hosts[3:5]
    network.partition(left, right)
    for one in network.hosts[:5]:
        for other in network.hosts[:5]:
            together = one is other or any(one in group and other in group for group in (left, right))
            check(reaches(one, other, 0.1 if not together else 2) == together,
                  f"two halves: {one} {'reaches' if together else 'does not reach'} {other}")
    network.partition([*left, bridge], [bridge, *right])
    check(reaches(left[0], bridge) and reaches(right[0], bridge), "both sides reach the bridge")
    check(reaches(bridge, left[1]) and reaches(bridge, right[1]), "  and it reaches them")
    check(not reaches(left[0], right[0]) and not hears(right[1], left[1]), "  they do not reach each other")
    connection = left[0].connect(f"{bridge.address}:{PORT}")
    with connection:
        network.partition(left, [bridge, *right])
        cut = network.counts(left[0], bridge)["cut"]
        connection.sendall(b"held back")
        wait_for(lambda: network.counts(left[0], bridge)["cut"] > cut, "a connection meets the cut")
        network.heal()
        connection.settimeout(10)
        check(connection.recv(64) == b"held back", "a connection outlives a partition that heals")
    everybody_reaches_everybody(network)


def packets_can_be_seen_and_forged(network):
    one, two = network.hosts[:2]
    network.capture(PORT)
    network.cut(one, two)
    hears_port = one.udp()
    with hears_port:
        hears_port.sendto(b"not for you", (two.address, PORT))
        seen = wait_for(network.captured, "the packet is seen, although it is cut")
    check([(a, b) for a, b, _ in seen] == [(one, two)] and seen[0][2].endswith(b"not for you"), "and nothing else", seen)
    network.capture(None)
    network.heal()
    with two.udp() as receiver:
        receiver.settimeout(5)
        packet = bytearray(seen[0][2])
        packet[22:24] = receiver.getsockname()[1].to_bytes(2, "big")
        packet[26:28] = b"\0\0"  # no checksum, which in UDP is one that always holds
        network.inject(two, [bytes(packet)])
        data, sender = receiver.recvfrom(64)
        check((data, sender[0]) == (b"not for you", one.address), "sent again, it still comes from whom it came")


def processes_can_be_stopped(network):
    one, two = network.hosts[:2]
    process = one.spawn([sys.executable, "-c", SERVER.replace(str(PORT), str(PORT + 1))], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()

    def answers():
        with two.udp() as sender:
            sender.settimeout(0.3)
            sender.sendto(b"?", (one.address, PORT + 1))
            try:
                return sender.recv(16) == b"?"
            except (TimeoutError, ConnectionRefusedError):
                return False
    check(answers(), "a process answers")
    testnet.stop(process)
    check(not answers(), "  stopped, it does not")
    testnet.go_on(process)
    wait_for(answers, "  it goes on")
    testnet.kill(process)
    check(not answers(), "  killed, it is gone")


def clocks_can_be_ahead(network):
    host = network.hosts[0]
    say = [sys.executable, "-c", "import time; print(time.monotonic(), time.time())"]

    def clocks(**ahead):
        process = host.spawn(say, stdout=subprocess.PIPE, text=True, **ahead)
        said = [float(word) for word in process.communicate(timeout=10)[0].split()]
        return said[0] - time.monotonic(), said[1] - time.time()
    if testnet.can_shift_monotonic():
        monotonic, wall = clocks(monotonic_ahead=5000)
        check(abs(monotonic - 5000) < 60 and abs(wall) < 60, "a monotonic clock can be ahead of the others")
    else:
        print("NOT TRIED: this kernel has no time namespaces, so no other monotonic clock")
    if testnet.faketime_library():
        for ahead in (3600, -3600):
            monotonic, wall = clocks(wall_ahead=ahead)
            check(abs(monotonic) < 60 and abs(wall - ahead) < 60, f"a wall clock can be {ahead} s ahead of the others")
    else:
        print("NOT TRIED: not installed: faketime, so no other wall clock")


def whatever_happens_nothing_is_left(seed):
    """Of a test that is ended by a signal, and of one that is killed."""
    def namespaces():
        return {path.name for path in testnet.NAMESPACES.glob("outrigger-*")}
    program = (f"import sys, time; sys.path.insert(0, {str(Path(testnet.__file__).parent)!r}); import testnet\n"
               f"network = testnet.Network(2, {seed}); process = network.hosts[0].spawn(['sleep', '1000'])\n"
               "print(process.pid, network.router.pid, flush=True); time.sleep(1000)")
    before = namespaces()
    for number, is_tidy in ((signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGKILL, False)):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True) as child:
            pids = child.stdout.readline().split()
            check(len(namespaces() - before) == 2, "a test has two hosts")
            child.send_signal(number)
            child.wait(20)
        wait_for(lambda: all(testnet.state(f"/proc/{pid}") in "XZ" for pid in pids), f"{number.name}: its processes end")
        if is_tidy:
            check(namespaces() == before, "  its namespaces are gone", namespaces() - before)
    check(len(namespaces() - before) == 2, "  a test that is killed leaves its namespaces")
    testnet.Network(1, seed).close()
    check(namespaces() <= before, "  but the next one removes them", namespaces() - before)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    seed = options.parse_args().seed
    if why := testnet.missing():
        skip(why)
    try:
        network = testnet.Network(5, seed)
    except testnet.Unavailable as unavailable:
        skip(str(unavailable))
    with network:
        for host in network.hosts:
            serve(host)
        everybody_reaches_everybody(network)
        delay_adds_up(network)
        loss_and_copies_are_as_frequent_as_asked_for(network)
        one_way_is_one_way(network)
        partitions_hold_and_heal(network)
        packets_can_be_seen_and_forged(network)
        processes_can_be_stopped(network)
        clocks_can_be_ahead(network)
    the_same_seed_loses_the_same(seed)
    whatever_happens_nothing_is_left(seed)


if __name__ == "__main__":
    main()
