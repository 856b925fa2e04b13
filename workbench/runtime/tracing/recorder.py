"""The recorder of a worker: counters on every step; on trace steps, every communication operation and span."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from workbench.plan.collective_costs import ring_bytes
from workbench.runtime.tracing.gloo import GlooSpan, GlooSpans
from workbench.torch_private.autograd import after_backward, backward_id

if TYPE_CHECKING:
    from workbench.runtime.link_emulation import EmulatedLinks, EmulatedOperation


@dataclass
class Wait:
    """The wait of a worker for an operation, without its issue; None before it starts and ends."""

    wait_started: float | None = None
    ended: float | None = None


@dataclass
class Operation:
    """One communication operation of this worker; times in seconds of the machine's monotonic clock."""

    operation: str
    group: str
    group_size: int
    pair: tuple[int, ...]
    """Sender and receiver of a send or recv; empty for collectives."""
    sequence: int
    """Number of the operation in its group, of sends and recvs between this pair; the same on every participant."""
    peer: int | None
    """The rank at the other end of a send or recv, or the root of a broadcast, reduce, gather or scatter."""
    phase: str
    payload_bytes: int
    dtype: str | None
    step: int
    entered: float
    issued: float | None = None
    """When the call that issues it returned. For a send, gloo first copies as many bytes as fit into the socket."""

    wait_started: float | None = None
    ended: float | None = None
    idle_s: float = 0.0
    """Part of the wait before the last participant entered; set by ``attribute_waits``."""
    late_rank: int | None = None
    """Rank of the participant that entered last; None without idle time; set by ``attribute_waits``."""
    completed: float | None = None
    """When it was complete, whether or not the worker waited for it; None if unknown; set by ``complete``."""
    emulated: EmulatedOperation | None = None
    """The operation over an emulated link that delays it, if any."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Identifies the operation on every participant."""
        return self.group, *self.pair, self.sequence

    @property
    def ring_bytes(self) -> int:
        """Bytes that each rank sends under the ring algorithm; expected, not measured."""
        return ring_bytes(self.operation, self.group_size, self.payload_bytes)

    @property
    def issuing_s(self) -> float:
        """Seconds from ``entered`` to ``issued``. They count as exposed communication."""
        return 0.0 if self.issued is None else self.issued - self.entered

    @property
    def wait_s(self) -> float:
        """Seconds from ``wait_started`` to ``ended``; 0 if the worker did not wait. Issuing is not part of it."""
        if self.ended is None or self.wait_started is None:
            return 0.0
        return max(0.0, self.ended - self.wait_started)

    @property
    def exposed_s(self) -> float:
        """Exposed communication in seconds: the time that communication, not a late worker, blocked this worker."""
        return self.issuing_s + self.wait_s - self.idle_s


@dataclass
class SpanRecord:
    """A span of the worker's step; times in seconds of the machine's monotonic clock."""

    kind: str
    step: int
    stage: int | None
    microbatch: int | None
    name: str | None
    start: float
    end: float = 0.0


