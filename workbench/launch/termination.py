"""Treats SIGTERM, sent by ``kill`` or a scheduler, and SIGHUP, sent by a closed terminal, like Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Raises KeyboardInterrupt in the block on SIGTERM and SIGHUP, so that it ends the processes it started.

    After the block the signal has its usual effect: by default it ends the process. Nothing changes outside the main thread,
    which alone receives signals, and for a signal that is ignored or already raises KeyboardInterrupt.
    """
    with _as_interrupt(signal.SIGTERM), _as_interrupt(signal.SIGHUP):
        yield


@contextlib.contextmanager
def _as_interrupt(number: signal.Signals) -> Iterator[None]:
    previous = signal.getsignal(number) if threading.current_thread() is threading.main_thread() else signal.SIG_IGN
    is_handled_by_caller = number is signal.SIGHUP and previous is not signal.SIG_DFL  # as by the command line
    if previous in (signal.SIG_IGN, signal.default_int_handler, None) or is_handled_by_caller:
        yield
        return
    is_received = False

    def interrupt(_: int, frame: FrameType | None) -> None:
        nonlocal is_received
        is_received = True
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
        raise KeyboardInterrupt

    signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, previous)
        if is_received:
            os.kill(os.getpid(), number)
