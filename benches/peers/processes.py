"""Starts processes on a chosen core, reads their CPU time and memory from /proc, and ends them by pid."""

import os
import signal
import socket
import subprocess
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STOP_WITHIN_SECONDS = 5


class Failure(Exception):
    """Something the figures of a run would be worthless after."""


class Process:
    """One child and everything it forks, pinned to a core. Use as a context manager: it is gone afterwards."""

    def __init__(self, command, core, log_path):
        self.command = [str(word) for word in command]
        self.core = core
        self.log_path = log_path
        self.child = None

    def __enter__(self):
        with open(self.log_path, "wb") as log:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, {self.core}))
        return self

    def __exit__(self, *_):
        pids = tree(self.child.pid)
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                send(pid, signal_number)
            try:
                self.child.wait(STOP_WITHIN_SECONDS)
                if signal_number == signal.SIGTERM:
                    pids = [pid for pid in pids[1:] if os.path.exists(f"/proc/{pid}")]
                    if not pids:
                        break
            except subprocess.TimeoutExpired:
                continue

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def fail_if_ended(self):
        if self.child.poll() is not None:
            raise Failure(f"{self.command[0]} ended with {self.child.returncode}:\n{self.log()[-2000:]}")

    def cpu_seconds(self):
        """User and system time of all threads of the tree so far."""
        self.fail_if_ended()
        return sum(cpu_ticks(pid) for pid in tree(self.child.pid)) / TICKS_PER_SECOND

    def rss_kib(self):
        """Resident memory of the tree now."""
        self.fail_if_ended()
        return sum(rss_kib(pid) for pid in tree(self.child.pid))


class Together:
    """Processes that are measured as one. Starts and ends none of them."""

    def __init__(self, processes):
        self.processes = processes

    def cpu_seconds(self):
        return sum(process.cpu_seconds() for process in self.processes)

    def rss_kib(self):
        return sum(process.rss_kib() for process in self.processes)


def send(pid, signal_number):
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        pass


def tree(root):
    """The pids of `root` and its descendants, root first."""
    pids = [root]
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as children:
                    pids.extend(int(child) for child in children.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pids


def cpu_ticks(pid):
    # The command name is in parentheses and may hold spaces: fields are counted from the last ")".
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    utime, stime = fields[11], fields[12]
    return int(utime) + int(stime)


def rss_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def free_ports(count):
    """Ports nobody listens on now. All are held open until the last is known, so they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def wait_until(condition, seconds, what, process):
    """Polls until `condition()` is true; a child that ended or a deadline that passed is a `Failure`."""
    deadline = time.monotonic() + seconds
    while not condition():
        process.fail_if_ended()
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds} s\n{process.log()[-2000:]}")
        time.sleep(0.05)
