#!/usr/bin/env python3
"""The router of a test network (testnet.py): it reads the IPv4 packets that the hosts send each other, and passes them on
late, twice or not at all, as it is told at any moment. A process of its own, so that a busy test does not hold packets
up; it ends when its control socket closes, that is with the test, however that ends. Makes no namespaces and no devices.

The control socket carries one JSON object a line, each of which is answered by one. Chance is seeded for each direction
of each pair on its own, so what one pair loses does not depend on how much the others talk."""

import base64
import collections
import heapq
import json
import os
import random
import select
import socket
import sys
import time

# Packets that wait for their time. At 1500 bytes each this is some 50 MB, and seconds of everything that hosts can say.
MAX_WAITING = 32768
# Packets read from one device in a row: the others, and those whose time has come, must not wait for longer.
MAX_IN_A_ROW = 64
MTU = 1500
# Longest wait for anything: only a limit for what nobody has thought of.
IDLE_SECONDS = 0.5
UDP = 17


class Link:
    """What happens to packets from one host to another. Times in seconds, shares from 0 to 1."""

    def __init__(self, seed):
        self.delay = 0.0
        self.jitter = 0.0  # at most so much more or less than `delay`; packets may overtake each other
        self.loss = 0.0
        self.duplicate = 0.0
        self.is_cut = False
        self.chance = random.Random(seed).random
        self.counts = collections.Counter()

    def change(self, rule):
        for name, value in rule.items():
            setattr(self, name, value)


class Router:
    def __init__(self, control, devices, addresses, seed):
        self.control = control
        self.devices = devices
        self.hosts = {device: host for host, device in enumerate(devices)}
        self.owners = {socket.inet_aton(address): host for host, address in enumerate(addresses)}
        everyone = range(len(devices))
        self.links = [[Link(f"{seed}/{origin}/{target}") for target in everyone] for origin in everyone]
        self.waiting = []
        self.number = 0  # packets due at the same instant leave in the order in which they came
        self.strange = 0
        self.port = None
        self.captured = collections.deque()

    def run(self):
        lines = self.control.makefile("rb")
        wanted = [self.control, *self.devices]
        while True:
            ready, _, _ = select.select(wanted, [], [], self.pause())
            for device in ready:
                if device is self.control:
                    # The test sends one line and waits for the answer, so a whole line is there, and no second one.
                    line = lines.readline()
                    if not line:
                        return
                    self.control.sendall(json.dumps(self.obey(json.loads(line))).encode() + b"\n")
                else:
                    self.read(device)
            self.send_due()

    def pause(self):
        if not self.waiting:
            return IDLE_SECONDS
        return min(max(self.waiting[0][0] - time.monotonic(), 0), IDLE_SECONDS)

    def read(self, device):
        origin = self.hosts[device]
        for _ in range(MAX_IN_A_ROW):
            try:
                packet = os.read(device, MTU)
            except BlockingIOError:
                return
            self.take(origin, packet)

    def take(self, origin, packet):
        target = None
        if len(packet) >= 20 and packet[0] >> 4 == 4 and self.owners.get(packet[12:16]) == origin:
            target = self.owners.get(packet[16:20])
        if target is None:
            # IPv6, multicast, nobody's address, a forged one. A kernel says some of this by itself.
            self.strange += 1
            return
        link = self.links[origin][target]
        if self.port is not None and concerns(packet, self.port):
            self.captured.append((origin, target, packet))
        if link.is_cut:
            link.counts["cut"] += 1
            return
        if link.loss and link.chance() < link.loss:
            link.counts["lost"] += 1
            return
        self.forward(link, target, packet)
        if link.duplicate and link.chance() < link.duplicate:
            link.counts["duplicated"] += 1
            self.forward(link, target, packet)

    def forward(self, link, target, packet):
        link.counts["passed"] += 1
        link.counts["bytes"] += len(packet)
        late = link.delay + (link.jitter * (2 * link.chance() - 1) if link.jitter else 0)
        if late <= 0:
            self.deliver(link, target, packet)
        elif len(self.waiting) >= MAX_WAITING:
            link.counts["crowded_out"] += 1
        else:
            self.number += 1
            heapq.heappush(self.waiting, (time.monotonic() + late, self.number, link, target, packet))

    def send_due(self):
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, link, target, packet = heapq.heappop(self.waiting)
            self.deliver(link, target, packet)

    def deliver(self, link, target, packet):
        try:
            os.write(self.devices[target], packet)
        except OSError:
            # The queue of the device is full.
            link.counts["crowded_out"] += 1

    def obey(self, order):
        match order["do"]:
            case "rules":
                for origin, target, rule in order["rules"]:
                    self.links[origin][target].change(rule)
                return {}
            case "address":
                self.owners[socket.inet_aton(order["address"])] = order["host"]
                return {}
            case "counts":
                counts = [[dict(link.counts) for link in row] for row in self.links]
                return {"counts": counts, "strange": self.strange, "waiting": len(self.waiting)}
            case "capture":
                self.port = order["port"]
                self.captured = collections.deque(maxlen=order["most"])
                return {}
            case "captured":
                return {"packets": [(origin, target, base64.b64encode(packet).decode())
                                    for origin, target, packet in self.captured]}
            case "inject":
                link = self.links[order["host"]][order["host"]]
                for packet in order["packets"]:
                    self.deliver(link, order["host"], base64.b64decode(packet))
                return {}
        raise ValueError(order)


def concerns(packet, port):
    """Whether this is a whole UDP packet from or to this port."""
    header = (packet[0] & 15) * 4
    is_part = int.from_bytes(packet[6:8], "big") & 0x3FFF
    return packet[9] == UDP and not is_part and port in (
        int.from_bytes(packet[header:header + 2], "big"), int.from_bytes(packet[header + 2:header + 4], "big"))


def main():
    begin = json.loads(sys.argv[1])
    control = socket.socket(fileno=begin["control"])
    Router(control, begin["devices"], begin["addresses"], begin["seed"]).run()


if __name__ == "__main__":
    main()
