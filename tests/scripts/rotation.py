#!/usr/bin/env python3
"""Under full load through two sidecars, leaves are renewed and the root is changed in all its phases: not one failed
request, and at the end nobody presents or trusts the old root."""

import json
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

from load import SteadyLoad
from sidecar import Sidecar, base_config, binary, check, echo_app, free_ports, need_tools, wait_for

RENEWALS = "outrigger_certificate_renewals_total"
# The shortest life that the authority gives: its renewals and looks come soonest.
LEAF_TTL = "60s"
RENEWED_WITHIN_SECONDS = 70
PHASE_WITHIN_SECONDS = 60
REFUSED = 7


class Desk:
    """The certificate authority on disk, and what it hands out."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.dir = self.directory / "ca"
        self.key = self.directory / "ca.key"

    def run(self, *arguments, at=None):
        command = [binary("OUTRIGGER_BIN", "outrigger"), "ca", *arguments, "--dir", at or self.dir,
                   "--key-file", self.key]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def ca(self, *arguments, at=None):
        done = self.run(*arguments, at=at)
        check(done.returncode == 0, f"ca {arguments[0]} {arguments[1] if len(arguments) > 1 else ''}", done.stderr)
        return done.stdout

    def token(self, service):
        path = self.directory / f"{service}.token"
        path.touch(mode=0o600)
        path.write_text(self.ca("token", "create", service), encoding="utf-8")
        return str(path)

    def phase(self):
        return json.loads(self.run("status", "-o", "json").stdout)["phase"]

    def rotate_when_allowed(self, phase):
        def rotated():
            done = self.run("rotate", "--yes")
            if done.returncode not in (0, REFUSED):
                check(False, f"the step to {phase} is taken or refused", done.stderr)
            return done.returncode == 0
        wait_for(rotated, f"everybody is ready for {phase}", PHASE_WITHIN_SECONDS)
        check(self.phase() == phase, f"the rotation has come to {phase}")


def config(name, app, desk, **ca):
    made = base_config(app)
    made["service"]["name"] = name
    made["mtls"] = {"mode": "strict", "ca": {"mode": "builtin", "leaf_ttl": LEAF_TTL, "node": f"{name}-1",
                                             "dir": str(desk.directory / name), **ca}}
    made["intentions"] = {"default_action": "allow", "rules": []}
    return made


def issuer(sidecar):
    """The name of the root that signed what the inbound listener presents."""
    host, port = sidecar.inbound.split(":")
    done = subprocess.run(["openssl", "s_client", "-connect", f"{host}:{port}", "-alpn", "h2"], input="",
                          capture_output=True, text=True, timeout=30, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("issuer=")]
    return lines[0].split("CN = ")[-1].split("CN=")[-1] if lines else ""


def accepts(sidecar, tls):
    """Whether a request with this certificate is served."""
    done = subprocess.run(["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "--cert", tls / "tls.crt", "--key",
                           tls / "tls.key", f"https://{sidecar.inbound}/"],
                          capture_output=True, text=True, timeout=30, check=False)
    return done.stdout == "200"


def trusted(desk, name):
    """The roots that a sidecar keeps."""
    text = (desk.directory / name / "current" / "ca.crt").read_text(encoding="ascii")
    return text.count("BEGIN CERTIFICATE"), ssl.PEM_cert_to_DER_cert(text[text.rindex("-----BEGIN"):])


def check_old_root_is_gone(desk, sidecars, stolen):
    newest = ssl.PEM_cert_to_DER_cert((desk.dir / "root-2.pem").read_text(encoding="ascii"))
    for name, sidecar in sidecars.items():
        wait_for(lambda: trusted(desk, name) == (1, newest), f"{name} trusts the new root alone", PHASE_WITHIN_SECONDS)
        check(issuer(sidecar) == "Outrigger CA mesh.local 2", f"{name} presents a certificate of the new root",
              issuer(sidecar))
        check(not accepts(sidecar, stolen), f"{name} refuses a certificate of the old root")


def rotate_under_load(desk, sidecars, stolen):
    for name, sidecar in sidecars.items():
        wait_for(lambda: sidecar.metric(RENEWALS) >= 1, f"{name} renews by itself", RENEWED_WITHIN_SECONDS)
        check(issuer(sidecar) == "Outrigger CA mesh.local 1", f"{name} presents a certificate of the old root",
              issuer(sidecar))
        check(accepts(sidecar, stolen), f"{name} accepts a certificate of the old root")
    desk.rotate_when_allowed("trust")
    early = desk.run("rotate", "--yes")
    check(early.returncode == REFUSED, "nobody signs with a root that not everybody knows", early.stderr)
    desk.rotate_when_allowed("reissue")
    desk.rotate_when_allowed("steady")
    check_old_root_is_gone(desk, sidecars, stolen)


def steal_the_root(desk):
    """A certificate of the old root that the authority knows nothing of."""
    copy, out = desk.directory / "copy", desk.directory / "stolen"
    shutil.copytree(desk.dir, copy)
    desk.ca("issue", "thief", "--ttl", "1h", "--out", str(out), at=copy)
    return out


def main():
    need_tools("wrk", "openssl", "curl")
    with tempfile.TemporaryDirectory(prefix="outrigger-") as directory, echo_app() as app:
        desk = Desk(directory)
        desk.ca("init", "--trust-domain", "mesh.local", "--ttl", LEAF_TTL)
        stolen = steal_the_root(desk)
        address = f"127.0.0.1:{free_ports(1)[0]}"
        place = {"dir": str(desk.dir), "key_file": str(desk.key), "address": address}
        holder = config("desk", app, desk, authority=place)
        api = config("api", app, desk, servers=[address], token_file=desk.token("api"))
        web = config("web", app, desk, servers=[address], token_file=desk.token("web"))
        web["services"] = {"api": {"endpoints": [api["listeners"]["inbound"]["address"]]}}
        web["routes"] = [{"match": {"path_prefix": "/"}, "service": "api"}]
        with Sidecar(holder), Sidecar(api) as called, Sidecar(web) as caller:
            with SteadyLoad(f"http://{caller.outbound}/") as load:
                rotate_under_load(desk, {"api": called, "web": caller}, stolen)
                requests = load.stop()
            check(requests > 0, f"{requests} requests while leaves and the root changed, none failed")


if __name__ == "__main__":
    main()
