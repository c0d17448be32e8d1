#!/usr/bin/env python3
"""The clock of a whole mesh jumps, under requests: ahead to where certificates are due, back to before they were made,
and ahead to where all have expired, and back. The authority's own certificates are then of a time that has not come.
Needs libfaketime."""

import glob
import os
import tempfile
import threading
from pathlib import Path

from rotation import RENEWALS, Desk, config
from sidecar import Sidecar, ask, check, echo_app, free_ports, skip, wait_for

LIBRARIES = ["/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1"]
LIFE = "24h"
# Behind every time at which a certificate of 24 hours may be due for renewal, and before its end.
DUE, EXPIRED = "+20h", "+5d"
# Time for the breakers, which keep away from those who could prove nothing.
WELL_WITHIN_SECONDS = 30


class Clock:
    """What all processes that are started from now on take for the time, as an offset."""

    def __init__(self, library, directory):
        self.path = Path(directory) / "clock"
        self.set("+0")
        os.environ.update({"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(self.path), "FAKETIME_NO_CACHE": "1",
                           "FAKETIME_DONT_FAKE_MONOTONIC": "1"})

    def set(self, offset):
        fresh = self.path.with_suffix(".new")
        fresh.write_text(offset, encoding="ascii")
        fresh.rename(self.path)


class Caller:
    """One request after the other until `stop`, each on a connection of its own."""

    def __init__(self, address):
        self.address, self.answers, self.ended = address, [], threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.ended.wait(0.01):
            self.answers.append(ask(self.address, "/")[0])

    def more(self, count=50):
        """Waits for as many answers from now on, and returns them."""
        seen = len(self.answers)
        wait_for(lambda: len(self.answers) >= seen + count, f"{count} answers")
        return set(self.answers[seen:])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def renewals(sidecar):
    """How often it renewed with success."""
    lines = [line for line in sidecar.metrics().splitlines() if line.startswith(RENEWALS) and 'result="ok"' in line]
    return sum(float(line.split()[-1]) for line in lines)


def set_and_renew(clock, offset, sidecars):
    before = {name: renewals(sidecar) for name, sidecar in sidecars.items()}
    clock.set(offset)
    for name, sidecar in sidecars.items():
        wait_for(lambda: renewals(sidecar) > before[name], f"{name} renews at {offset}", WELL_WITHIN_SECONDS)
    check(True, f"{', '.join(sidecars)} renewed at {offset}")


def jump(clock, sidecars, caller):
    set_and_renew(clock, DUE, sidecars)
    check(caller.more() == {200}, "ahead, every request is served")
    clock.set("+0")
    check(caller.more() == {200}, "back, every request is served over the connections that there are")
    clock.set(DUE)
    check(set(caller.answers) == {200}, f"{len(caller.answers)} requests over three jumps, none failed")


def expire(clock, sidecars, caller):
    # The holder of the authority helps itself, at once.
    set_and_renew(clock, EXPIRED, {"desk": sidecars["desk"]})
    for name in ("api", "web"):
        sidecar = sidecars[name]
        wait_for(lambda: "expired" in ask(sidecar.metrics_address, "/readyz")[1], f"{name} is not ready, and says why")
    wait_for(lambda: 200 not in caller.more(), "nobody believes an expired certificate")
    check(all(sidecar.child.poll() is None for sidecar in sidecars.values()), "nobody gives up")
    set_and_renew(clock, DUE, {"desk": sidecars["desk"]})
    wait_for(lambda: caller.more() == {200}, "all is well when the clock is", WELL_WITHIN_SECONDS)
    for name, sidecar in sidecars.items():
        wait_for(sidecar.ready, f"{name} is ready")


def main():
    if not (libraries := [path for pattern in LIBRARIES for path in glob.glob(pattern)]):
        skip("not installed: libfaketime")
    with tempfile.TemporaryDirectory(prefix="outrigger-") as directory:
        clock = Clock(libraries[0], directory)
        desk = Desk(directory)
        desk.ca("init", "--trust-domain", "mesh.local", "--ttl", LIFE)
        address = f"127.0.0.1:{free_ports(1)[0]}"
        place = {"dir": str(desk.dir), "key_file": str(desk.key), "address": address}
        with echo_app() as app:
            holder = config("desk", app, desk, leaf_ttl=LIFE, authority=place)
            api = config("api", app, desk, leaf_ttl=LIFE, servers=[address], token_file=desk.token("api"))
            web = config("web", app, desk, leaf_ttl=LIFE, servers=[address], token_file=desk.token("web"))
            web["services"] = {"api": {"endpoints": [api["listeners"]["inbound"]["address"]]}}
            web["routes"] = [{"match": {"path_prefix": "/"}, "service": "api"}]
            with Sidecar(holder) as authority, Sidecar(api) as called, Sidecar(web) as calling:
                sidecars = {"desk": authority, "api": called, "web": calling}
                with Caller(calling.outbound) as caller:
                    check(caller.more() == {200}, "at first, every request is served")
                    jump(clock, sidecars, caller)
                    expire(clock, sidecars, caller)
                    late = config("late", app, desk, leaf_ttl=LIFE, servers=[address], token_file=desk.token("late"))
                    with Sidecar(late):
                        check(True, "the authority is believed, and signs")


if __name__ == "__main__":
    main()
