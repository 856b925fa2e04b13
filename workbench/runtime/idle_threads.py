"""Waits until the other threads of this process have nothing to do."""

from __future__ import annotations

import threading
import time
from pathlib import Path

PAUSE_S = 1e-3
"""Gives Python's lock away: a thread that waits for it becomes runnable."""
NUM_IDLE_LOOKS = 2
"""A thread that lost the race for Python's lock sleeps for a moment and is runnable at the next pause."""
LIMIT_S = 0.2

_TASKS = Path("/proc/self/task")


def wait_for_idle_threads() -> None:
    """Returns when no other thread of the process has been runnable, by the kernel's word, in two looks in a row; on a busy
    machine that takes longer than on an idle one. Where the kernel does not tell (no ``/proc``), and for a thread that computes
    on its own account, ends after a limit.
    """
    deadline, idle_looks = time.monotonic() + LIMIT_S, 0
    while idle_looks < NUM_IDLE_LOOKS and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
        idle_looks = 0 if _has_runnable() else idle_looks + 1


def _has_runnable() -> bool:
    own = str(threading.get_native_id())
    for task in _TASKS.iterdir() if _TASKS.exists() else ():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if task.name != own and state == "R":
            return True
    return False
