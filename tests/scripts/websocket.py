#!/usr/bin/env python3
"""A WebSocket client and server (package `websockets`) through both listeners, and a raw upgrade tunnel."""

import socket
import threading

from sidecar import Sidecar, ask, base_config, chained, check, echo_app, need_packages

need_packages(("websockets", "websockets"))

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402  (there once in the venv)
from websockets.sync.client import connect  # noqa: E402
from websockets.sync.server import serve  # noqa: E402

BIG = b"y" * 900_000
ANSWER_WITHIN_SECONDS = 10


def handle(connection):
    if connection.request.path == "/greet":
        # Sent together with the 101: the proxy must not lose bytes that follow the head.
        connection.send("welcome")
    for message in connection:
        if message == "close":
            connection.close(4000, "asked to")
        else:
            connection.send(message)


def check_messages(address):
    with connect(f"ws://{address}/chat", proxy=None) as connection:
        for message in ("hello", "ü", b"\0\1\2", BIG):
            connection.send(message)
            check(connection.recv(ANSWER_WITHIN_SECONDS) == message, f"a message of {len(message)} comes back")
        check(connection.ping().wait(ANSWER_WITHIN_SECONDS), "a ping is answered")
        for number in range(1000):
            connection.send(str(number))
        answers = [int(connection.recv(ANSWER_WITHIN_SECONDS)) for _ in range(1000)]
        check(answers == list(range(1000)), "1000 messages come back in order")
    check(connection.close_code == 1000, "the client's closing handshake passes")
    with connect(f"ws://{address}/greet", proxy=None) as connection:
        check(connection.recv(ANSWER_WITHIN_SECONDS) == "welcome", "the server may speak first")
        connection.send("close")
        try:
            connection.recv(ANSWER_WITHIN_SECONDS)
        except ConnectionClosed as error:
            check(error.rcvd is not None and error.rcvd.code == 4000, "the server's close code arrives")


def check_refusal(address):
    """The application is no WebSocket server: its ordinary answer arrives, and no tunnel is left open."""
    try:
        with connect(f"ws://{address}/status/403", proxy=None):
            check(False, "a refused upgrade is no connection")
    except InvalidStatus as error:
        check(error.response.status_code == 403, "a refused upgrade arrives as the 403 it is")


def check_tunnel(address):
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=ANSWER_WITHIN_SECONDS) as client:
        # The first bytes of the tunnel come with the request, before the answer: they must not be lost.
        client.sendall(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly,")
        client.sendall(b"late")
        answer = b""
        while not answer.endswith(b"late") and (piece := client.recv(65536)):
            answer += piece
        client.shutdown(socket.SHUT_WR)
        ended = client.recv(1) == b""
    head, _, body = answer.partition(b"\r\n\r\n")
    check(head.startswith(b"HTTP/1.1 101 "), "an upgrade to another protocol is answered with 101")
    check(body == b"early,late", "the tunnel returns all bytes")
    check(ended, "closing one direction of the tunnel ends the other")


def main():
    with serve(handle, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        direct = base_config("127.0.0.1:%d" % server.socket.getsockname()[1])
        for config in (direct, chained(direct)):
            with Sidecar(config) as sidecar:
                for listener, address in sidecar.listeners():
                    print(f"-- {listener}")
                    check_messages(address)
        server.shutdown()
    with echo_app() as app, Sidecar(base_config(app)) as sidecar:
        for listener, address in sidecar.listeners():
            print(f"-- {listener}, other upgrades")
            check_tunnel(address)
            check_refusal(address)
            check(ask(address, "/")[0] == 200, "plain requests still work")


if __name__ == "__main__":
    main()
