"""SIGTERM, which is what ``kill``, a scheduler or a service manager sends, treated as Ctrl-C is."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """In the block SIGTERM raises KeyboardInterrupt, so that what was started there is ended; after the block the signal has the
    effect that it would have had without it: by default it ends the process. Nothing changes outside the main thread, which
    alone gets signals, and where SIGTERM is ignored or raises KeyboardInterrupt already."""
    before = signal.getsignal(signal.SIGTERM) if threading.current_thread() is threading.main_thread() else signal.SIG_IGN
    if before in (signal.SIG_IGN, signal.default_int_handler, None):
        yield
        return
    is_terminated = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal is_terminated
        is_terminated = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not leave anything behind
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if is_terminated:
            os.kill(os.getpid(), signal.SIGTERM)
