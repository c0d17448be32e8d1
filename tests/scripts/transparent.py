#!/usr/bin/env python3
"""Transparent interception in two network namespaces: unmodified curl and raw clients to real addresses go through the
sidecars of both ends, by rules that the sidecar's own command applies and removes. Needs root, iproute2, curl, and
iptables or nft; nothing outside the namespaces is changed."""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading

from sidecar import Sidecar, binary, check, end, need_tools, skip, wait_for

UID = 1337
CLONE_NEWNET = 0x40000000
CLIENT, SERVER = ("10.77.0.1", "fd77::1"), ("10.77.0.2", "fd77::2")
NOBODY = "10.77.0.9"  # an address on the wire that no machine has
APP, SECOND_APP, RAW, GREETER, CLOSED = 8080, 8081, 9999, 2525, 9
GREETING = b"220 server.example.com ready\r\n"
# What a TLS client says first begins like this; the echo server does not mind.
NOT_HTTP = b"\x16\x03\x01\x00\x05hello"
WITHIN_SECONDS = 10


class Namespace:
    """A network namespace that lives as long as the process that holds it."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        wait_for(lambda: self.holder.poll() is not None or self.path_differs(), "a network namespace is made")
        if self.holder.poll() is not None:
            skip("cannot make a network namespace here")

    @property
    def pid(self):
        return self.holder.pid

    def path_differs(self):
        return os.readlink(f"/proc/{self.pid}/ns/net") != os.readlink("/proc/self/ns/net")

    @contextlib.contextmanager
    def inside(self):
        """Sockets made and processes started in here belong to the namespace."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        away = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            enter(away)
            yield
        finally:
            enter(home)
            os.close(home)
            os.close(away)

    def run(self, *command, **more):
        with self.inside():
            return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def enter(descriptor):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def wired_namespaces():
    """Two namespaces with an address of each family at both ends of one wire."""
    made = []
    try:
        for _ in range(2):
            made.append(Namespace())
        client, server = made
        wire = ["ip", "link", "add", "wire", "netns", str(client.pid), "type", "veth",
                "peer", "name", "wire", "netns", str(server.pid)]
        if (done := subprocess.run(wire, capture_output=True, text=True, check=False)).returncode != 0:
            skip(f"cannot wire namespaces together: {done.stderr.strip()}")
        for namespace, (v4, v6) in ((client, CLIENT), (server, SERVER)):
            for command in (["link", "set", "lo", "up"], ["link", "set", "wire", "up"],
                            ["addr", "add", f"{v4}/24", "dev", "wire"],
                            ["addr", "add", f"{v6}/64", "dev", "wire", "nodad"]):
                done = namespace.run("ip", *command)
                check(done.returncode == 0, f"ip {' '.join(command)}", done.stderr)
        yield client, server
    finally:
        for namespace in made:
            end(namespace.holder)


def serve(address, port, talk):
    """A TCP server in the current namespace; `talk` gets each connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)

    def accept():
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection, peer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


def echo(connection, _):
    with connection:
        while piece := connection.recv(65536):
            connection.sendall(piece)
        # The client has finished; that the other direction still works is seen by this.
        connection.sendall(b"<end>")


def greet(connection, _):
    with connection:
        connection.sendall(GREETING)
        connection.recv(64)


@contextlib.contextmanager
def applications(server):
    """What stands in the server's namespace: two HTTP applications, and servers of other protocols that are bound
    to the machine's own addresses only."""
    children, listeners = [], []
    try:
        with server.inside():
            for port in (APP, SECOND_APP):
                command = [binary("ECHO_APP_BIN", "examples/echo_app"), "--listen", f"[::]:{port}"]
                command += ["--name", f"app-{port}"]
                children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                check(children[-1].stdout.readline().startswith("listening"), f"an application listens on {port}")
            for address in SERVER:
                listeners.append(serve(address, RAW, echo))
                listeners.append(serve(address, GREETER, greet))
        yield
    finally:
        for listener in listeners:
            listener.close()
        for child in children:
            end(child)


