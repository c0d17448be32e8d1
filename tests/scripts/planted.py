"""Which sidecar a trial of the store runs: the real one, or one with a planted bug that the trial has to find. Standard
library only."""

import os
from pathlib import Path

from sidecar import TARGET, binary, skip

# What each of them does wrong is in src/store/planted.rs.
BUGS = ("stale-read", "early-ack", "leader-restore", "hints-as-writes")
VARIABLE = "OUTRIGGER_PLANTED_BUG"
BUILD = "cargo build --features planted-bugs && mv target/debug/outrigger target/debug/outrigger-planted-bugs"


def program(bug):
    """The program. That with planted bugs is given by OUTRIGGER_BUGS_BIN, or is where `BUILD` puts it."""
    if bug is None:
        return binary("OUTRIGGER_BIN", "outrigger")
    path = Path(os.environ.get("OUTRIGGER_BUGS_BIN") or TARGET / "debug/outrigger-planted-bugs")
    if not path.exists():
        skip(f"no sidecar with planted bugs at {path} ({BUILD})")
    return path


def bug_environment(bug):
    """The environment of a sidecar with this bug; None for the real one: that of the script."""
    return {**os.environ, VARIABLE: bug} if bug else None
