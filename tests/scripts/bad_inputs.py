#!/usr/bin/env python3
"""Malformed, ambiguous, oversize, silent and slow clients, over raw sockets. Each gets the answer it deserves, none
reaches the application with its ambiguity, and a well-behaved client beside them never notices."""

import os
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass

from sidecar import Sidecar, base_config, check, echo_app, rss_kib

END = b" HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK = b"1\r\nx\r\n0\r\n\r\n"
ANSWER_WITHIN_SECONDS = 5


@dataclass
class Case:
    """A request as bytes, and what must come back."""
    name: str
    raw: bytes
    statuses: tuple          # the answers' statuses, each alternative as a tuple of all answers
    holds: tuple = ()        # what the answer must contain
    lacks: tuple = ()        # what it must not contain


def refused(name, raw, *statuses):
    """Answered with one of `statuses` by the proxy itself, and the connection closed."""
    return Case(name, raw, tuple((status,) for status in statuses or (400,)), lacks=(b"x-instance",))


def unroutable(name, raw):
    """Refused, but well-formed: the connection may go on."""
    return Case(name, raw, ((400,),), (b"proxy-status",))


def served(name, raw, *, answers=1, holds=(), lacks=()):
    return Case(name, raw, ((200,) * answers,), (b"x-instance", *holds), lacks)


def get(lines=b"", target=b"/headers"):
    return b"GET " + target + END + lines + b"\r\n"


def post(lines, target=b"/sink"):
    return b"POST " + target + END + lines


