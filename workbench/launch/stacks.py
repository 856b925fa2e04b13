"""Stacks of workers that hang: what each of their threads executes, also within native code that holds the interpreter's lock.

A worker registers ``faulthandler`` for SIGUSR1, which writes them to a file of the run.
"""

from __future__ import annotations

import os
import re
import signal
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.launch.spawn import WorkerProcess
    from workbench.store.directory import RunDirectory

_SIGNAL = getattr(signal, "SIGUSR1", None)
_DUMP_S, _POLL_S = 1.0, 0.02
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$')
_INSTALLED = {"site-packages", "dist-packages"}
_LIBRARY = sysconfig.get_paths()["stdlib"]
_PACKAGE = str(Path(__file__).parents[1])


def stack_of(run: RunDirectory, process: WorkerProcess) -> str:
    """Returns the stacks of the threads of a worker, each with the innermost call first; empty if it does not write them, as one
    that is stopped, or that has not started yet."""
    path = run.stack_path(process.rank)
    if _SIGNAL is None or not path.exists() or process.poll() is not None:
        return ""
    os.kill(process.pid, _SIGNAL)
    deadline, text = time.monotonic() + _DUMP_S, ""
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        before, text = text, path.read_text(encoding="utf-8", errors="replace")
        if text and text == before:
            break
    return text


def place(stack: str) -> str:
    """Returns where the main thread is: ``my_model.py, line 12, in forward``, the innermost call of the user's own code, else
    the innermost one. Empty if the stack is."""
    main = stack.rpartition("Current thread")[2] if "Current thread" in stack else stack.rpartition("Thread 0x")[2]
    frames = [match.groups() for match in map(_FRAME.match, main.splitlines()) if match]
    own = next((frame for frame in frames if _is_the_users(frame[0])), None)
    if not (innermost := own or next(iter(frames), None)):
        return ""
    file, line, function = innermost
    return f"{Path(file).name}, line {line}, in {function}"


def _is_the_users(file: str) -> bool:
    return not file.startswith((_LIBRARY, _PACKAGE, "<")) and not _INSTALLED & set(Path(file).parts)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal, such as SIGSTOP or that of a debugger."""
    import psutil

    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.NoSuchProcess:
        return False
