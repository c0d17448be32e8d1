#!/usr/bin/env python3
"""promtool accepts the metrics, and a real Prometheus scrapes them (Debian's package `prometheus` has both)."""

import json
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from sidecar import Sidecar, ask, base_config, check, echo_app, end, free_ports, need_tools, wait_for

REQUESTS = 25


def check_promtool(sidecar):
    done = subprocess.run(["promtool", "check", "metrics"], input=sidecar.metrics(), capture_output=True, text=True,
                          check=False)
    check(done.returncode == 0 and not done.stderr.strip(), f"promtool finds nothing to say {done.stdout}{done.stderr}")


def query(address, expression):
    """The value of an instant query; None while there is none."""
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            result = json.load(response)["data"]["result"]
    except (OSError, urllib.error.URLError):
        return None
    return float(result[0]["value"][1]) if result else None


def check_scrape(sidecar, directory):
    address = f"127.0.0.1:{free_ports(1)[0]}"
    config = Path(directory) / "prometheus.yml"
    config.write_text(f"""
global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}
scrape_configs:
  - job_name: outrigger
    static_configs: [ {{ targets: ["{sidecar.metrics_address}"] }} ]
""", encoding="utf-8")
    with open(Path(directory) / "prometheus.log", "wb") as log:
        child = subprocess.Popen(["prometheus", f"--config.file={config}", f"--web.listen-address={address}",
                                  f"--storage.tsdb.path={directory}/data"], stdout=log, stderr=log)
    try:
        wait_for(lambda: query(address, "up") == 1, "Prometheus sees the sidecar up", 30)
        total = wait_for(lambda: query(address, 'sum(outrigger_http_requests_total{direction="outbound"})'),
                         "Prometheus has the request counter")
        check(total >= REQUESTS, f"Prometheus counts {total:.0f} requests")
        wait_for(lambda: query(address, "scrape_samples_scraped"), "Prometheus has counted the samples")
        samples = query(address, "scrape_samples_scraped")
        check(samples < 2000, f"{samples:.0f} samples in a scrape")
    finally:
        end(child)


def main():
    need_tools("promtool", "prometheus")
    with echo_app() as app, Sidecar(base_config(app)) as sidecar, tempfile.TemporaryDirectory() as directory:
        for number in range(REQUESTS):
            check(ask(sidecar.outbound, "/")[0] == 200, f"request {number + 1}")
        check(ask(sidecar.outbound, "/status/503")[0] == 503, "an error is there to be counted")
        check_promtool(sidecar)
        check_scrape(sidecar, directory)


if __name__ == "__main__":
    main()
