#!/usr/bin/env python3
"""1 GiB down and 1 GiB up through the sidecar: nothing changed on the way, and its memory stays flat, also when the
client stops reading. BIG_BODY_BYTES makes it smaller for a quick try."""

import hashlib
import os
import socket
import subprocess
import threading
import time

from sidecar import Sidecar, base_config, check, echo_app, need_tools

BYTES = int(os.environ.get("BIG_BODY_BYTES", 1 << 30))
ALLOWED_GROWTH_KIB = 32 * 1024
CHUNK = 64 * 1024


def pattern():
    """The same noise that the application makes, so that its hash can be known without asking it."""
    state, noise = 1, bytearray()
    for _ in range(2 * CHUNK):
        state = (state * 1_664_525 + 1_013_904_223) & 0xFFFFFFFF
        noise.append(state >> 24)
    return bytes(noise)


def chunks(length):
    noise = memoryview(pattern())
    for number in range((length + CHUNK - 1) // CHUNK):
        start = number * 61 % CHUNK
        yield noise[start:start + min(CHUNK, length - number * CHUNK)]


def download_hash(version, url):
    curl = subprocess.Popen(["curl", "-s", version, "--max-time", "120", url], stdout=subprocess.PIPE)
    digest = hashlib.sha256()
    while piece := curl.stdout.read1(1 << 20):
        digest.update(piece)
    check(curl.wait() == 0, f"curl {version} {url}")
    return digest.hexdigest()


def upload_answer(version, address):
    """What the application says about BYTES of the pattern, sent without a length."""
    curl = subprocess.Popen(["curl", "-s", version, "--max-time", "120", "-T", "-", f"http://{address}/sink"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for chunk in chunks(BYTES):
        curl.stdin.write(chunk)
    answer, _ = curl.communicate()
    check(curl.returncode == 0, f"curl {version} -T - to {address}")
    return answer.decode()


class Growth:
    """Watches how far the sidecar's memory rises above what it is at the start."""

    def __init__(self, sidecar):
        self.sidecar = sidecar
        self.before = self.peak = sidecar.rss_kib()
        self.over = threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        while not self.over.wait(0.02):
            self.peak = max(self.peak, self.sidecar.rss_kib())

    def __enter__(self):
        self.watcher.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.watcher.join()
        if kind is None:
            grown = self.peak - self.before
            check(grown < ALLOWED_GROWTH_KIB, f"memory grew by {grown} KiB, from {self.before} KiB")


def check_stalled_reader(address):
    host, port = address.split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        client.connect((host, int(port)))
        client.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: app\r\n\r\n" % BYTES)
        time.sleep(2)
        check(client.recv(12) == b"HTTP/1.1 200", "the answer has begun while the client does not read on")


def main():
    need_tools("curl")
    digest = hashlib.sha256()
    for chunk in chunks(BYTES):
        digest.update(chunk)
    expected = digest.hexdigest()
    with echo_app() as app, Sidecar(base_config(app)) as sidecar:
        uploaded = upload_answer("--http1.1", app)
        check(uploaded.startswith(f"bytes={BYTES} "), "the application got all of a direct upload")
        for listener, address in sidecar.listeners():
            for version in ("--http1.1", "--http2-prior-knowledge"):
                print(f"-- {listener} {version}, {BYTES >> 20} MiB each way")
                with Growth(sidecar):
                    check(download_hash(version, f"http://{address}/bytes/{BYTES}") == expected, "download unchanged")
                with Growth(sidecar):
                    check(upload_answer(version, address) == uploaded, "upload unchanged")
        with Growth(sidecar):
            check_stalled_reader(sidecar.outbound)


if __name__ == "__main__":
    main()