def config(routes, services, passthrough=True, address="127.0.0.1"):
    return {
        "version": 1,
        "service": {"name": "web", "address": f"{address}:{APP}"},
        "workers": 2,
        "listeners": {
            "transparent": True,
            "inbound": {"address": "0.0.0.0:15006", "passthrough": passthrough},
            "outbound": {"address": "127.0.0.1:15001", "passthrough": passthrough},
        },
        "routes": routes,
        "services": services,
        "mtls": {"mode": "disabled"},
        "admin": {"address": "127.0.0.1:15000", "metrics_address": "127.0.0.1:15020"},
        "shutdown": {"grace": "0s", "drain_timeout": "5s"},
    }


def client_config(passthrough=True):
    route = {"name": "web", "match": {"hosts": ["web.mesh"]}, "service": "web",
             "headers": {"response": {"set": {"x-by": "client-sidecar"}}}}
    return config([route], {"web": {"endpoints": [f"{SERVER[0]}:{APP}"]}}, passthrough)


def server_config(address="127.0.0.1"):
    # The service calls itself, and its neighbour, by the addresses that others know them by.
    routes = [{"match": {"hosts": [f"{name}.mesh"]}, "service": name} for name in ("self", "neighbour")]
    services = {name: {"endpoints": [f"{host(ip)}:{port}" for ip in SERVER],
                       "load_balancer": {"policy": "round_robin"}}
                for name, port in (("self", APP), ("neighbour", SECOND_APP))}
    return config(routes, services, address=address)


class End:
    """One end of the wire: its namespace and its sidecar."""

    def __init__(self, namespace, sidecar):
        self.namespace, self.sidecar = namespace, sidecar

    def curl(self, *arguments):
        """Status, headers in lower case, and body of what curl got in this namespace; status 0 if nothing."""
        done = self.namespace.run("curl", "-sS", "-i", "-g", "--noproxy", "*", "--max-time", str(WITHIN_SECONDS), *arguments)
        if done.returncode != 0:
            return 0, "", done.stderr
        head, _, body = done.stdout.partition("\n\n")  # text mode: line ends are one character
        return int(head.split()[1]), head.lower(), body

    def connect(self, address, port):
        with self.namespace.inside():
            return socket.create_connection((address, port), timeout=WITHIN_SECONDS)

    def count(self, name, **labels):
        """The sum of all series of a metric that have these labels."""
        with self.namespace.inside():
            text = self.sidecar.metrics()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.split()[-1]) for line in text.splitlines()
                   if line.startswith(f"{name}{{") and all(pair in line for pair in wanted))

    def iptables(self, verb, *arguments):
        # The environment of the sidecar's user does not matter: rules are made by root, before it starts.
        done = self.namespace.run(binary("OUTRIGGER_BIN", "outrigger"), "iptables", verb, *arguments)
        check(done.returncode == 0, f"iptables {verb} {' '.join(map(str, arguments))}", done.stdout + done.stderr)
        return done.stdout, done.stderr

    def rules(self):
        """Everything in the tables that redirect, however it came there."""
        texts = []
        for command in (["iptables-save", "-t", "nat"], ["ip6tables-save", "-t", "nat"], ["nft", "list", "ruleset"]):
            if shutil.which(command[0]):
                done = self.namespace.run(*command)
                texts += [line for line in done.stdout.splitlines() if not line.startswith(("#", ":"))]
        return texts


class Counted:
    """Checks by how much a metric grows."""

    def __init__(self, what, end_, name, least=1, **labels):
        self.what, self.end, self.name, self.least, self.labels = what, end_, name, least, labels

    def __enter__(self):
        self.before = self.end.count(self.name, **self.labels)

    def __exit__(self, kind, *_):
        if kind is None:
            # Counted when the response or the connection has ended, which the client may see first.
            grown = wait_for(lambda: self.end.count(self.name, **self.labels) >= self.before + self.least,
                             f"{self.what}: {self.name}{self.labels} grows")
            check(grown, self.what)


