"""Makes the keys and certificates of the scenarios with mutual TLS, with the `openssl` command (3.0 or later)."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import Failure

TRUST_DOMAIN = "mesh.local"
# A configuration of our own, since the system's adds extensions: to a leaf those of a CA.
CONFIG = """
[req]
distinguished_name = name
[name]
[extensions]
{extensions}
"""
AUTHORITY = """
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
# Nginx and HAProxy compare the DNS name, Envoy and Outrigger the URI.
LEAF = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = URI:spiffe://{trust_domain}/service/{service}, DNS:{service}
"""


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key, as paths; `both` is one file with the two, which HAProxy wants."""
    cert: Path
    key: Path
    both: Path


@dataclass(frozen=True)
class Certificates:
    """What the sidecars of `client` and `web` need, and what neither may accept."""
    ca: Path
    client: Leaf
    web: Leaf
    # Of the right authority, but not `web`.
    other: Leaf
    # In name `client` and `web`, but of an authority that nobody trusts. It has the name of the trusted one.
    foreign_client: Leaf
    foreign_web: Leaf


def make(directory):
    """Fresh certificates in `directory`, which must exist: ECDSA P-256, valid for a day."""
    trusted, foreign = Authority(directory / "trusted"), Authority(directory / "foreign")
    return Certificates(
        ca=trusted.cert, client=trusted.issue("client"), web=trusted.issue("web"), other=trusted.issue("other"),
        foreign_client=foreign.issue("client"), foreign_web=foreign.issue("web"))


class Authority:
    """A root that issues leaves into its directory."""

    def __init__(self, directory):
        directory.mkdir(parents=True)
        self.directory = directory
        self.cert, self.key = self.make("ca", f"{TRUST_DOMAIN} root", AUTHORITY, [])

    def issue(self, service):
        extensions = LEAF.format(trust_domain=TRUST_DOMAIN, service=service)
        cert, key = self.make(service, service, extensions, ["-CA", self.cert, "-CAkey", self.key])
        both = self.directory / f"{service}-both.pem"
        both.touch(mode=0o600)
        both.write_bytes(cert.read_bytes() + key.read_bytes())
        return Leaf(cert, key, both)

    def make(self, name, subject, extensions, signer):
        """A key and its certificate, signed by itself unless there is a `signer`."""
        config, cert, key = (self.directory / f"{name}{suffix}" for suffix in (".cnf", ".pem", ".key"))
        config.write_text(CONFIG.format(extensions=extensions), encoding="utf-8")
        run(["openssl", "req", "-x509", "-config", config, "-extensions", "extensions", "-subj", f"/CN={subject}",
             "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "1",
             "-keyout", key, "-out", cert, *signer])
        return cert, key


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise Failure(f"openssl: exit {done.returncode}\n{done.stderr}")
