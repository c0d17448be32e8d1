#!/usr/bin/env python3
"""Makes full TLS handshakes with a client certificate, one per connection, and prints how many in JSON.

Each process connects, shakes hands, says goodbye, and waits for the server to close. Nothing is asked in between, and
no session is kept. One that fails ends the program with an error.
"""

import argparse
import json
import multiprocessing
import ssl
import time
from types import SimpleNamespace

import mtls

# So many are open at once. More would not be faster: they share a core.
PROCESSES = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("address", "ca", "cert", "key"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    started = time.monotonic()
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        # `starmap` passes on the exception of a process that fails.
        counts = pool.starmap(shake_hands, [(arguments, number) for number in range(PROCESSES)])
    print(json.dumps({"handshakes": sum(counts), "seconds": time.monotonic() - started}))


def shake_hands(arguments, number):
    context = mtls.client_context(arguments.ca, SimpleNamespace(cert=arguments.cert, key=arguments.key))
    # Ephemeral ports are taken per source address.
    source = f"127.0.0.{2 + number}"
    count = 0
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        with mtls.connect(arguments.address, context, source) as connection:
            if connection.session_reused:
                raise RuntimeError("a session was resumed")
            leave(connection)
        count += 1
    return count


def leave(connection):
    """Waits until the server has closed, so that no port of ours is left in TIME_WAIT.

    The client's part of a handshake ends before the server has looked at the certificate. If it does not like it, its
    alert is raised here.
    """
    try:
        plain = connection.unwrap()
    except ssl.SSLEOFError:
        # Some close without a goodbye (nginx).
        return
    if plain.recv(1):
        raise RuntimeError("data after the end of TLS")


if __name__ == "__main__":
    main()
