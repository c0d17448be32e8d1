#!/usr/bin/env python3
"""Twenty edits of the configuration under full load move the traffic to and fro without a failed request; a broken
edit changes nothing and shows in status and metrics; repairing it works again."""

import copy

from load import SteadyLoad
from sidecar import Sidecar, base_config, check, echo_app, instance, need_tools, wait_for

EDITS = 20
LAST_RELOAD = "outrigger_config_last_reload_successful"
BROKEN = {"an unknown key": "\nrouttes: []\n", "broken YAML": "\nroutes: [ {\n"}


def pointing_at(config, app):
    changed = copy.deepcopy(config)
    changed["services"]["app"]["endpoints"] = [app]
    return changed


def move_to_and_fro(sidecar, config, apps):
    for edit in range(EDITS):
        name = "ba"[edit % 2]
        sidecar.write(pointing_at(config, apps[name]))
        # Half of the edits are found by watching the file, the other half are announced.
        if edit % 4 >= 2:
            status, answer = sidecar.reload()
            check(status == 200, f"the reload call answers 200 ({status} {answer.strip()[:200]})")
            check(instance(sidecar.outbound) == name, f"edit {edit + 1}: traffic is at {name} when the call returns")
        else:
            wait_for(lambda: instance(sidecar.outbound) == name, f"edit {edit + 1}: traffic moves to {name}")


def check_broken_edits(sidecar, config, apps):
    for what, text in BROKEN.items():
        sidecar.write("version: 1" + text)
        wait_for(lambda: sidecar.metric(LAST_RELOAD) == 0, f"{what}: {LAST_RELOAD} becomes 0")
        status, answer = sidecar.reload()
        check(status >= 400, f"{what}: the reload call is refused with {status}")
        check(instance(sidecar.outbound) == "a", f"{what}: traffic stays where it was")
        shown = sidecar.status()
        check("error" in shown.lower() and ("routtes" in shown if "unknown" in what else True),
              f"{what}: /v1/status shows the error")
        sidecar.write(pointing_at(config, apps["b"]))
        wait_for(lambda: instance(sidecar.outbound) == "b", "the repaired file takes effect")
        check(sidecar.metric(LAST_RELOAD) == 1, f"{LAST_RELOAD} is 1 again")
        sidecar.write(pointing_at(config, apps["a"]))
        wait_for(lambda: instance(sidecar.outbound) == "a", "and traffic moves on")


def main():
    need_tools("wrk")
    with echo_app("a") as first, echo_app("b") as second:
        apps = {"a": first, "b": second}
        config = base_config(first)
        config["reload"] = {"watch": True, "interval": "200ms"}
        with Sidecar(config) as sidecar:
            check(sidecar.metric(LAST_RELOAD) == 1, f"{LAST_RELOAD} is 1 after the start")
            with SteadyLoad(f"http://{sidecar.outbound}/") as load:
                move_to_and_fro(sidecar, config, apps)
                check_broken_edits(sidecar, config, apps)
                requests = load.stop()
            check(requests > 0, f"{requests} requests during {EDITS} edits, none failed")


if __name__ == "__main__":
    main()
