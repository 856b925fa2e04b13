"""A process group of our own around the real one: it sees every operation, DDP's buckets included.

torch takes a ``ProcessGroup`` subclass that a registered backend returns as the group itself, so C++ callers (DDP's
reducer, functional collectives) reach these methods too.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.runtime.cuda_events import event_when_done
from workbench.runtime.recorder import Operation, Recorder

BACKEND = "workbench"


class RecordedWork(dist.Work):
    """Passes on to the real work and notes when the worker began and ended to wait for it."""

    def __init__(self, inner: Any, row: Operation | None, recorder: Recorder, sent: list[Tensor] | None) -> None:
        super().__init__()
        self.inner, self.row, self.recorder = inner, row, recorder
        self._sent = sent  # alive until it has been

    def wait(self, timeout: timedelta | None = None) -> bool:
        started = time.perf_counter()
        try:
            self.inner.wait(timeout) if timeout else self.inner.wait()
        except RuntimeError:
            self.recorder.communication_failed = True
            raise
        ended = time.perf_counter()
        self.recorder.blocked_s += ended - started
        if self.row is not None and self.row.wait_started is None:
            self.row.wait_started, self.row.ended = started, ended
        return True

    def get_future(self) -> Any:
        future = self.inner.get_future()
        self.recorder.watch_future(self.row, future)
        return future

    def is_completed(self) -> bool:
        return self.inner.is_completed()  # type: ignore[no-any-return]

    def is_success(self) -> bool:
        return self.inner.is_success()  # type: ignore[no-any-return]

    def result(self) -> Any:
        return self.inner.result()


def _first(args: tuple[Any, ...]) -> list[Tensor]:
    return [args[0]] if isinstance(args[0], Tensor) else list(args[0])


def _second(args: tuple[Any, ...]) -> list[Tensor]:
    return [args[1]] if isinstance(args[1], Tensor) else list(args[1])


def _flattened(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for part in value for t in _flattened(part)]


# Method of torch's ProcessGroup → our word for it, and which arguments hold the payload (the full tensor).
_OPERATIONS: dict[str, tuple[str, Callable[[tuple[Any, ...]], list[Tensor]]]] = {
    "allreduce": ("all_reduce", _first),
    "allreduce_coalesced": ("all_reduce", _first),
    "broadcast": ("broadcast", _first),
    "allgather": ("all_gather", lambda args: _flattened(args[0])),
    "_allgather_base": ("all_gather", _first),
    "all_gather_single": ("all_gather", _first),
    "_reduce_scatter_base": ("reduce_scatter", _second),
    "reduce_scatter_single": ("reduce_scatter", _second),
    "reduce_scatter": ("reduce_scatter", lambda args: _flattened(args[1])),
    "alltoall": ("all_to_all", _second),
    "alltoall_base": ("all_to_all", _second),
    "all_to_all_single": ("all_to_all", _second),
    "gather": ("gather", lambda args: _flattened(args[0])),
    "scatter": ("scatter", _first),
    "reduce": ("reduce", _first),
    "barrier": ("barrier", lambda args: []),
    "send": ("send", _first),
    "recv": ("recv", _first),
}
_ROOTED = ("broadcast", "reduce", "gather", "scatter")
_INNER_NAME = {
    "all_gather_single": "_allgather_base",
    "reduce_scatter_single": "_reduce_scatter_base",
    "all_to_all_single": "alltoall_base",
}


class RecordedProcessGroup(dist.ProcessGroup):
    """The process group that a run's workers communicate through."""

    def __init__(self, inner: Any, rank: int, ranks: list[int], name: str, recorder: Recorder) -> None:
        super().__init__(rank, len(ranks))  # type: ignore[call-arg]  # torch's stub lacks this overload
        self.inner, self.ranks, self.recorder = inner, ranks, recorder
        self._name = name

    def getBackendName(self) -> str:  # noqa: N802 - torch's name
        return BACKEND

    @property
    def group_name(self) -> Any:
        return self._name

    def getGroupName(self) -> str:  # noqa: N802 - torch's name
        return self._name

    def _set_group_name(self, name: str) -> None:
        self._name = name

    def allgather_into_tensor_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Any:
        """gloo has none: one gather a tensor."""
        works = [self._allgather_base(o, i) for o, i in zip(outputs, inputs, strict=True)]
        for work in works[:-1]:
            work.wait()
        return works[-1]

    def reduce_scatter_tensor_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Any:
        """Likewise."""
        works = [self._reduce_scatter_base(o, i, opts) for o, i in zip(outputs, inputs, strict=True)]
        for work in works[:-1]:
            work.wait()
        return works[-1]

    def _issue(self, method: str, *args: Any, **kwargs: Any) -> RecordedWork:
        operation, payload = _OPERATIONS[method]
        peer = self._peer(operation, args)
        here = self.ranks[self.rank()]
        row = self.recorder.begin(operation, self._name, self.ranks, payload(args), here, peer)
        if self.recorder.watcher is not None:
            self.recorder.watcher.moves(operation, self.recorder.axes.get(self._name), args)
        if operation == "send":
            # gloo takes contiguous tensors alone; the gradient of a recurrent stage's input is a transposed view.
            args = ([tensor.contiguous() for tensor in args[0]], *args[1:])
        inner, links = getattr(self.inner, _INNER_NAME.get(method, method)), self.recorder.links
        other = peer if operation in ("send", "recv") else None
        passage = links.enter(operation, self._name, self.ranks, other, payload(args)) if links else None
        try:
            work = inner(*args, **kwargs)
        except RuntimeError:
            self.recorder.communication_failed = True
            raise
        if row is not None:
            row.issued = time.perf_counter()
            row.passage = passage
            row.is_done = event_when_done(work) if self.recorder.device == "cuda" else None
        work = links.delay(work, passage) if links and passage else work
        return RecordedWork(work, row, self.recorder, sent=args[0] if operation == "send" else None)

    def _peer(self, operation: str, args: tuple[Any, ...]) -> int | None:
        """The other side of a send or recv, the root of what has one."""
        if operation in ("send", "recv"):
            return self.ranks[int(args[1])]
        return self.ranks[int(args[-1].rootRank)] if operation in _ROOTED else None


