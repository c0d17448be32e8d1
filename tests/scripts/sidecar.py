"""Starts the echo application and a sidecar for a script, and ends them by pid. Standard library only.

A script exits 0 if all its checks hold, 77 if something it needs is missing (it says what), anything else is a
failure. The binaries come from OUTRIGGER_BIN and ECHO_APP_BIN, which run.sh sets; without them from target/.
"""

import contextlib
import copy
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SKIPPED = 77
READY_WITHIN_SECONDS = 10


def check(holds, what, detail=""):
    """Prints a check that held; ends the script, with the detail, at one that did not."""
    print(f"{'ok' if holds else 'FAILED'}: {what}", flush=True)
    if not holds:
        sys.exit(str(detail) or 1)


def skip(why):
    print(f"SKIPPED: {why}", flush=True)
    sys.exit(SKIPPED)


def need_tools(*names):
    if missing := [name for name in names if shutil.which(name) is None]:
        skip(f"not installed: {', '.join(missing)}")


def need_packages(*packages):
    """Goes on in the venv under target/ that has these PyPI packages; makes it at the first call."""
    venv = TARGET / "venv"
    python = venv / "bin/python"
    if Path(sys.prefix) != venv:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        probe = "import " + ", ".join(package for _, package in packages)
        if subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode != 0:
            names = [name for name, _ in packages]
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *names]
            if subprocess.run(install, check=False).returncode != 0:
                skip(f"cannot install {', '.join(names)} from PyPI")
        os.execv(python, [str(python), *sys.argv])


def binary(variable, name):
    """The path of one of our binaries: given, or the newest of the release and debug builds."""
    if given := os.environ.get(variable):
        return given
    built = [path for profile in ("release", "debug") if (path := TARGET / profile / name).exists()]
    if not built:
        sys.exit(f"no {name} under {TARGET}; build it first")
    return max(built, key=os.path.getmtime)


def free_ports(count):
    """Ports nobody listens on now. All are held open until the last is known, so they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in held]
    for taken in held:
        taken.close()
    return ports


def wait_for(condition, what, seconds=READY_WITHIN_SECONDS):
    """Polls until `condition()` is truthy and returns its value; ends the script when time is up."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            check(False, f"{what} within {seconds} s")
        time.sleep(0.02)
    return value


def end(child, signal_number=signal.SIGTERM, seconds=15):
    """Sends a signal to a child, waits for its end, and returns its exit code."""
    if child.poll() is None:
        child.send_signal(signal_number)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return child.returncode


def rss_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


@contextlib.contextmanager
def echo_app(name="app", workers=1):
    """The echo application; yields its address."""
    command = [binary("ECHO_APP_BIN", "examples/echo_app"), "--name", name, "--workers", str(workers)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield child.stdout.readline().split()[1]
    finally:
        end(child)


def base_config(app, protocol="auto"):
    """Routes everything to `app`, in both directions. Scripts change a copy of it."""
    outbound, inbound, admin, metrics = (f"127.0.0.1:{port}" for port in free_ports(4))
    return {
        "version": 1,
        "service": {"name": "web", "address": app},
        "workers": 1,
        "listeners": {"inbound": {"address": inbound}, "outbound": {"address": outbound}},
        "routes": [{"match": {"path_prefix": "/"}, "service": "app"}],
        "services": {"app": {"endpoints": [app], "protocol": protocol}},
        "mtls": {"mode": "disabled"},
        "admin": {"address": admin, "metrics_address": metrics},
        "telemetry": {"access_log": {"enabled": True, "path": "stdout", "only": "errors"}},
        "shutdown": {"grace": "0s", "drain_timeout": "10s"},
    }


def chained(config):
    """The same, but what leaves by the outbound listener comes back in by the inbound one."""
    config = copy.deepcopy(config)
    config["services"]["app"]["endpoints"] = [config["listeners"]["inbound"]["address"]]
    return config


class Sidecar:
    """A sidecar process. Use as a context manager: it is ready inside, and must end with exit code 0."""

    def __init__(self, config, user=None):
        """`user` is the id of the user (and group) that it runs as, if not as the script."""
        self.config = config
        self.user = user
        self.outbound = config["listeners"]["outbound"]["address"]
        self.inbound = config["listeners"]["inbound"]["address"]
        self.admin = config["admin"]["address"]
        self.metrics_address = config["admin"]["metrics_address"]
        self.directory = tempfile.TemporaryDirectory(prefix="outrigger-")
        self.path = Path(self.directory.name) / "outrigger.yaml"
        self.log_path = Path(self.directory.name) / "outrigger.log"
        self.child = None

    def listeners(self):
        return [("outbound", self.outbound), ("inbound", self.inbound)]

    def __enter__(self):
        self.write(self.config)
        program = binary("OUTRIGGER_BIN", "outrigger")
        rights = {}
        if self.user is not None:
            # Neither the build directory nor a temporary one need be open to other users.
            program = shutil.copy(program, self.directory.name)
            os.chmod(self.directory.name, 0o755)
            rights = {"user": self.user, "group": self.user, "extra_groups": []}
        with open(self.log_path, "wb") as log:
            self.child = subprocess.Popen([program, "run", "--config", self.path],
                                          stdout=log, stderr=subprocess.STDOUT, **rights)
        try:
            wait_for(self.ready_or_ended, "the sidecar is ready")
            check(self.child.poll() is None, "the sidecar runs")
        except SystemExit:
            self.give_up()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.give_up()
        else:
            code = end(self.child)
            if code != 0:
                print(self.log())
            self.directory.cleanup()
            check(code == 0, f"the sidecar ends with exit code 0 (got {code})")

    def give_up(self):
        end(self.child, signal.SIGKILL)
        print(f"--- the sidecar's log, last lines ---\n{self.log()[-4000:]}")
        self.directory.cleanup()

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def write(self, config):
        """Replaces the configuration file in one step, as an editor or a deployment tool does."""
        # JSON is YAML, and can be made from a dictionary without a library.
        text = config if isinstance(config, str) else json.dumps(config, indent=2)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.rename(self.path)

    def reload(self):
        """Asks for a reload; returns the status and the answer."""
        return ask(self.admin, "/v1/reload", method="POST", headers={"X-Outrigger": "1"})

    def ready(self):
        return ask(self.metrics_address, "/readyz")[0] == 200

    def ready_or_ended(self):
        return self.child.poll() is not None or self.ready()

    def status(self):
        return ask(self.admin, "/v1/status")[1]

    def metrics(self):
        return ask(self.metrics_address, "/metrics")[1]

    def metric(self, name):
        """The sum over all label sets of one metric; None if there is none."""
        values = [float(line.split()[-1]) for line in self.metrics().splitlines()
                  if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(values) if values else None

    def rss_kib(self):
        return rss_kib(self.child.pid)


def ask(address, path, method="GET", headers=None, body=None):
    """One HTTP/1.1 request on a fresh connection: (status, text); status 0 if nobody answers."""
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def instance(address):
    """The `x-instance` of the application that answers through `address`."""
    with urllib.request.urlopen(f"http://{address}/", timeout=10) as response:
        return response.headers["x-instance"]
