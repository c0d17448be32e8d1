"""The client's side of mutual TLS: contexts, checks that a mesh is what it claims to be, idle connections, handshakes.

The generator of handshakes is a program of its own, `handshakes.py`; here it is started.
"""

import http.client
import json
import socket
import ssl
import sys
import threading
from pathlib import Path

import load
import proxies
from processes import Failure, wait_until

# The name in the certificate of the sidecar that is called.
SERVER_NAME = "web"
GENERATOR = Path(__file__).parent / "handshakes.py"


def client_context(ca, leaf=None, version=ssl.TLSVersion.TLSv1_3):
    """Trusts `ca` alone and shows `leaf`, if any. Keeps no session: every connection is a full handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(ca)
    # With HTTP/2 some servers would send their settings, unasked, and others not.
    context.set_alpn_protocols(["http/1.1"])
    if leaf:
        context.load_cert_chain(leaf.cert, leaf.key)
    return context


def wait_for_answers(process, address, certificates):
    """Waits until the application answers through the inbound listener at `address`, asked with mutual TLS."""
    context = client_context(certificates.ca, certificates.client)
    wait_until(lambda: answers(address, context), 15, f"{process.command[0]} on {address}", process)


def fail_unless_strict(address, certificates):
    """Plain text, TLS 1.2 and clients without a certificate of the right authority must get nothing."""
    ca = certificates.ca
    refused = {
        "plain text": None,
        "TLS 1.2": client_context(ca, certificates.client, ssl.TLSVersion.TLSv1_2),
        "no client certificate": client_context(ca),
        "a client certificate of another authority": client_context(ca, certificates.foreign_client),
    }
    for what, context in refused.items():
        if answers(address, context):
            raise Failure(f"the inbound listener {address} answers with {what}")


def answers(address, context):
    """Whether a request gets 200 and the application's own bytes; `context` None asks in plain text."""
    connection = http.client.HTTPConnection(SERVER_NAME)
    try:
        # Connected here, since the name is that of the certificate and cannot be looked up.
        connection.sock = connect(address, context)
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status == 200 and response.read() == proxies.EXPECTED_BODY
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def connect(address, context, source="127.0.0.1"):
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=5, source_address=(source, 0))
    if context is None:
        return connection
    # Else a goodbye would wait for the server's delayed acknowledgement of the handshake.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return context.wrap_socket(connection, server_hostname=SERVER_NAME)
    except (OSError, ssl.SSLError):
        connection.close()
        raise


def fail_unless_verified(start_outbound, certificates):
    """The outbound side must send nothing to who cannot prove to be `web`.

    `start_outbound(peer, name)` returns a process (not yet entered) that reaches `web` at `peer`, and its address.
    """
    for what, leaf in (("foreign", certificates.foreign_web), ("other", certificates.other)):
        with Impostor(leaf) as impostor:
            process, listen = start_outbound(impostor.address, f"outbound-{what}")
            with process:
                wait_until(lambda: proxies.answers(listen, False) or impostor.refused or impostor.requests, 15,
                           f"{process.command[0]} refusing a server with a certificate that is {what}", process)
            if impostor.requests:
                raise Failure(f"{process.command[0]} sent a request to a server whose certificate is {what}")
            if not impostor.refused:
                raise Failure(f"{process.command[0]} answers, but has not asked the server it was given")


class Impostor:
    """A TLS server with a certificate that must not be accepted; counts who left and who sent it a request."""

    def __init__(self, leaf):
        self.refused = 0
        self.requests = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(leaf.cert, leaf.key)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, name="impostor", daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        # Wakes the accept; closing alone would not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            with connection:
                self.receive(connection)

    def receive(self, connection):
        """Refusing is an alert in the handshake, or an end after it without a byte (nginx looks only then)."""
        try:
            with self.context.wrap_socket(connection, server_side=True) as tls:
                if tls.recv(1):
                    self.requests += 1
                else:
                    self.refused += 1
        except ssl.SSLError as error:
            self.refused += "ALERT" in (error.reason or "")
        except OSError:
            # Whoever connects and leaves without a handshake has proved nothing.
            pass


class IdleConnections(load.IdleConnections):
    """As its parent, with mutual TLS."""

    def __init__(self, address, count, certificates):
        super().__init__(address, count)
        self.context = client_context(certificates.ca, certificates.client)

    def open(self, index):
        return self.context.wrap_socket(super().open(index), server_hostname=SERVER_NAME)


def handshakes(core, address, certificates, seconds):
    """Full handshakes as fast as one core makes them."""
    leaf = certificates.client
    output = load.run_on(core, [sys.executable, str(GENERATOR), "--address", address, "--ca", str(certificates.ca),
                                "--cert", str(leaf.cert), "--key", str(leaf.key), "--seconds", str(seconds)], seconds)
    done = json.loads(output)
    return load.Load(done["handshakes"], done["seconds"], 0, 0)
