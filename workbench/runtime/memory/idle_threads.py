"""Waits until the other threads of this process are idle."""

from __future__ import annotations

import threading
import time
from pathlib import Path

PAUSE_S = 1e-3
"""Releases the GIL: a thread that waits for it becomes runnable."""
NUM_IDLE_CHECKS = 2
"""A thread that did not get the GIL sleeps briefly and is runnable at the next check."""
LIMIT_S = 0.2

_TASKS = Path("/proc/self/task")


def wait_for_idle_threads() -> None:
    """Returns when the kernel reports no other runnable thread of the process in two consecutive checks.

    Gives up after ``LIMIT_S`` if another thread computes. Without ``/proc`` it only pauses.
    """
    deadline, num_idle_checks = time.monotonic() + LIMIT_S, 0
    while num_idle_checks < NUM_IDLE_CHECKS and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
        num_idle_checks = 0 if _has_runnable() else num_idle_checks + 1


def _has_runnable() -> bool:
    thread_id = str(threading.get_native_id())
    for task in _TASKS.iterdir() if _TASKS.exists() else ():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):  # the thread ended
            continue
        if task.name != thread_id and state == "R":
            return True
    return False
