"""The process group that records every operation of a run and delegates it to gloo or NCCL.

torch uses a ``ProcessGroup`` subclass that a registered backend returns as the group itself, so that C++ callers (the reducer of
DDP, functional collectives) call these methods too.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.runtime.tracing.batched_p2p import coalesce_batches
from workbench.runtime.tracing.recorded_work import DoneWork, RecordedWork
from workbench.runtime.tracing.recorder import Operation, Recorder
from workbench.torch_private.distributed import (
    ALL_GATHER_INTO_TENSOR,
    REDUCE_SCATTER_TENSOR,
    ProcessGroup,
    end_coalescing,
    gloo_options,
    nccl_options,
    start_coalescing,
)

if TYPE_CHECKING:
    from workbench.runtime.link_emulation import EmulatedOperation

BACKEND = "workbench"
_LOOPBACK_NAMES = ("lo", "lo0")
"""Of Linux and of macOS."""

MakeGroup = Callable[[Any, int, int, timedelta], Any]
"""(store, rank, size, timeout) → the backend that communicates."""


def _first(args: tuple[Any, ...]) -> list[Tensor]:
    return [args[0]] if isinstance(args[0], Tensor) else list(args[0])


def _second(args: tuple[Any, ...]) -> list[Tensor]:
    return [args[1]] if isinstance(args[1], Tensor) else list(args[1])


def _flattened(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for part in value for t in _flattened(part)]


# Method of torch's ProcessGroup → name of the operation, and the tensors of its payload (the full tensor).
_OPERATIONS: dict[str, tuple[str, Callable[[tuple[Any, ...]], list[Tensor]]]] = {
    "allreduce": ("all_reduce", _first),
    "allreduce_coalesced": ("all_reduce", _first),
    "broadcast": ("broadcast", _first),
    "allgather": ("all_gather", lambda args: _flattened(args[0])),
    ALL_GATHER_INTO_TENSOR: ("all_gather", _first),
    "all_gather_single": ("all_gather", _first),
    REDUCE_SCATTER_TENSOR: ("reduce_scatter", _second),
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
    "all_gather_single": ALL_GATHER_INTO_TENSOR,
    "reduce_scatter_single": REDUCE_SCATTER_TENSOR,
    "all_to_all_single": "alltoall_base",
}


class RecordedProcessGroup(ProcessGroup):
    """A process group that records its operations.

    Args:
        inner: the process group that communicates, gloo or NCCL.
        rank: rank of this worker in the group.
        ranks: ranks of the group's members in the run.
        name: name that torch gave to the group.
        recorder: records every operation.
    """

    def __init__(self, inner: Any, rank: int, ranks: list[int], name: str, recorder: Recorder) -> None:
        super().__init__(rank, len(ranks))
        self.inner, self.ranks, self.recorder = inner, ranks, recorder
        self._name = name
        self._batch: list[tuple[Operation | None, EmulatedOperation | None, list[Tensor]]] | None = None
        """Each send or recv since ``start_coalescing``: the recorded operation on trace steps, the emulated one, its tensors."""

    def getBackendName(self) -> str:  # noqa: N802 - torch's name
        return BACKEND

    @property
    def group_name(self) -> Any:
        return self._name

    def getGroupName(self) -> str:  # noqa: N802 - torch's name
        return self._name

    def set_group_name(self, name: str) -> None:
        self._name = name

    def allgather_into_tensor_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Any:
        """Issues one all-gather per tensor, since gloo has no coalesced one."""
        works = [getattr(self, ALL_GATHER_INTO_TENSOR)(o, i) for o, i in zip(outputs, inputs, strict=True)]
        for work in works[:-1]:
            work.wait()
        return works[-1]

    def reduce_scatter_tensor_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Any:
        """Issues one reduce-scatter per tensor, since gloo has no coalesced one."""
        works = [getattr(self, REDUCE_SCATTER_TENSOR)(o, i, opts) for o, i in zip(outputs, inputs, strict=True)]
        for work in works[:-1]:
            work.wait()
        return works[-1]

    @property
    def coalesces(self) -> bool:
        """Whether the sends and recvs of a batch are issued as one: on NCCL. gloo runs each of them concurrently anyway."""
        return bool(self.inner.supports_coalescing)

    def start_coalescing(self) -> None:
        self._batch = []
        start_coalescing(self.inner)

    def end_coalescing(self) -> RecordedWork:
        """Returns one work for all operations since ``start_coalescing``."""
        assert self._batch is not None, "end_coalescing without start_coalescing"
        batch, self._batch = self._batch, None
        try:
            work = end_coalescing(self.inner) or DoneWork([])
        except RuntimeError:
            self.recorder.communication_failed = True
            raise
        ops = [op for op, _, _ in batch if op is not None]
        for op in ops:
            op.issued = time.perf_counter()
        for _, emulated, _ in batch:
            if self.recorder.emulated_links and emulated:
                work = self.recorder.emulated_links.delay(work, emulated)
        return RecordedWork(work, ops, self.recorder, sent=[tensor for _, _, tensors in batch for tensor in tensors])

    def _issue(self, method: str, *args: Any, **kwargs: Any) -> RecordedWork | None:
        operation, payload = _OPERATIONS[method]
        tensors, peer, pair = payload(args), self._peer(operation, args), self._pair(operation, args)
        payload_bytes = sum(tensor.nbytes for tensor in tensors)
        op = self.recorder.begin(operation, self._name, self.ranks, tensors, payload_bytes, peer, pair)
        if self.recorder.watcher is not None:
            self.recorder.watcher.on_communication(operation, self.recorder.axes.get(self._name), args)
        if operation == "send":
            # gloo accepts only contiguous tensors; the gradient of a recurrent stage's input is a transposed view.
            args = ([tensor.contiguous() for tensor in args[0]], *args[1:])
        inner, links = getattr(self.inner, _INNER_NAME.get(method, method)), self.recorder.emulated_links
        emulated = links.enter(operation, self._name, self.ranks, pair, payload_bytes) if links else None
        started = time.perf_counter()
        try:
            work = inner(*args, **kwargs)
        except RuntimeError:
            self.recorder.communication_failed = True
            raise
        ended = time.perf_counter()
        if op is not None:
            op.issued, op.emulated = ended, emulated
        if self._batch is not None and pair:
            self._batch.append((op, emulated, args[0]))
            return None  # as NCCL; the batch has one work
        if work is None:  # a synchronous collective of NCCL: the call is the wait
            work = DoneWork(_flattened(args[0]) if tensors else [])
            self.recorder.wait_s += ended - started
            if op is not None:
                op.issued, op.wait_started, op.ended = op.entered, op.entered, ended
        work = links.delay(work, emulated) if links and emulated else work
        return RecordedWork(work, [op] if op else [], self.recorder, sent=args[0] if operation == "send" else [])

    def _pair(self, operation: str, args: tuple[Any, ...]) -> tuple[int, ...]:
        """Returns sender and receiver of a send or recv, nothing for collectives."""
        if operation not in ("send", "recv"):
            return ()
        pair = self.ranks[self.rank()], self.ranks[int(args[1])]
        return pair if operation == "send" else pair[::-1]

    def _peer(self, operation: str, args: tuple[Any, ...]) -> int | None:
        """Returns the rank at the other end of a send or recv, or the root of an operation that has one."""
        if operation in ("send", "recv"):
            return self.ranks[int(args[1])]
        return self.ranks[int(args[-1].rootRank)] if operation in _ROOTED else None


def _method(name: str) -> Callable[..., RecordedWork | None]:
    def call(self: RecordedProcessGroup, *args: Any, **kwargs: Any) -> RecordedWork | None:
        return self._issue(name, *args, **kwargs)

    call.__name__ = name
    return call


for _name in _OPERATIONS:
    setattr(RecordedProcessGroup, _name, _method(_name))


def register_backend(recorder: Recorder, device: str, make_group: MakeGroup | None = None) -> str:
    """Registers the backend of recorded process groups with torch. Returns its name.

    Args:
        recorder: records every operation.
        device: kind of device that the groups' tensors are on, ``cpu`` or ``cuda``.
        make_group: makes the backend that communicates; by default gloo on ``cpu``, NCCL on ``cuda``.
    """
    recorder.device = device
    coalesce_batches()
    create = functools.partial(_create, recorder, make_group or (nccl if device == "cuda" else gloo))
    dist.Backend.register_backend(BACKEND, create, extended_api=True, devices=[device])
    return BACKEND


def _create(recorder: Recorder, make_group: MakeGroup, options: Any, backend_options: Any) -> RecordedProcessGroup:
    inner = make_group(options.store, options.group_rank, options.group_size, options.timeout)
    ranks = list(options.global_ranks_in_group) or list(range(options.group_size))
    return RecordedProcessGroup(inner, options.group_rank, ranks, options.group_id, recorder)


def gloo(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """Returns a gloo group for CPU tensors, over loopback."""
    # By address: the default resolves the name of the host, which fails on laptops without a network.
    devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    return dist.ProcessGroupGloo(store, rank, size, gloo_options(devices, timeout))


def nccl(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """Returns an NCCL group for tensors on NVIDIA GPUs."""
    return dist.ProcessGroupNCCL(store, rank, size, nccl_options(timeout))


def control_group(timeout: timedelta) -> Any:
    """Returns a gloo group over all workers that is not recorded, for communication outside steps: clocks, parity, the end.

    Like the recorded groups it uses loopback, whatever interface ``GLOO_SOCKET_IFNAME`` names: all workers are on one machine.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = next(name for _, name in socket.if_nameindex() if name in _LOOPBACK_NAMES)
    return dist.new_group(backend="gloo", timeout=timeout)


def device_of(kind: str, rank: int) -> torch.device:
    """Returns the device of a worker.

    Args:
        kind: ``cpu`` or ``cuda``.
        rank: rank of the worker.
    """
    return torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")