def _method(name: str) -> Callable[..., RecordedWork]:
    def call(self: RecordedProcessGroup, *args: Any, **kwargs: Any) -> RecordedWork:
        return self._issue(name, *args, **kwargs)

    call.__name__ = name
    return call


for _name in _OPERATIONS:
    setattr(RecordedProcessGroup, _name, _method(_name))


def register_backend(recorder: Recorder, device: str) -> str:
    """Makes the backend known to torch; its groups record into ``recorder``. Returns its name."""
    recorder.device = device
    create = functools.partial(_create, recorder, device)
    dist.Backend.register_backend(BACKEND, create, extended_api=True, devices=[device])
    return BACKEND


def _create(recorder: Recorder, device: str, options: Any, backend_options: Any) -> RecordedProcessGroup:
    make = _nccl if device == "cuda" else _gloo
    inner = make(options.store, options.group_rank, options.group_size, options.timeout)
    ranks = list(options.global_ranks_in_group) or list(range(options.group_size))
    return RecordedProcessGroup(inner, options.group_rank, ranks, options.group_id, recorder)


def _gloo(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch's stub lacks it
    # Loopback by address: the default looks the host's name up, which laptops off their network fail to resolve.
    options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = timeout
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, size, options)


def control_group(timeout: timedelta) -> Any:
    """A plain gloo group over all workers for what is not part of a step: clocks, pieces to compare, the end."""
    return dist.new_group(backend="gloo", timeout=timeout)


def device_of(kind: str, rank: int) -> torch.device:
    """The device that a worker computes on."""
    return torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")
