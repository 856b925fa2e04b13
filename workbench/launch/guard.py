"""The guard of a run: the parent of its supervisor, which ends whatever the supervisor leaves behind when it dies.

Workers may start processes of their own, such as data loaders and compilers, which outlive them. Linux hands orphans to the
nearest ancestor that asked for them (``PR_SET_CHILD_SUBREAPER`` of prctl(2)): to the supervisor, and to the guard when the
supervisor has died. On other systems there is no guard.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_END_S = 10.0
"""How long to wait for killed processes: one that waits for a device may take long, and nothing more can be done to it."""


def guard() -> None:
    """Forks this process and returns in the child, which is to be the supervisor; the parent is its guard and never returns.

    If the guard is killed, the child receives SIGTERM.
    """
    if sys.platform != "linux":
        return
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some parents leave it, there would be nothing to wait for
    parent = os.getpid()
    if (child := os.fork()) == 0:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before
            os.kill(os.getpid(), signal.SIGTERM)
        return
    code = 1
    try:
        for file in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208 - numbers
            if file > 2:  # such as the lock of the ticket, which ends with the supervisor
                with contextlib.suppress(OSError):
                    os.close(file)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status) % 256
    finally:
        end_descendants()
        os._exit(code)


def descendants() -> list[psutil.Process]:
    """Returns the processes that this one has started and these in turn, without zombies."""
    import psutil

    return [process for process in psutil.Process().children(recursive=True) if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_descendants() -> None:
    """Kills all processes below this one, whatever state they are in, and waits until none is left."""
    deadline = time.monotonic() + _END_S
    while (left := descendants()) and time.monotonic() < deadline:
        kill(left)
        time.sleep(0.01)


def kill(processes: list[psutil.Process]) -> None:
    """Sends SIGKILL to processes that have not ended."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
