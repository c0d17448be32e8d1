#!/usr/bin/env python3
"""wrk and h2load through both listeners: not one failed request."""

from load import h2load, wrk
from sidecar import Sidecar, base_config, check, echo_app, need_tools

SECONDS = 2


def main():
    need_tools("wrk", "h2load")
    with echo_app() as app, Sidecar(base_config(app)) as sidecar:
        for listener, address in sidecar.listeners():
            url = f"http://{address}/"
            check(wrk(url, SECONDS) > 0, f"{listener}: wrk, 64 keep-alive connections")
            check(wrk(url + "bytes/65536", SECONDS) > 0, f"{listener}: wrk, answers of 64 KiB")
            check(wrk(url, SECONDS, "Connection: close") > 0, f"{listener}: wrk, a connection per request")
            check(h2load(url, SECONDS) > 0, f"{listener}: h2load, 16 connections x 16 streams")
        check(sidecar.metric("outrigger_http_requests_total") > 0, "the requests are counted")


if __name__ == "__main__":
    main()