def outbound_http(end_, service):
    return Counted(f"  through the client's sidecar, as service {service}", end_,
                   "outrigger_http_requests_total", direction="outbound", service=service)


def inbound_http(end_):
    return Counted("  through the server's sidecar", end_,
                   "outrigger_http_requests_total", direction="inbound", service="web")


def raw_through(end_, direction, result="ok"):
    return Counted(f"  passed on unread, {direction}: {result}", end_,
                   "outrigger_passthrough_connections_total", direction=direction, result=result)


def host(address):
    return f"[{address}]" if ":" in address else address


def check_http(client, server):
    for address in (NOBODY, SERVER[0]):
        with outbound_http(client, "web"), inbound_http(server):
            status, head, body = client.curl("--resolve", f"web.mesh:80:{address}", "http://web.mesh/headers")
            check(status == 200, f"curl to web.mesh at {address} is routed by its name", (status, body))
            check("x-by: client-sidecar" in head, "  the answer bears the route's header", head)
            check("x-request-id:" in body.lower(), "  the application sees a request id", body)
    for address in SERVER:
        with outbound_http(client, "passthrough"), inbound_http(server):
            status, head, body = client.curl(f"http://{host(address)}:{APP}/headers")
            check(status == 200 and "x-by" not in head, f"curl to {address}, which no route knows, arrives there", body)
        with outbound_http(client, "passthrough"), raw_through(server, "inbound"):
            status, head, _ = client.curl(f"http://{host(address)}:{SECOND_APP}/")
            check(status == 200 and f"x-instance: app-{SECOND_APP}" in head,
                  f"curl to another port of {address} reaches who listens there", head)
        with outbound_http(client, "passthrough"), inbound_http(server):
            status, _, _ = client.curl("--http2-prior-knowledge", f"http://{host(address)}:{APP}/")
            check(status == 200, f"HTTP/2 to {address} arrives")
    status, head, _ = client.curl(f"http://{SERVER[0]}:{CLOSED}/")
    check(status == 502, "a closed port is told as 502", (status, head))


def check_raw(client, server):
    for address in SERVER:
        with raw_through(client, "outbound"), raw_through(server, "inbound"):
            with client.connect(address, RAW) as connection:
                connection.sendall(NOT_HTTP)
                check(connection.recv(64) == NOT_HTTP, f"bytes that are not HTTP reach {address} and come back")
                connection.shutdown(socket.SHUT_WR)
                rest = b"".join(iter(lambda: connection.recv(64), b""))
                check(rest == b"<end>", "  each direction ends on its own", rest)
        with raw_through(client, "outbound"), raw_through(server, "inbound"):
            with client.connect(address, GREETER) as connection:
                check(connection.recv(64) == GREETING, f"a server that speaks first is heard at {address}")
        # Silence towards the application's port as well: it may be the one that waits to be spoken to.
        with raw_through(client, "outbound"), Counted("  to the application as bytes", server,
                                                      "outrigger_tcp_connections", direction="inbound"):
            silent = client.connect(address, APP)
        silent.close()
    # The inbound listener takes the connection before it knows; its reset must not become an orderly end on the way.
    with raw_through(server, "inbound", "refused"), client.connect(SERVER[0], CLOSED) as connection:
        try:
            got = connection.recv(64)
            check(False, "a closed port is no open connection", got)
        except ConnectionResetError:
            check(True, "a closed port is told as a reset")
    big = os.urandom(5_000_000)
    with client.connect(SERVER[1], RAW) as connection:
        threading.Thread(target=lambda: (connection.sendall(NOT_HTTP + big), connection.shutdown(socket.SHUT_WR)),
                         daemon=True).start()
        back = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        check(back == NOT_HTTP + big + b"<end>", "5 MB come back whole", len(back))


