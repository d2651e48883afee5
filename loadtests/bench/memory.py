"""What a connected session costs: memory with its actor, and processor time while nobody says anything."""

from __future__ import annotations

import threading
import time
from typing import Any

from loadtests.bench.learners import make_sessions
from loadtests.bench.stage import ROOMY, Stage

SETTLE_S = 3.0


def measure(stage: Stage, *, sessions: int, seconds: float) -> dict[str, Any]:
    """Open `sessions` sockets; each exchanges a few frames, then all are silent for `seconds`."""
    lectern = stage.lectern(ROOMY)
    targets = stage.targets(make_sessions(stage.postgres.dsn, sessions).targets)
    before_kib = lectern.status("VmRSS")
    found: dict[str, Any] = {}

    def look() -> None:
        _wait_for_sockets(lectern.process.pid, sessions)
        time.sleep(SETTLE_S)
        found["rss_kib_per_session"] = round((lectern.status("VmRSS") - before_kib) / sessions, 2)
        started_s = lectern.cpu_s()
        time.sleep(seconds)
        found["idle_share_of_a_core"] = round((lectern.cpu_s() - started_s) / seconds, 3)

    looking = threading.Thread(target=look)
    looking.start()
    opened_s = 0.004 * sessions
    stage.measure("ws", lectern, targets=targets, once=1, warm_s=0, seconds=SETTLE_S + seconds + opened_s / 4 + 4)
    looking.join()
    return found


def _wait_for_sockets(pid: int, count: int) -> None:
    import psutil  # noqa: PLC0415 - of the tests' requirements

    process = psutil.Process(pid)
    while process.num_fds() < count:
        time.sleep(0.2)
