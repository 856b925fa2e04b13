"""When operations truly ended on a GPU: events on its streams, laid on the host's clock.

Written from torch's documentation; nobody has run it yet.
"""

from __future__ import annotations

import time
from typing import Any

import torch


class EventClock:
    """An event whose time on the host's monotonic clock is known, from which others count."""

    def __init__(self) -> None:
        self.origin = torch.cuda.Event(enable_timing=True)
        self.origin.record()
        self.origin.synchronize()
        self.origin_s = time.perf_counter()

    def seconds(self, event: torch.cuda.Event) -> float:
        """When an event was, in seconds of the host's clock; it must have happened."""
        return self.origin_s + float(self.origin.elapsed_time(event)) / 1e3


def event_now() -> torch.cuda.Event:
    """An event that happens when the current stream has come this far: the end of a synchronous collective."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def event_when_done(work: Any) -> torch.cuda.Event:
    """An event that happens when the operation is done: callbacks of NCCL's futures run at once, on a stream that waits for
    it (torch.futures.Future.then)."""
    event = torch.cuda.Event(enable_timing=True)
    work.get_future().add_done_callback(lambda _: event.record())
    return event
