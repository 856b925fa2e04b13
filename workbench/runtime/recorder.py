"""What a worker records of its steps: every communication operation, and what it computes when."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

RING_FACTOR = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}


@dataclass
class Operation:
    """One communication operation of this worker; times in seconds of the machine's monotonic clock."""

    operation: str
    group: str
    group_size: int
    key: tuple[Any, ...]
    """The same on every participant: which operation of the group this is."""
    peer: int | None
    phase: str
    payload_bytes: int
    dtype: str | None
    step: int
    entered: float
    wait_started: float | None = None
    ended: float | None = None
    idle_s: float = 0.0
    """Part of the wait before the last participant had entered; filled in when all workers' entries are known."""

    @property
    def ring_bytes(self) -> int:
        """Bytes that the ring algorithm sends per rank (Patarasuk and Yuan 2009); expected, not measured."""
        if self.operation in RING_FACTOR:
            n = self.group_size
            return RING_FACTOR[self.operation] * (n - 1) * self.payload_bytes // n
        return self.payload_bytes if self.operation == "send" else 0

    @property
    def blocked_s(self) -> float:
        """How long the worker stood still for it."""
        if self.ended is None or self.wait_started is None:
            return 0.0
        return max(0.0, self.ended - self.wait_started)


@dataclass
class SpanRecord:
    """Something that the worker did from ``start`` to ``end``."""

    kind: str
    step: int
    stage: int | None
    microbatch: int | None
    name: str | None
    start: float
    end: float = 0.0


@dataclass
class Recorder:
    """Light on every step (counts, bytes, blocked time, the last operations); with all rows on trace steps."""

    axes: dict[str, str] = field(default_factory=dict)
    """Name of a process group → the mesh axis that it spans."""

    step: int = 0
    tracing: bool = False
    phase: str = ""
    """Of the span that the worker is in; empty outside."""
    watcher: Any = None
    """On memory steps the ``MemoryTracker``, told of spans and of what process groups move."""
    num_operations: int = 0
    payload_bytes: int = 0
    blocked_s: float = 0.0
    operations: list[Operation] = field(default_factory=list)
    spans: list[SpanRecord] = field(default_factory=list)
    last: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    communication_failed: bool = False
    _sequence: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    _announced: dict[int, str] = field(default_factory=dict)
    _backward_hooked: int | None = None

    def begin(
        self,
        operation: str,
        group: str,
        ranks: list[int],
        tensors: list[torch.Tensor],
        here: int,
        peer: int | None = None,
    ) -> Operation | None:
        """Notes an operation that is about to be issued; a row on trace steps, else None."""
        payload = sum(t.numel() * t.element_size() for t in tensors)
        self.num_operations += 1
        self.payload_bytes += payload
        self.last.append(f"step {self.step}: {operation} {payload} bytes" + ("" if peer is None else f" with rank {peer}"))
        pair = {"send": (here, peer), "recv": (peer, here)}.get(operation, ())
        self._sequence[(group, *pair)] += 1
        if not self.tracing:
            return None
        dtype = str(tensors[0].dtype).removeprefix("torch.") if tensors else None
        row = Operation(
            operation,
            group,
            len(ranks),
            (group, *pair, self._sequence[(group, *pair)]),
            peer,
            self._announced.pop(tensors[0].data_ptr() if tensors else 0, "") or self._phase_of(operation, group, here, peer),
            payload,
            dtype,
            self.step,
            time.perf_counter(),
        )
        self.operations.append(row)
        return row

    def announce(self, tensors: Iterable[torch.Tensor], phase: str) -> None:
        """Says of what phase the operation on each of these tensors will be, where it is issued outside the phase's span."""
        if self.tracing:
            self._announced |= {tensor.data_ptr(): phase for tensor in tensors}

    def _phase_of(self, operation: str, group: str, here: int, peer: int | None) -> str:
        if torch._C._current_graph_task_id() != -1:
            return "backward"
        if self.phase:
            return self.phase
        if peer is not None and self.axes.get(group) == "pipeline":
            # Between stages, outside their spans, activations travel to higher ranks and gradients to lower ones.
            return "forward" if (peer > here) == (operation == "send") else "backward"
        return "forward"

    def watch_future(self, row: Operation, future: Any) -> None:
        """For an operation that C++ waits for by its future (DDP's buckets): the wait begins when autograd has nothing
        left to compute, which is when callbacks queued on its engine run, and ends when the future is done."""
        future.add_done_callback(lambda _: setattr(row, "ended", time.perf_counter()))
        task = torch._C._current_graph_task_id()
        if task != -1 and task != self._backward_hooked:
            self._backward_hooked = task
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: self._backward_has_computed(row.step))

    def _backward_has_computed(self, step: int) -> None:
        now = time.perf_counter()
        for row in self.operations:
            if row.step == step and row.wait_started is None and row.phase == "backward":
                row.wait_started = now

    def span(
        self, kind: str, stage: int | None = None, microbatch: int | None = None, name: str | None = None
    ) -> AbstractContextManager[None]:
        """Marks what the worker does; free unless tracing."""
        if self.watcher is not None:
            return self.watcher.span(kind, stage, microbatch, name)  # type: ignore[no-any-return]
        return self._record_span(kind, stage, microbatch, name) if self.tracing else nullcontext()

    @contextmanager
    def _record_span(self, kind: str, stage: int | None, microbatch: int | None, name: str | None) -> Iterator[None]:
        outer, self.phase = self.phase, kind.removesuffix("_input").removesuffix("_weight")
        record = SpanRecord(kind, self.step, stage, microbatch, name, time.perf_counter())
        try:
            yield
        finally:
            record.end = time.perf_counter()
            self.spans.append(record)
            self.phase = outer
