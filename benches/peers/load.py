"""Drives load with wrk and h2load, and holds idle connections. Any failed request is a `Failure`."""

import os
import re
import select
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass

from processes import Failure

UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000}


@dataclass
class Load:
    """What a load generator did."""
    requests: int
    seconds: float
    p50_us: float
    p99_us: float


def run_on(core, command, seconds):
    """Runs a load generator on `core`; one that outlives its own duration by much is ended."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 30, check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{command[0]} did not end") from error
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wrk(core, url, seconds, connections=64, headers=()):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    for header in headers:
        command += ["-H", header]
    return parse_wrk(run_on(core, command + [url], seconds))


def parse_wrk(output):
    if "Non-2xx" in output or "Socket errors" in output:
        raise Failure(f"wrk saw failed requests:\n{output}")
    requests, seconds, unit = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", output).groups()
    if int(requests) == 0:
        raise Failure(f"wrk got no answer:\n{output}")
    return Load(int(requests), float(seconds) * UNITS[unit] / 1e6,
                wrk_percentile(output, "50"), wrk_percentile(output, "99"))


def wrk_percentile(output, percent):
    value, unit = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)", output, re.MULTILINE).groups()
    return float(value) * UNITS[unit]


def h2load(core, url, seconds, connections=16, streams=16):
    """h2load prints no percentiles, but logs every request: start time, status, microseconds."""
    with tempfile.NamedTemporaryFile("r", prefix="h2load-", suffix=".tsv") as log:
        output = run_on(core, ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}",
                               f"--log-file={log.name}", url], seconds)
        done, failed = parse_h2load(output)
        rows = [line.split("\t") for line in log]
    statuses = {row[1] for row in rows}
    if failed or not rows or statuses != {"200"}:
        raise Failure(f"h2load saw failed requests, statuses {statuses}:\n{output}")
    times = sorted(int(row[2]) for row in rows)
    return Load(done, seconds, times[len(times) // 2], times[len(times) * 99 // 100])


def parse_h2load(output):
    numbers = re.search(r"requests: \d+ total, \d+ started, (\d+) done, \d+ succeeded, "
                        r"(\d+) failed, (\d+) errored, (\d+) timeout", output).groups()
    done, failed, errored, timeout = map(int, numbers)
    if "0 4xx, 0 5xx" not in output:
        failed += 1
    return done, failed + errored + timeout


REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
BATCH = 100
# Ephemeral ports are taken per source address: 5 000 each leave room for the load generators.
CONNECTIONS_PER_SOURCE = 5_000


class IdleConnections:
    """Keep-alive connections that made one request each. Use as a context manager."""

    def __init__(self, address, count):
        self.address = address
        self.count = count
        self.sockets = []

    def __enter__(self):
        while len(self.sockets) < self.count:
            batch = [self.open(len(self.sockets) + index)
                     for index in range(min(BATCH, self.count - len(self.sockets)))]
            self.sockets += batch
            ask_all(batch)
        return self

    def open(self, index):
        source = f"127.0.0.{2 + index // CONNECTIONS_PER_SOURCE}"
        return socket.create_connection(self.address, timeout=5, source_address=(source, 0))

    def fail_if_cut(self):
        """All connections must still be there, and a sample of them must still answer."""
        cut = [connection for connection in self.sockets if readable(connection)]
        if cut:
            raise Failure(f"{len(cut)} of {self.count} idle connections were closed")
        ask_all(self.sockets[::max(1, self.count // BATCH)])

    def __exit__(self, *_):
        for connection in self.sockets:
            # Reset instead of FIN: 10 000 sockets in TIME_WAIT would weigh on the next measurement.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


def ask_all(connections):
    for connection in connections:
        connection.sendall(REQUEST)
    for connection in connections:
        answer = read_answer(connection)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise Failure(f"answer on a keep-alive connection: {answer[:80]!r}")


def read_answer(connection):
    """Reads one answer, with a Content-Length or chunked (all chunks of so short a text come at once)."""
    answer = b""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        piece = connection.recv(65536)
        answer += piece
        head, separator, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not piece or separator and (len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")):
            return answer
    return b""


def readable(connection):
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
