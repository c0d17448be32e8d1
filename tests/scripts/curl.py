#!/usr/bin/env python3
"""curl through both listeners, over HTTP/1.1 and HTTP/2 by prior knowledge: every kind of body and answer."""

import subprocess
import tempfile

from sidecar import Sidecar, base_config, check, echo_app, need_tools

GREETING = "Hello from the application behind the sidecar, 52 B\n"
UPLOAD_BYTES = 3_000_000


def curl(*arguments):
    """Runs curl; returns its standard output, with the headers in front (-i), or fails the script."""
    done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "20", *arguments],
                          capture_output=True, check=False)
    check(done.returncode == 0, f"curl {' '.join(arguments)}", done.stderr.decode())
    return done.stdout.decode("utf-8", "replace")


def head_of(answer):
    return answer.replace("\r\n", "\n").partition("\n\n")[0].lower()


def check_answers(version, url):
    answer = curl(version, "-i", f"{url}/")
    check(answer.endswith(GREETING), "the body arrives whole")
    check(" 200" in answer.splitlines()[0] and "x-instance: app" in head_of(answer), "status and headers arrive")
    size = curl(version, "-o", "/dev/null", "-w", "%{size_download}", f"{url}/bytes/10000000?chunked")
    check(size == "10000000", "a chunked answer of 10 MB is complete")
    answer = curl(version, "--head", f"{url}/bytes/12345")
    check("content-length: 12345" in head_of(answer), "HEAD keeps the length and has no body")
    # curl 7.88 (Debian 12) cannot use a connection again that speaks HTTP/2 by prior knowledge.
    times = 1 if "2" in version else 2
    for status in (204, 304, 404, 503):
        answer = curl(version, "-i", *[f"{url}/status/{status}"] * times)
        check(answer.lower().count("x-instance: app") == times, f"{status} passes, {times} on a connection")


def check_uploads(version, url):
    with tempfile.NamedTemporaryFile("wb", prefix="upload-") as upload:
        upload.write(bytes(range(250)) * (UPLOAD_BYTES // 250))
        upload.flush()
        data = f"@{upload.name}"
        plain = curl(version, "-H", "Expect:", "--data-binary", data, f"{url}/sink")
        check(plain.startswith(f"bytes={UPLOAD_BYTES} "), "an upload with a length arrives whole")
        expecting = curl(version, "-H", "Expect: 100-continue", "--data-binary", data, f"{url}/sink")
        check(expecting == plain, "an upload that waits for 100 Continue arrives the same")
        chunked = curl(version, "-H", "Expect:", "-H", "Transfer-Encoding: chunked", "--data-binary", data,
                       f"{url}/sink")
        check(chunked == plain, "an upload without a length arrives the same")
        echoed = curl(version, "-o", "/dev/null", "-w", "%{size_download}", "--data-binary", data, f"{url}/echo")
        check(echoed == str(UPLOAD_BYTES), "an upload comes back while it is sent")
    verbose = subprocess.run(["curl", "-sv", "--http1.1", "--max-time", "20", "-H", "Expect: 100-continue",
                              "-d", "x", f"{url}/sink"], capture_output=True, text=True, check=False).stderr
    check("100 Continue" in verbose, "100 Continue is sent over HTTP/1.1")


def check_trailers(version, url):
    answer = curl(version, "-i", "-H", "TE: trailers", f"{url}/trailers")
    check("before the trailers" in answer, "the body before trailers arrives")
    check("x-trailer: last" in answer.lower(), "trailers arrive")


def check_broken_answer(version, url):
    for query in ("", "?chunked"):
        done = subprocess.run(["curl", "-s", version, "--max-time", "20", "-o", "/dev/null",
                               f"{url}/die-after/100000{query}"], check=False)
        check(done.returncode in (18, 56, 92), f"an answer that breaks off{query} is no success ({done.returncode})")


def main():
    need_tools("curl")
    with echo_app() as app, Sidecar(base_config(app)) as sidecar:
        for listener, address in sidecar.listeners():
            for version in ("--http1.1", "--http2-prior-knowledge"):
                print(f"-- {listener} {version}")
                url = f"http://{address}"
                check_answers(version, url)
                check_uploads(version, url)
                check_trailers(version, url)
                check_broken_answer(version, url)


if __name__ == "__main__":
    main()