FRAMING = [
    refused("Content-Length and Transfer-Encoding", post(b"Content-Length: 4\r\n" + CHUNKED + ONE_CHUNK)),
    refused("Content-Length twice, equal", post(b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx")),
    refused("Content-Length twice, different", post(b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy")),
    refused("Content-Length as a list", post(b"Content-Length: 1, 1\r\n\r\nx")),
    refused("Content-Length +1", post(b"Content-Length: +1\r\n\r\nx")),
    refused("Content-Length empty", post(b"Content-Length: \r\n\r\n")),
    refused("Content-Length over 2^63", post(b"Content-Length: 9223372036854775809\r\n\r\n")),
    refused("Transfer-Encoding: identity, chunked", post(b"Transfer-Encoding: identity, chunked\r\n\r\n" + ONE_CHUNK),
            400, 501),
    refused("Transfer-Encoding: gzip, chunked", post(b"Transfer-Encoding: gzip, chunked\r\n\r\n" + ONE_CHUNK),
            400, 501),
    refused("Transfer-Encoding twice", post(b"Transfer-Encoding: chunked\r\n" + CHUNKED + ONE_CHUNK), 400, 501),
    refused("Transfer-Encoding: xchunked", post(b"Transfer-Encoding: xchunked\r\n\r\n" + ONE_CHUNK), 400, 501),
    refused("space before the colon", post(b"Transfer-Encoding : chunked\r\n\r\n" + ONE_CHUNK)),
    refused("Transfer-Encoding on HTTP/1.0", b"POST /sink HTTP/1.0\r\nHost: a\r\n" + CHUNKED + b"0\r\n\r\n"),
    refused("chunk line ends with LF", post(CHUNKED + b"1\nx\r\n0\r\n\r\n")),
    refused("chunk size 0x1", post(CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n")),
    refused("chunk size overflows", post(CHUNKED + b"ffffffffffffffff1\r\nx\r\n0\r\n\r\n")),
    refused("LF in a chunk extension", post(CHUNKED + b"1;a\nb\r\nx\r\n0\r\n\r\n")),
    served("a body on GET", get(b"Content-Length: 1\r\n") + b"x"),
    served("bytes after the body are the next request", post(b"Content-Length: 1\r\n\r\nx") + get(), answers=2),
    served("two pipelined requests", get() * 2, answers=2),
]

LINES = [
    refused("folded field", get(b"X: a\r\n b\r\n")),
    refused("lines end with LF", b"GET /headers HTTP/1.1\nHost: a\n\n"),
    refused("CR in a value", get(b"X: a\rb\r\n")),
    refused("NUL in a value", get(b"X: a\0b\r\n")),
    refused("field without a name", get(b": a\r\n")),
    refused("HTTP/1.2", b"GET /headers HTTP/1.2\r\nHost: a\r\n\r\n", 400, 505),
    refused("HTTP/0.9", b"GET /headers\r\n\r\n", 400, 505),
    Case("empty lines before the request", b"\r\n\r\n" + get(), ((200,), (400,))),
    refused("101 fields", get(b"".join(b"X%d: a\r\n" % number for number in range(101))), 431),
    refused("a field of 100 KiB", get(b"X: " + b"a" * 102_400 + b"\r\n"), 431),
    refused("a field of 500 KiB", get(b"X: " + b"a" * 512_000 + b"\r\n"), 431),
    refused("a target of 70 KiB", get(target=b"/headers?" + b"a" * 71_680), 414, 431),
    Case("underscore in a name", get(b"X_A: 1\r\n"), ((200,), (400,))),
]

TARGETS = [
    refused("no Host", b"GET /headers HTTP/1.1\r\n\r\n"),
    refused("two Hosts", get(b"Host: b\r\n")),
    refused("Host with user", b"GET /headers HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    refused("Host with a space", b"GET /headers HTTP/1.1\r\nHost: a b\r\n\r\n"),
    served("absolute form wins over Host", get(target=b"http://b/headers"), holds=(b"host: b\n",),
           lacks=(b"host: a\n",)),
    refused("authority form with GET", get(target=b"a:80")),
    refused("CONNECT", b"CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", 400, 405),
    refused("TRACE", b"TRACE /headers" + END + b"\r\n", 405),
    Case("OPTIONS *", b"OPTIONS *" + END + b"\r\n", ((200,), (204,), (404,))),
    Case("percent without digits", get(target=b"/headers?%zz"), ((200,), (400,))),
    refused("raw 0x80 in the target", get(target=b"/headers?\x80")),
    unroutable("a parent of the root", get(target=b"/../headers")),
    unroutable("a parent behind an escaped slash", get(target=b"/headers%2f..%2fadmin")),
    unroutable("a parent with a path parameter", get(target=b"/headers/..;x=y/admin")),
    served("dot segments are resolved", get(target=b"/x/%2e%2e/headers")),
    refused("fragment in the target", get(target=b"/headers#f")),
    refused("space in the target", get(target=b"/headers?a b")),
]

SEMANTICS = [
    served("hop-by-hop fields stay here",
           get(b"Connection: x-secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n"),
           lacks=(b"x-secret", b"keep-alive: 5", b"proxy-connection")),
    served("Upgrade: h2c is not passed on",
           get(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"),
           lacks=(b"upgrade: h2c", b"http2-settings")),
    Case("Expect: 100-continue, body held back", post(b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"),
         ((100,),)),
    refused("another expectation", get(b"Expect: bogus\r\n"), 417),
]


def exchange(address, case):
    """Sends the case's bytes; returns what came back and whether the proxy closed."""
    host, port = address.split(":")
    enough = max(len(statuses) for statuses in case.statuses)
    with socket.create_connection((host, int(port)), timeout=ANSWER_WITHIN_SECONDS) as client:
        answer = b""
        try:
            client.sendall(case.raw)
            while piece := client.recv(65536):
                answer += piece
                if len(statuses_of(answer)) >= enough and not case.lacks[:1] == (b"x-instance",):
                    client.settimeout(0.2)
        except TimeoutError:
            return answer, False
        except OSError:
            # A reset after the answer: our bytes were still under way when the proxy had closed.
            return answer, True
    return answer, True


def statuses_of(answer):
    return tuple(int(status) for status in re.findall(rb"(?m)^HTTP/1\.[01] (\d{3}) ", answer))


def check_case(listener, address, case):
    answer, closed = exchange(address, case)
    statuses = statuses_of(answer)
    check(statuses in case.statuses, f"{listener}: {case.name}: {statuses} {'closed' if closed else 'open'}")
    text = answer.lower()
    missing = [part for part in case.holds if part not in text]
    unwanted = [part for part in case.lacks if part in text]
    if missing or unwanted:
        check(False, f"{listener}: {case.name}: lacks {missing}, holds {unwanted}:\n{answer!r}")
    if b"x-instance" in case.lacks:
        check(closed, f"{listener}: {case.name}: the connection is closed")
        check(b"proxy-status" in text or not answer, f"{listener}: {case.name}: the answer says whose it is")


# ---- clients that stay silent, or are slow

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


SETTINGS = frame(4, 0, 0)
# :method GET, :scheme http, :path /, :authority a.
FIELDS = bytes([0x82, 0x86, 0x84, 0x41, 1]) + b"a"
# :method POST instead.
POST_FIELDS = bytes([0x83]) + FIELDS[1:]

# A body that drips faster than the limit of silence is no case: like Envoy's, the time limit of a route starts when
# the request is complete.
SLOW = [
    ("connects and sends nothing", b"", b"", ()),
    ("sends P", b"P", b"", ()),
    ("half an HTTP/2 preface", PREFACE[:12], b"", ()),
    ("half a request line", b"GET / HT", b"", (408,)),
    ("drips a header", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a", (408,)),
    ("announces a body, sends none", post(b"Content-Length: 10\r\n\r\n"), b"", (408, 504)),
    ("stays idle after an answer", get(), b"", (200,)),
    ("HTTP/2 preface only", PREFACE, b"", ()),
    ("HTTP/2 without a request", PREFACE + SETTINGS, b"", ()),
    ("HTTP/2 HEADERS without their end", PREFACE + SETTINGS + frame(1, 1, 1, FIELDS), b"", ()),
    ("HTTP/2 drips empty CONTINUATIONs", PREFACE + SETTINGS + frame(1, 1, 1, FIELDS), frame(9, 0, 1), ()),
    ("HTTP/2 body never sent", PREFACE + SETTINGS + frame(1, 4, 1, POST_FIELDS), b"", ()),
    ("HTTP/2 PINGs but never asks", PREFACE + SETTINGS, frame(6, 0, 0, b"12345678"), ()),
]
SLOW_CONFIG = {"header_timeout": "1s", "idle_timeout": "2s", "stream_idle_timeout": "2s"}
CLOSED_WITHIN_SECONDS = 10


class SlowClient(threading.Thread):
    """Sends `first`, then `drip` twice a second, until the proxy closes or time is up."""

    def __init__(self, address, first, drip):
        super().__init__(daemon=True)
        self.address, self.first, self.drip = address, first, drip
        self.answer = b""
        self.closed_after = None

    def run(self):
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port))) as client:
            begun = time.monotonic()
            client.settimeout(0.5)
            try:
                client.sendall(self.first)
                while time.monotonic() - begun < CLOSED_WITHIN_SECONDS:
                    try:
                        piece = client.recv(65536)
                    except TimeoutError:
                        client.sendall(self.drip)
                        continue
                    self.answer += piece
                    if not piece:
                        break
                else:
                    return
            except OSError:
                pass
            self.closed_after = time.monotonic() - begun


def check_slow_clients(sidecar):
    clients = [(f"{listener}: {name}", SlowClient(address, first, drip), statuses)
               for listener, address in sidecar.listeners() for name, first, drip, statuses in SLOW]
    for _, client, _ in clients:
        client.start()
    for name, client, statuses in clients:
        client.join()
        got = statuses_of(client.answer)
        check(client.closed_after is not None,
              f"{name}: closed within {CLOSED_WITHIN_SECONDS} s ({client.closed_after or 0:.1f} s, {got})")
        check(not statuses or got and got[0] in statuses, f"{name}: answered {got}, wanted one of {statuses or 'any'}")


# ---- the client that behaves

class Bystander(threading.Thread):
    """Asks again and again on one connection; any answer but 200, or a break, is a failure."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address = address
        self.over = threading.Event()
        self.answers = 0
        self.failure = None

    def run(self):
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            while not self.over.wait(0.01) and not self.failure:
                try:
                    client.sendall(get(target=b"/"))
                    answer = client.recv(65536)
                    while answer and not answer.endswith(b"52 B\n"):
                        answer += client.recv(65536)
                    self.answers += 1
                    if not answer.startswith(b"HTTP/1.1 200 "):
                        self.failure = repr(answer[:80])
                except OSError as error:
                    self.failure = repr(error)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.join(15)
        if kind is None:
            check(not self.failure and self.answers > 10, f"a client beside them got {self.answers} answers, "
                                                          f"no failure ({self.failure})")


def open_descriptors(sidecar):
    return len(os.listdir(f"/proc/{sidecar.child.pid}/fd"))


# After a bad input an ordinary request is answered within this time, and after many of each, memory is near its start.
SERVED_WITHIN_SECONDS = 1
ROUNDS_OF_EACH = 30
NEAR_KIB = 8 * 1024


def check_still_serves(listener, address, case):
    begun = time.monotonic()
    answer, _ = exchange(address, served(f"after {case.name}", get(b"Connection: close\r\n")))
    took = time.monotonic() - begun
    if statuses_of(answer) != (200,) or took > SERVED_WITHIN_SECONDS:
        check(False, f"{listener}: after {case.name}: {answer[:80]!r} in {took:.2f} s")


def check_nothing_is_kept(sidecar, cases):
    """Many times each of what is refused at once."""
    def round_of_each():
        for _, address in sidecar.listeners():
            for case in cases:
                exchange(address, case)

    round_of_each()
    before = rss_kib(sidecar.child.pid), open_descriptors(sidecar)
    for _ in range(ROUNDS_OF_EACH):
        round_of_each()
    after = rss_kib(sidecar.child.pid), open_descriptors(sidecar)
    check(after[0] <= before[0] + NEAR_KIB and after[1] <= before[1] + 8,
          f"{ROUNDS_OF_EACH} times each of {len(cases)} bad inputs: KiB and descriptors {before} before, {after} after")


def main():
    with echo_app() as app:
        config = base_config(app)
        with Sidecar(config) as sidecar:
            cases = FRAMING + LINES + TARGETS + SEMANTICS
            for listener, address in sidecar.listeners():
                with Bystander(address):
                    for case in cases:
                        check_case(listener, address, case)
                        check_still_serves(listener, address, case)
            check_nothing_is_kept(sidecar, [case for case in cases if b"x-instance" in case.lacks])
        config = base_config(app)
        config["listeners"].update(SLOW_CONFIG)
        config["defaults"] = {"timeout": "4s"}
        config["service"]["timeout"] = "4s"
        with Sidecar(config) as sidecar:
            before = open_descriptors(sidecar)
            with Bystander(sidecar.outbound):
                check_slow_clients(sidecar)
            time.sleep(0.5)
            after = open_descriptors(sidecar)
            check(after <= before + 8, f"no descriptors are left behind ({before} before, {after} after)")


if __name__ == "__main__":
    main()