def check_self(server):
    for _ in range(2):  # an endpoint of each family
        with inbound_http(server):
            status, _, body = server.curl("--resolve", f"self.mesh:80:{NOBODY}", "http://self.mesh/headers")
            check(status == 200, "a service that calls itself comes in by its own inbound listener", (status, body))
        # Bytes, as the connection may be one of the pool.
        with Counted("  by the inbound listener", server, "outrigger_passthrough_bytes_total",
                     direction="inbound", side="sent"):
            status, head, _ = server.curl("--resolve", f"neighbour.mesh:80:{NOBODY}", "http://neighbour.mesh/")
            check(status == 200 and f"x-instance: app-{SECOND_APP}" in head,
                  "another port of its machine is reached from the sidecar", (status, head))
    held = server.count("outrigger_passthrough_connections", direction="inbound")
    check(held <= 4, "  and no connection comes in again and again", held)
    before = server.count("outrigger_http_requests_total", direction="outbound")
    status, _, _ = server.curl(f"http://127.0.0.1:{APP}/")
    check(status == 200 and server.count("outrigger_http_requests_total", direction="outbound") == before,
          "what stays on loopback is left alone")


def check_no_loop(client, server):
    """Connections to the listeners themselves are ordinary ones, and never dialed on."""
    status, _, _ = client.curl("-H", "Host: web.mesh", "http://127.0.0.1:15001/")
    check(status == 200, "the outbound listener still serves who dials it")
    status, _, _ = client.curl("-H", "Host: unknown.mesh", "http://127.0.0.1:15001/")
    check(status == 404, "  and has nowhere to pass on what no route takes", status)
    status, _, _ = client.curl(f"http://{SERVER[0]}:15006/")
    check(status == 200, "the inbound listener still serves who dials it")
    totals = [end_.count("outrigger_passthrough_connections_total") for end_ in (client, server)]
    for end_, address, port in ((client, "127.0.0.1", 15001), (client, "::1", 15001), (client, SERVER[0], 15006),
                                (client, SERVER[1], 15006), (server, SERVER[0], 15006), (server, SERVER[0], 15001)):
        with contextlib.suppress(OSError), end_.connect(address, port) as connection:
            connection.sendall(NOT_HTTP)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    check(totals == [end_.count("outrigger_passthrough_connections_total") for end_ in (client, server)],
          "bytes to a listener itself are passed on nowhere")


def check_forbidden(client):
    """A client's sidecar that lets nothing pass."""
    status, head, _ = client.curl(f"http://{SERVER[0]}:{APP}/")
    check(status == 404 and "x-outrigger-flag: no_route" in head, "passthrough: false answers 404", (status, head))
    with raw_through(client, "outbound", "forbidden"), client.connect(SERVER[0], RAW) as connection:
        connection.sendall(NOT_HTTP)
        try:
            got = connection.recv(64)
        except ConnectionResetError:
            got = b""
        check(got == b"", "  and closes what is not HTTP", got)
    status, _, _ = client.curl("--resolve", f"web.mesh:80:{NOBODY}", "http://web.mesh/")
    check(status == 200, "  but services are still served", status)


def check_application_beside_loopback(client, server):
    """A sidecar that reaches its application by the machine's address must not meet itself there."""
    print("-- an application that the sidecar reaches by the machine's address")
    for address in SERVER:
        with inbound_http(server):
            status, head, _ = client.curl(f"http://{host(address)}:{APP}/")
            check(status == 200 and f"x-instance: app-{APP}" in head, f"curl to {address} reaches it", (status, head))
    open_ = server.count("outrigger_downstream_connections", direction="inbound")
    check(open_ <= 4, "  and no connection comes in again and again", open_)
    status, _, _ = server.curl("--resolve", f"self.mesh:80:{NOBODY}", "http://self.mesh/")
    check(status == 200, "it may call itself", status)


def check_direct(client, server, when):
    counts = [end_.count("outrigger_http_requests_total") for end_ in (client, server)]
    for address in SERVER:
        status, head, _ = client.curl(f"http://{host(address)}:{APP}/")
        check(status == 200 and f"x-instance: app-{APP}" in head, f"{when}, curl reaches {address} directly", head)
    check(counts == [end_.count("outrigger_http_requests_total") for end_ in (client, server)],
          "  and no sidecar sees it")


