#!/usr/bin/env python3
"""Failing endpoints under a steady load: no request fails that could be saved, a dead service is not stampeded, and
a deadline holds over three sidecars."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from sidecar import Sidecar, ask, base_config, check, end, free_ports, wait_for

RATE = int(os.environ.get("OUTRIGGER_RESILIENCE_RATE", "500"))
OPEN_SECONDS = 1
PROBES = 1


class Flaky:
    """One instance of flaky_app.py."""

    def __init__(self):
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.child = None
        self.start()

    def start(self):
        command = [sys.executable, Path(__file__).with_name("flaky_app.py"), "--port", self.address.split(":")[1]]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        check(self.child.stdout.readline().startswith("listening"), "an instance listens")

    def mode(self, mode):
        check(ask(self.address, f"/mode/{mode}", method="PUT")[0] == 200, f"an instance is told to be {mode}")

    def seen(self):
        return json.loads(ask(self.address, "/seen")[1])

    def kill(self):
        self.child.kill()
        self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.child)


class Load:
    """Requests at a constant rate, however long each takes, over connections that are kept."""

    def __init__(self, address, rate):
        self.host, port = address.split(":")
        self.port = int(port)
        self.rate = rate
        self.idle = []
        self.done = 0
        self.failures = []

    async def one(self):
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(self.host, self.port)
            writer.write(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
            head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
            length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            if " 200 " not in head.split("\r\n")[0]:
                self.failures.append(head)
            self.idle.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            self.failures.append(repr(error))
        self.done += 1

    async def run(self, seconds, plan):
        """`plan`: (second, action) pairs, in order."""
        begun, tasks, plan = time.monotonic(), set(), list(plan)
        loop = asyncio.get_running_loop()
        for number in range(int(seconds * self.rate)):
            due = begun + number / self.rate
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            while plan and time.monotonic() - begun >= plan[0][0]:
                loop.run_in_executor(None, plan.pop(0)[1])
            task = asyncio.create_task(self.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for _, writer in self.idle:
            writer.close()


def load(address, seconds, plan=(), rate=RATE):
    run = Load(address, rate)
    asyncio.run(run.run(seconds, plan))
    return run


def metric(sidecar, name, *labels):
    lines = [line for line in sidecar.metrics().splitlines() if line.startswith(name + "{")]
    return sum(float(line.split()[-1]) for line in lines if all(label in line for label in labels))


def config_for(endpoints, **service):
    config = base_config(endpoints[0])
    config["services"]["app"] = {"endpoints": endpoints, **service}
    return config


def no_request_fails(seconds=30):
    """One instance is killed, one answers 503 for a while, one hangs for a while."""
    with Flaky() as dead, Flaky() as failing, Flaky() as hanging:
        # In turn: a policy that looks at latency might never meet the one that hangs.
        config = config_for([dead.address, failing.address, hanging.address], load_balancer={"policy": "round_robin"})
        config["routes"][0]["retry"] = {"attempts": 3, "retry_on": ["connect-failure", "refused-stream", "reset", "gateway-error"],
                                        "per_try_timeout": "300ms"}
        plan = [(4, dead.kill),
                (9, lambda: failing.mode("error")), (14, lambda: failing.mode("ok")),
                (20, lambda: hanging.mode("hang")), (25, lambda: hanging.mode("ok"))]
        with Sidecar(config) as sidecar:
            run = load(sidecar.outbound, seconds, plan)
            check(run.done == seconds * RATE and not run.failures,
                  f"{run.done} requests, {len(run.failures)} failed", run.failures[:3])
            for reason in ("connect", "status", "timeout"):
                saved = metric(sidecar, "outrigger_retries_total", f'reason="{reason}"')
                check(saved > 0, f"{saved:.0f} rescues are explained by `{reason}`")


def a_dead_service_is_left_alone():
    """Every attempt fails: the budget bounds the attempts, the breaker the rest, and both let go afterwards."""
    with Flaky() as app:
        app.mode("error")
        breaker = {"open_time": f"{OPEN_SECONDS}s", "max_open_time": "2s", "half_open_requests": PROBES}
        config = config_for([app.address], circuit_breaker=breaker)
        config["routes"][0]["retry"] = {"attempts": 3, "retry_on": ["5xx"]}
        with Sidecar(config) as sidecar:
            run = load(sidecar.outbound, 12, rate=100)
            seen = app.seen()["seen"]
            check(len(run.failures) == run.done, "every request fails")
            check(seen <= 1.25 * run.done, f"{seen} attempts for {run.done} requests")
            opened = metric(sidecar, "outrigger_circuit_breaker_transitions_total", 'to="open"')
            check(opened >= 1, f"the breaker opened {opened:.0f} times")
            # Until it opened for the first time, a window's worth of attempts may have gone out.
            check(seen <= 60 + PROBES * opened, f"{seen} attempts: then only {PROBES} probe for each time it opened")
            app.mode("ok")
            begun = time.monotonic()
            wait_for(lambda: ask(sidecar.outbound, "/")[0] == 200, "the service is back", 2 * 2 * 1.5 + 1)
            check(True, f"back {time.monotonic() - begun:.1f} s after the service")


def a_deadline_holds_over_three_sidecars():
    """The client allows one second; three sidecars and an application that hangs are in its way."""
    with Flaky() as app:
        last = base_config(app.address)
        # Everything hangs; the breaker would answer sooner than the deadline.
        middle = config_for([last["listeners"]["inbound"]["address"]], circuit_breaker="none")
        first = config_for([middle["listeners"]["outbound"]["address"]], circuit_breaker="none")
        with Sidecar(last), Sidecar(middle), Sidecar(first) as entrance:
            headers = {"x-request-timeout-ms": "1000"}
            check(ask(entrance.outbound, "/", headers=headers)[0] == 200, "the way is open")
            left = int(app.seen()["timeout"])
            check(900 < left < 1000, f"the application saw that {left} ms were left")
            app.mode("hang")
            worst = 0
            for _ in range(10):
                begun = time.monotonic()
                status, _ = ask(entrance.outbound, "/", headers=headers)
                worst = max(worst, time.monotonic() - begun)
                check(status == 504, "the deadline is answered with 504")
            check(worst <= 1.05, f"the slowest of 10 took {worst * 1000:.0f} ms")


def main():
    parts = {"rescue": no_request_fails, "breaker": a_dead_service_is_left_alone,
             "deadline": a_deadline_holds_over_three_sidecars}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
