"""A test network on one machine: hosts that are network namespaces, and between them a router (router.py) that delays,
loses, doubles and cuts what they send each other. The kernels of test machines often have no netem, and netem knows no
partitions; a process that moves the packets needs TUN devices only.

    with Network(3, seed=1) as network:
        one, two, three = network.hosts
        network.everywhere(delay_ms=20, jitter_ms=10, loss=0.05)
        process = one.spawn(["outrigger", "run"], log="one.log")
        network.partition([one, two], [three])
        status, text = one.ask("127.0.0.1:15000", "/v1/status")

Needs root, /dev/net/tun and iproute2; `Unavailable` says what is missing. Nothing outside of the namespaces is changed.
They and what runs in them end with the test, and those of a test that was killed are removed by the next one. Standard
library only."""

import atexit
import base64
import contextlib
import ctypes
import fcntl
import glob
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
DEVICE = "net0"
SUBNET = "10.77.0"
MOST_HOSTS = 200
MTU = 1500
NAMES = re.compile(r"outrigger-(\d+)-\d+-\d+")
NAMESPACES = Path("/run/netns")
TOOLS = ("ip", "nsenter", "setpriv")
LIBC = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """This machine cannot have a test network; says why."""


def missing():
    """Why this machine cannot have a test network; None if it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(absent)}"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"cannot open /dev/net/tun: {error.strerror}"
    return None


def can_shift_monotonic():
    """Whether processes here can have a monotonic clock of their own (a time namespace)."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--time", "--monotonic", "1000", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def faketime_library():
    """The library that gives a process another wall clock (Debian's package `libfaketime`); None if it is not there."""
    found = sorted(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1") + glob.glob("/usr/lib/faketime/libfaketimeMT.so.1"))
    return found[0] if found else None


class Network:
    """Hosts 1 to `count`, all of which reach each other at once until something else is said. Rules may change at any
    time, and hold for packets that are sent from then on."""

    made = 0

    def __init__(self, count, seed=1):
        if why := missing():
            raise Unavailable(why)
        if not 1 <= count <= MOST_HOSTS:
            raise ValueError(f"a network has 1 to {MOST_HOSTS} hosts")
        remove_what_the_dead_left()
        self.seed = seed
        self.hosts = []
        self.router = None
        self.lock = threading.Lock()
        self.is_closed = False
        Network.made += 1
        end_in_good_order()
        atexit.register(self.close)
        devices = []
        try:
            for number in range(1, count + 1):
                host = Host(self, number, f"outrigger-{os.getpid()}-{Network.made}-{number}")
                self.hosts.append(host)
                devices.append(host.make())
            self.start_router(devices)
        except BaseException:
            self.close()
            raise
        finally:
            # The router has them; with its end the devices are gone.
            for device in devices:
                os.close(device)

    def start_router(self, devices):
        ours, theirs = socket.socketpair()
        begin = {"control": theirs.fileno(), "devices": devices, "seed": self.seed,
                 "addresses": [host.address for host in self.hosts]}
        command = [sys.executable, Path(__file__).with_name("router.py"), json.dumps(begin)]
        self.router = subprocess.Popen(command, pass_fds=[theirs.fileno(), *devices], start_new_session=True)
        theirs.close()
        ours.settimeout(30)
        self.control = ours
        self.answers = ours.makefile("rb")
        self.tell("counts")
        with contextlib.suppress(OSError):
            # What a loaded machine does to the router looks like what a network does.
            os.setpriority(os.PRIO_PROCESS, self.router.pid, -10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends everything that runs in the hosts, then removes them. May be called again."""
        if self.is_closed:
            return
        self.is_closed = True
        for host in self.hosts:
            host.end_all()
        if self.router is not None:
            self.control.close()
            self.answers.close()
            try:
                self.router.wait(5)
            except subprocess.TimeoutExpired:
                self.router.kill()
                self.router.wait()
        for host in self.hosts:
            host.remove()
        atexit.unregister(self.close)

    def tell(self, what, **more):
        with self.lock:
            try:
                self.control.sendall(json.dumps({"do": what, **more}).encode() + b"\n")
                answer = self.answers.readline()
            except OSError as error:
                raise RuntimeError(f"the router does not answer: {error}") from error
        if not answer:
            raise RuntimeError("the router has ended; what it said last is on standard error")
        return json.loads(answer)

    def rules(self, pairs, **faults):
        self.tell("rules", rules=[[a.index, b.index, faults] for a, b in pairs])

    def pairs(self):
        return [(a, b) for a in self.hosts for b in self.hosts if a is not b]

    def one_way(self, origin, target, **faults):
        """What happens to packets from `origin` to `target`, see `faults`."""
        self.rules([(origin, target)], **faults_of(**faults))

    def between(self, one, other, **faults):
        """The same in both directions."""
        self.rules([(one, other), (other, one)], **faults_of(**faults))

    def everywhere(self, **faults):
        """The same between all hosts."""
        self.rules(self.pairs(), **faults_of(**faults))

    def cut(self, origin, target):
        """Nothing from `origin` arrives at `target` any more; what `target` sends still arrives."""
        self.rules([(origin, target)], is_cut=True)

    def partition(self, *groups):
        """Hosts reach each other if they are together in at least one group. Somebody in two of them is a bridge: seen
        from both sides, which do not see each other. Who is in no group is alone."""
        together = {(a, b) for group in groups for a in group for b in group}
        self.rules([pair for pair in self.pairs() if pair in together], is_cut=False)
        self.rules([pair for pair in self.pairs() if pair not in together], is_cut=True)

    def heal(self):
        """Mends all cuts. Delay and loss stay as they are."""
        self.rules(self.pairs(), is_cut=False)

    def reset(self):
        """As at the beginning."""
        self.heal()
        self.everywhere()

    def counts(self, origin=None, target=None):
        """How many packets were `passed` (and `bytes`), `lost`, `cut`, `duplicated`, or `crowded_out` because too many
        were under way: between two hosts, from or to one, or in all."""
        sums = {"passed": 0, "bytes": 0, "lost": 0, "cut": 0, "duplicated": 0, "crowded_out": 0}
        for a, row in enumerate(self.tell("counts")["counts"]):
            for b, counts in enumerate(row):
                if origin in (None, self.hosts[a]) and target in (None, self.hosts[b]):
                    for name, count in counts.items():
                        sums[name] += count
        return sums

    def capture(self, port, most=4096):
        """Keeps the last `most` UDP packets from or to `port` that hosts send from now on, also those that get lost;
        None stops that."""
        self.tell("capture", port=port, most=most)

    def captured(self):
        """The packets that were kept: (from, to, whole IPv4 packet)."""
        return [(self.hosts[a], self.hosts[b], base64.b64decode(packet))
                for a, b, packet in self.tell("captured")["packets"]]

    def inject(self, target, packets):
        """Whole IPv4 packets arrive at `target`, from whomever they say they are."""
        self.tell("inject", host=target.index, packets=[base64.b64encode(packet).decode() for packet in packets])


def faults_of(delay_ms=0, jitter_ms=0, loss=0, duplicate=0):
    """`delay_ms`, at random `jitter_ms` more or less, in one direction; shares of packets that are lost or come twice."""
    if not 0 <= jitter_ms <= delay_ms and jitter_ms or not 0 <= loss <= 1 or not 0 <= duplicate <= 1:
        raise ValueError("jitter is at most the delay; shares are from 0 to 1")
    return {"delay": delay_ms / 1000, "jitter": jitter_ms / 1000, "loss": loss, "duplicate": duplicate}


class Host:
    """One host: an address, and processes of its own. `127.0.0.1` is its own, too."""

    def __init__(self, network, number, namespace):
        self.network = network
        self.index = number - 1
        self.namespace = namespace
        self.address = f"{SUBNET}.{number}"
        self.processes = []

    def __repr__(self):
        return self.address

    def make(self):
        """Makes the namespace and its device, whose descriptor it returns."""
        ip("netns", "add", self.namespace)
        with self.inside():
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
            with contextlib.suppress(OSError):
                # Only spares the router what nobody listens to.
                Path(f"/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6").write_text("1", encoding="ascii")
        for command in (["addr", "add", f"{self.address}/24", "dev", DEVICE], ["link", "set", DEVICE, "mtu", str(MTU), "up"],
                        ["link", "set", "lo", "up"]):
            ip("-n", self.namespace, *command)
        return device

    def remove(self):
        if (NAMESPACES / self.namespace).exists():
            ip("netns", "del", self.namespace)

    def add_address(self, address):
        """One more address in the network's own range."""
        ip("-n", self.namespace, "addr", "add", f"{address}/24", "dev", DEVICE)
        self.network.tell("address", host=self.index, address=address)

    @contextlib.contextmanager
    def inside(self):
        """Sockets that this thread makes in here are the host's, for as long as they live."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            away = os.open(NAMESPACES / self.namespace, os.O_RDONLY)
            try:
                enter(away)
            finally:
                os.close(away)
            try:
                yield
            finally:
                enter(home)
        finally:
            os.close(home)

    def connect(self, address, timeout=10):
        """A TCP connection from this host."""
        where, port = address.rsplit(":", 1)
        with self.inside():
            return socket.create_connection((where, int(port)), timeout=timeout)

    def udp(self, port=0):
        """A UDP socket at this host's address."""
        with self.inside():
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((self.address, port))
        return made

    def http(self, address, timeout=10):
        """An `http.client` connection from this host, not yet made."""
        return Http(self, address, timeout)

    def ask(self, address, path, method="GET", headers=None, body=None, timeout=10):
        """One HTTP request on a fresh connection: (status, text); status 0 if nobody answers."""
        connection = self.http(address, timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def command(self, arguments, monotonic_ahead=0, wall_ahead=0):
        """The command that runs another one here, which then has the same process id. Its monotonic clock, and its wall
        clock, can be some seconds ahead. It is killed when the thread ends that started it."""
        # Whoever was orphaned before it could ask to be killed then, ends by itself.
        made = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
        if monotonic_ahead:
            made += ["unshare", "--time", "--monotonic", str(monotonic_ahead), "--boottime", str(monotonic_ahead)]
        made += ["nsenter", f"--net={NAMESPACES / self.namespace}"]
        if wall_ahead:
            made += ["env", f"LD_PRELOAD={faketime_library()}", f"FAKETIME={wall_ahead:+d}s",
                     "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        return made + [str(argument) for argument in arguments]

    def spawn(self, arguments, log=None, monotonic_ahead=0, wall_ahead=0, **more):
        """Starts a process here; what it says is appended to `log`, if given. It is ended with the network."""
        if log is not None:
            with open(log, "ab") as file:
                output = {"stdout": file, "stderr": subprocess.STDOUT}
                return self.spawn(arguments, None, monotonic_ahead, wall_ahead, **output, **more)
        command = self.command(arguments, monotonic_ahead, wall_ahead)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **more)
        self.processes.append(process)
        return process

    def run(self, *arguments, timeout=30, **more):
        """Runs a command here to its end."""
        command = self.command(arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **more)

    def end_all(self):
        """Kills everything that was started here."""
        for process in self.processes:
            kill(process)
        self.processes.clear()


class Http(http.client.HTTPConnection):
    def __init__(self, host, address, timeout):
        where, port = address.rsplit(":", 1)
        super().__init__(where, int(port), timeout=timeout)
        self.of = host

    def connect(self):
        self.sock = self.of.connect(f"{self.host}:{self.port}", self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def kill(process):
    """Ends a process at once, also one that is stopped, and waits for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()


def stop(process, seconds=5):
    """Stops a process; returns when all of it stands still."""
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + seconds
    while any(state(task) not in "TtXZ" for task in glob.glob(f"/proc/{process.pid}/task/*")):
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {process.pid} does not stop")
        time.sleep(0.001)


def go_on(process):
    """Lets a stopped process go on."""
    process.send_signal(signal.SIGCONT)


def state(task):
    try:
        text = Path(task, "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return text.rpartition(")")[2].split()[0]


def enter(descriptor):
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def remove_what_the_dead_left():
    """A test that was killed leaves namespaces, which bear its process id."""
    for path in NAMESPACES.glob("outrigger-*"):
        if (named := NAMES.fullmatch(path.name)) and not Path("/proc", named[1]).exists():
            # Somebody else may be just as tidy.
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)


def end_in_good_order():
    """Signals that would end the process without a word end it so that everything is removed."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