@contextlib.contextmanager
def sidecar(namespace, settings):
    with namespace.inside():
        running = Sidecar(settings, user=UID)
        running.__enter__()
    try:
        yield End(namespace, running)
    except BaseException:
        running.give_up()
        raise
    with namespace.inside():
        running.__exit__(None, None, None)


def tools():
    """The ways to make rules that this machine has, with a sign of life from each."""
    found = []
    if shutil.which("iptables-restore") and shutil.which("ip6tables-restore"):
        found.append(("iptables", [], ["iptables", "-t", "nat", "-L"]))
    if shutil.which("nft"):
        found.append(("nft", ["--nft"], ["nft", "list", "tables"]))
    return found


def check_tool(name, flags, client, server):
    print(f"-- {name}")
    check_direct(client, server, "before the rules")
    clean = client.rules()
    for end_ in (client, server):
        said, warned = end_.iptables("apply", "-c", end_.sidecar.path, "--uid", str(UID), "--ipv6", *flags)
        check("IPv4 and IPv6" in said and warned == "", "  both families are redirected", said + warned)
    once = client.rules()
    client.iptables("apply", "-c", client.sidecar.path, "--uid", str(UID), *flags)
    check(client.rules() == once, "applying twice is applying once", client.rules())
    check_http(client, server)
    check_raw(client, server)
    check_self(server)
    check_no_loop(client, server)
    for end_ in (client, server):
        said, _ = end_.iptables("remove", *flags)
        check(said == "removed\n", "  the rules are gone", said)
        said, _ = end_.iptables("remove", *flags)
        check(said == "nothing to remove\n", "removing nothing is fine", said)
    left = [line for line in client.rules() if "utrigger" in line.lower()]
    check(left == [], f"nothing is left of {len(once) - len(clean)} lines", left)
    check_direct(client, server, "after the rules")


def check_printed(namespace):
    """What is printed is what the tools take, by their own check."""
    printed = namespace.run(binary("OUTRIGGER_BIN", "outrigger"), "iptables", "print", "--no-ipv6").stdout
    if shutil.which("iptables-restore"):
        done = namespace.run("iptables-restore", "--test", "--noflush", input=printed)
        check(done.returncode == 0, "iptables-restore --test takes what is printed", done.stderr)
    if shutil.which("nft"):
        printed = namespace.run(binary("OUTRIGGER_BIN", "outrigger"), "iptables", "print", "--nft").stdout
        done = namespace.run("nft", "--check", "--file", "-", input=printed)
        check(done.returncode == 0, "nft --check takes what is printed", done.stderr)


def main():
    if os.getuid() != 0:
        skip("needs root, for network namespaces and the firewall in them")
    need_tools("ip", "unshare", "curl")
    found = tools()
    if not found:
        skip("not installed: iptables, nft")
    if not os.path.exists("/proc/net/if_inet6"):
        skip("this kernel has no IPv6")
    with wired_namespaces() as (near, far), applications(far):
        usable = [tool for tool in found if near.run(*tool[2]).returncode == 0]
        for name, _, _ in [tool for tool in found if tool not in usable]:
            print(f"NOT TRIED: this kernel does not let {name} work in a namespace")
        if not usable:
            skip("this kernel lets no tool make rules in a namespace")
        check_printed(near)
        for name, flags, _ in usable:
            # Fresh ones: pooled connections would go on by the rules under which they were made.
            with sidecar(near, client_config()) as client, sidecar(far, server_config()) as server:
                check_tool(name, flags, client, server)
        name, flags, _ = usable[0]
        with sidecar(near, client_config(passthrough=False)) as client:
            client.iptables("apply", "-c", client.sidecar.path, "--uid", str(UID), *flags)
            check_forbidden(client)
            client.iptables("remove", *flags)
        with sidecar(far, server_config(SERVER[0])) as server:
            server.iptables("apply", "-c", server.sidecar.path, "--uid", str(UID), *flags)
            check_application_beside_loopback(End(near, None), server)


if __name__ == "__main__":
    main()
