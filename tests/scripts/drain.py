#!/usr/bin/env python3
"""SIGTERM under load: readiness fails first, a client that honours `Connection: close` sees no failed request, and
the exit code is 0. A second signal ends the process at once."""

import http.client
import signal
import subprocess
import threading
import time

from sidecar import Sidecar, ask, base_config, check, echo_app, end, wait_for

CLIENTS = 24
GRACE_SECONDS = 1


class Client(threading.Thread):
    """Sends one request after the other on a keep-alive connection until it is told that the connection closes."""

    def __init__(self, address, path):
        super().__init__(daemon=True)
        self.address = address
        self.path = path
        self.done = 0
        self.told_to_close = False
        self.failure = None

    def run(self):
        host, port = self.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20)
        try:
            while not self.told_to_close:
                connection.request("GET", self.path)
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    raise OSError(f"status {response.status}")
                self.told_to_close = response.will_close
                self.done += 1
        except (OSError, http.client.HTTPException) as error:
            self.failure = f"request {self.done + 1} of {self.path}: {error!r}"
        finally:
            connection.close()


def http2_download(address):
    """A download over HTTP/2 that is under way when the signal comes."""
    return subprocess.Popen(["curl", "-s", "--http2-prior-knowledge", "--limit-rate", "8M", "--max-time", "30",
                             "-o", "/dev/null", "-w", "%{size_download}", f"http://{address}/bytes/16000000"],
                            stdout=subprocess.PIPE, text=True)


def check_drain(config):
    config["shutdown"] = {"grace": f"{GRACE_SECONDS}s", "drain_timeout": "15s"}
    with Sidecar(config) as sidecar:
        clients = [Client(sidecar.listeners()[number % 2][1], ["/", "/delay/300", "/bytes/1000000"][number % 3])
                   for number in range(CLIENTS)]
        for client in clients:
            client.start()
        download = http2_download(sidecar.outbound)
        wait_for(lambda: all(client.done >= 2 for client in clients), "all clients are at work")
        begun = time.monotonic()
        sidecar.child.send_signal(signal.SIGTERM)
        wait_for(lambda: ask(sidecar.metrics_address, "/readyz")[0] == 503, "readiness fails during the grace period",
                 GRACE_SECONDS)
        code = sidecar.child.wait(20)
        took = time.monotonic() - begun
        for client in clients:
            client.join(20)
        failures = [client.failure for client in clients if client.failure]
        check(not failures, f"no failed request: {failures}")
        check(all(client.told_to_close for client in clients), "every client was told to close")
        size, _ = download.communicate(timeout=30)
        check(download.returncode == 0 and size == "16000000", f"the HTTP/2 download is complete ({size})")
        check(code == 0 and took >= GRACE_SECONDS, f"exit code {code} after {took:.1f} s")
        check(sum(client.done for client in clients) > CLIENTS, "there was load")


def check_second_signal(config):
    """The context manager would ask for exit code 0, which only a completed drain has."""
    config["shutdown"] = {"grace": "0s", "drain_timeout": "30s"}
    sidecar = Sidecar(config).__enter__()
    try:
        client = Client(sidecar.outbound, "/delay/20000")
        client.start()
        time.sleep(0.3)
        sidecar.child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        check(sidecar.child.poll() is None, "a request under way holds the exit back")
        begun = time.monotonic()
        sidecar.child.send_signal(signal.SIGTERM)
        code = sidecar.child.wait(5)
        check(time.monotonic() - begun < 2, f"a second signal ends it at once (exit code {code})")
    finally:
        end(sidecar.child, signal.SIGKILL)
        sidecar.directory.cleanup()


def main():
    with echo_app() as app:
        check_drain(base_config(app))
        check_second_signal(base_config(app))


if __name__ == "__main__":
    main()