@dataclass
class Recorder:
    """Records the steps of one worker: counters and the last operations on every step, all operations and spans on trace
    steps."""

    axes: dict[str, str] = field(default_factory=dict)
    """Name of a process group → the mesh axis that it spans."""

    emulated_links: EmulatedLinks | None = None
    """Emulated links that delay the recorded operations, if any."""
    device: str = "cpu"
    """Kind of device that the groups' tensors are on."""

    step: int = 0
    tracing: bool = False
    phase: str = ""
    """Phase of the innermost span that the worker is in; empty outside spans."""
    watcher: Any = None
    """On memory steps the ``MemoryTracker``, notified of spans and of communication."""
    num_operations: int = 0
    payload_bytes: int = 0
    wait_s: float = 0.0
    """Counters of the current step; ``wait_s`` without the waits of C++ (``_futures``)."""
    operations: list[Operation] = field(default_factory=list)
    spans: list[SpanRecord] = field(default_factory=list)
    gloo_spans: list[GlooSpan] = field(default_factory=list)
    """Spans that gloo reported on trace steps."""
    last_operations: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    communication_failed: bool = False
    _sequence: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    _announced: dict[int, str] = field(default_factory=dict)
    _backward_hooked: int | None = None
    _futures: list[tuple[Operation | Wait, Any]] = field(default_factory=list)
    """Operations of this step that C++ waits for, with their futures."""
    _watch: GlooSpans | None = None

    def begin_step(self, step: int, tracing: bool) -> None:
        """Begins a step. Call before its time is measured.

        Args:
            step: number of the step.
            tracing: whether it is a trace step.
        """
        self.step, self.tracing = step, tracing
        self.num_operations, self.payload_bytes, self.wait_s = 0, 0, 0.0
        self._futures.clear()
        if tracing and self.device == "cpu":
            self._watch = GlooSpans()

    def end_step(self) -> dict[str, Any]:
        """Ends a step, on GPUs after synchronization. Returns its counters as columns of ``steps``, where the wait is
        ``blocked_s``: from the start to the end of each wait. It is None on GPUs, where the host does not wait."""
        if self._watch is not None:
            self.gloo_spans += self._watch.end(self.step)
        self.tracing, self._watch = False, None
        wait_s = None if self.device == "cuda" else self.wait_s + self._futures_wait_s()
        self._futures.clear()  # and with them their tensors
        return {"num_operations": self.num_operations, "payload_bytes": self.payload_bytes, "blocked_s": wait_s}

    def begin(
        self,
        operation: str,
        group: str,
        ranks: list[int],
        tensors: list[torch.Tensor],
        payload_bytes: int,
        peer: int | None = None,
        pair: tuple[int, ...] = (),
    ) -> Operation | None:
        """Counts an operation that is about to be issued. Records and returns it on trace steps; returns None on others.

        Args:
            operation: name of the operation, as in the table ``communication``.
            group: name of its process group.
            ranks: ranks of the group.
            tensors: the payload.
            payload_bytes: its size.
            peer: rank at the other end of a send or recv, or root of a broadcast, reduce, gather or scatter.
            pair: sender and receiver of a send or recv.
        """
        self.num_operations += 1
        self.payload_bytes += payload_bytes
        with_peer = "" if peer is None else f" with rank {peer}"
        self.last_operations.append(f"step {self.step}: {operation} {payload_bytes} bytes{with_peer}")
        self._sequence[(group, *pair)] += 1
        if not self.tracing:
            return None
        dtype = str(tensors[0].dtype).removeprefix("torch.") if tensors else None
        op = Operation(
            operation,
            group,
            len(ranks),
            pair,
            self._sequence[(group, *pair)],
            peer,
            self._announced.pop(tensors[0].data_ptr() if tensors else 0, "") or self._phase_of(group, pair),
            payload_bytes,
            dtype,
            self.step,
            time.perf_counter(),
        )
        self.operations.append(op)
        return op

    def announce(self, tensors: Iterable[torch.Tensor], phase: str) -> None:
        """Sets the phase of the next operation on each of these tensors, which is issued outside the span of that phase."""
        if self.tracing:
            self._announced |= {tensor.data_ptr(): phase for tensor in tensors}

    def _phase_of(self, group: str, pair: tuple[int, ...]) -> str:
        if backward_id() is not None:
            return "backward"
        if self.phase:
            return self.phase
        if pair and self.axes.get(group) == "pipeline":
            # Between stages, outside their spans, activations are sent to higher ranks and gradients to lower ones.
            return "forward" if pair[0] < pair[1] else "backward"
        return "forward"

    def watch_future(self, op: Operation | None, future: Any) -> None:
        """Records the wait for an operation that C++ waits for through its future, such as a bucket of DDP.

        The wait starts when autograd has nothing left to compute, which is when callbacks queued on its engine run, and ends when
        the future is done.
        """
        wait = Wait() if op is None else op
        self._futures.append((wait, future))
        future.add_done_callback(lambda _: setattr(wait, "ended", time.perf_counter()))
        task = backward_id()
        if task is not None and task != self._backward_hooked:
            self._backward_hooked = task
            after_backward(self._backward_has_computed)

    def _backward_has_computed(self) -> None:
        now = time.perf_counter()
        for wait, _ in self._futures:
            if wait.wait_started is None:
                wait.wait_started = now

    def _futures_wait_s(self) -> float:
        """Returns how long C++ waited for futures, in seconds. Of several waited for at once, each counts from the end of the one
        before."""
        wait_s, free_from, waits = 0.0, float("-inf"), []
        for wait, future in self._futures:
            while wait.ended is None and future.done():
                time.sleep(1e-4)  # its callback is about to run: the thread of gloo waits for the GIL
            if wait.wait_started is not None and wait.ended is not None:
                waits.append((wait.wait_started, wait.ended))
        for started, ended in sorted(waits):
            wait_s += max(0.0, ended - max(started, free_from))
            free_from = max(ended, free_from)
        return wait_s

    def span(
        self, kind: str, stage: int | None = None, microbatch: int | None = None, name: str | None = None
    ) -> AbstractContextManager[None]:
        """Marks a span of the step; without cost unless tracing or on memory steps.

        Args:
            kind: kind of the table ``timeline``.
            stage: stage, counted from 0 over all workers.
            microbatch: microbatch, counted from 0.
            name: name of the event, such as ``zero_grad``.
        """
        if self.watcher is not None:
            return self.watcher.span(kind, stage, microbatch, name)
        return self._record_span(kind, stage, microbatch, name) if self.tracing else nullcontext()

    @contextmanager
    def _record_span(self, kind: str, stage: int | None, microbatch: int | None, name: str | None) -> Iterator[None]:
        outer = self.phase
        if kind != "schedule":  # it encloses all phases
            self.phase = kind.removesuffix("_input").removesuffix("_weight")
        record = SpanRecord(kind, self.step, stage, microbatch, name, time.perf_counter())
        try:
            yield
        finally:
            record.end = time.perf_counter()
            self.spans.append(record)
            self.phase = outer
