"""Load from wrk and h2load for the scripts. A failed request ends the script."""

import re
import signal
import subprocess

from sidecar import check


def wrk_command(url, seconds, *headers):
    command = ["wrk", "-t1", "-c64", f"-d{seconds}s", "--timeout", "10s"]
    for header in headers:
        command += ["-H", header]
    return [*command, url]


def wrk(url, seconds, *headers):
    """Runs wrk for a while; returns the number of requests, none of which failed."""
    done = subprocess.run(wrk_command(url, seconds, *headers), capture_output=True, text=True,
                          timeout=seconds + 30, check=False)
    check(done.returncode == 0, "wrk ends well", done.stderr)
    return wrk_requests(done.stdout)


def wrk_requests(output):
    check("Socket errors" not in output and "Non-2xx" not in output, "no failed request", output)
    return int(re.search(r"(\d+) requests in", output)[1])


class SteadyLoad:
    """wrk in the background until `stop`, which returns the number of requests, none of which failed."""

    LONGEST_SECONDS = 240

    def __init__(self, url):
        self.child = subprocess.Popen(wrk_command(url, self.LONGEST_SECONDS), stdout=subprocess.PIPE, text=True)

    def stop(self):
        # wrk stops early and still prints its summary when it is interrupted.
        self.child.send_signal(signal.SIGINT)
        output, _ = self.child.communicate(timeout=30)
        return wrk_requests(output)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()


def h2load(url, seconds):
    """Runs h2load for a while; returns the number of requests, none of which failed."""
    done = subprocess.run(["h2load", "-t1", "-c16", "-m16", f"-D{seconds}", url], capture_output=True, text=True,
                          timeout=seconds + 30, check=False)
    check(done.returncode == 0, "h2load ends well", done.stderr)
    check(" 0 failed, 0 errored, 0 timeout" in done.stdout and " 0 3xx, 0 4xx, 0 5xx" in done.stdout,
          "no failed request", done.stdout)
    return int(re.search(r"(\d+) succeeded", done.stdout)[1])
