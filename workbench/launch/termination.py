"""SIGTERM, which ``kill`` or a scheduler sends, and SIGHUP, which a closed terminal sends, treated as Ctrl-C is."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """In the block SIGTERM and SIGHUP raise KeyboardInterrupt, so that what was started there is ended; after the block the
    signal has the effect that it would have had without it: by default it ends the process. Nothing changes outside the main
    thread, which alone gets signals, and for a signal that is ignored or raises KeyboardInterrupt already."""
    with _as_interrupt(signal.SIGTERM), _as_interrupt(signal.SIGHUP):
        yield


@contextlib.contextmanager
def _as_interrupt(number: signal.Signals) -> Iterator[None]:
    before = signal.getsignal(number) if threading.current_thread() is threading.main_thread() else signal.SIG_IGN
    has_own_handler = number is signal.SIGHUP and before is not signal.SIG_DFL  # as the command line, which also lets go of it
    if before in (signal.SIG_IGN, signal.default_int_handler, None) or has_own_handler:
        yield
        return
    is_received = False

    def interrupt(_: int, frame: FrameType | None) -> None:
        nonlocal is_received
        is_received = True
        signal.signal(number, signal.SIG_IGN)  # a second one must not leave anything behind
        raise KeyboardInterrupt

    signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)
        if is_received:
            os.kill(os.getpid(), number)
