"""A process group over gloo, on CPU tensors, with the contract of NCCL where it differs from that of gloo.

``run_in_workers(2, function, make_group=NCCLDouble)`` and ``assert_conforms(spec, make_group=NCCLDouble)`` run over it. It
shows deadlocks and refused tensors. It cannot show what only CUDA does: streams, the caching allocator, real transport.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from workbench.runtime.tracing.process_group import gloo
from workbench.torch_private.distributed import ALL_GATHER_INTO_TENSOR, REDUCE_SCATTER_TENSOR, Backend

DEADLOCK_S = 30.0
"""Seconds after which an operation is reported as a deadlock; operations of tests take milliseconds."""
_CONNECT, _PAIR, _GROUP = 1, (2, 3), (4, 5)
"""gloo's tags: to create the communicator of a pair; and on that of a pair and on that of the group, to announce a receive and to
transfer."""
_COLLECTIVES = (
    "allreduce", "allreduce_coalesced", "broadcast", "allgather", ALL_GATHER_INTO_TENSOR, REDUCE_SCATTER_TENSOR, "reduce_scatter",
    "alltoall", "alltoall_base", "gather", "scatter", "reduce", "barrier",
)  # fmt: skip
_DTYPES = {
    torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool,
}  # fmt: skip
"""Data types of ``ncclDataType`` (``getNcclDataType`` of ProcessGroupNCCL)."""


class StreamWork:
    """Work on a stream: runs once all earlier work on the stream is complete. Its operations are those of one group call and run
    concurrently."""

    def __init__(self, operations: list[Callable[[], None]], before: StreamWork | None) -> None:
        self._done, self._future = threading.Event(), torch.futures.Future[list[Tensor]]()
        self._error: RuntimeError | None = None
        threading.Thread(target=self._run, args=(operations, before), daemon=True).start()

    def _run(self, operations: list[Callable[[], None]], before: StreamWork | None) -> None:
        if before is not None:
            before._done.wait()
        threads = [threading.Thread(target=self._call, args=(operation,), daemon=True) for operation in operations]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._done.set()
        if self._error is None:
            self._future.set_result([])
        else:
            self._future.set_exception(self._error)  # type: ignore[arg-type]  # torch's stub takes no exception

    def _call(self, operation: Callable[[], None]) -> None:
        try:
            operation()
        except RuntimeError as error:
            self._error = error

    def wait(self, *timeout: timedelta) -> bool:
        if not self._done.wait(DEADLOCK_S):
            raise RuntimeError("NCCL double: deadlock: a send or recv waits for one that its peer has issued behind another")
        if self._error is not None:
            raise self._error
        return True

    def synchronize(self) -> None:
        self.wait()

    def get_future(self) -> Any:
        return self._future

    def is_completed(self) -> bool:
        return self._done.is_set()

    def is_success(self) -> bool:
        return self._done.is_set() and self._error is None

    def result(self) -> list[Tensor]:
        return []


class NCCLDouble(Backend):
    """Behaviour of ``ProcessGroupNCCL`` (torch ≥ 2.7) besides the transfer of bytes:

    - A synchronous collective returns None.
    - A send ends only with its receive, as every message larger than NCCL's buffers does.
    - Sends and recvs of a pair of ranks that are not coalesced run in the order of their issue, whatever their direction.
    - What is issued between ``start_coalescing`` and ``end_coalescing`` returns None and runs at once.
    - A communicator (of the group; of a pair of ranks for sends and recvs that are not coalesced) is created at its first
      operation, which blocks until all its ranks come to theirs.
    - Tensors must be contiguous, dense and of NCCL's types; tags are ignored.
    """

    supports_coalescing = True

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        self._gloo = gloo(store, rank, size, timeout)
        self._last: dict[int | None, StreamWork] = {}
        """Last work on the stream of a peer, or of the group (None)."""
        self._communicators = set[int | None]()
        """Peers that have a communicator, and None for the group."""
        self._batch: list[tuple[str, list[Tensor], int]] | None = None

    def send(self, tensors: list[Tensor], peer: int, tag: int) -> StreamWork | None:
        return self._point_to_point("send", tensors, peer)

    def recv(self, tensors: list[Tensor], peer: int, tag: int) -> StreamWork | None:
        return self._point_to_point("recv", tensors, peer)

    def start_coalescing(self) -> None:
        self._batch = []

    def end_coalescing(self) -> StreamWork | None:
        assert self._batch is not None
        batch, self._batch = self._batch, None
        if not batch:
            return None
        self._create_communicator()
        ways: dict[tuple[str, int], list[list[Tensor]]] = {}
        for kind, tensors, peer in batch:  # operations of a pair of ranks in one direction keep their order
            ways.setdefault((kind, peer), []).append(tensors)
        return self._enqueue(None, [self._exchange(*way, messages, _GROUP) for way, messages in ways.items()])

    def _collective(self, name: str, *args: Any) -> Any:
        _check(_tensors(args))
        self._create_communicator()
        work = getattr(self._gloo, name)(*args)
        if next((arg.asyncOp for arg in args if hasattr(arg, "asyncOp")), True):
            return work
        work.wait()
        return None

    def _point_to_point(self, kind: str, tensors: list[Tensor], peer: int) -> StreamWork | None:
        _check(tensors)
        if self._batch is not None:
            self._batch.append((kind, tensors, peer))
            return None
        if peer not in self._communicators:
            self._communicators.add(peer)
            token = torch.zeros(1)
            works = [self._gloo.send([token], peer, _CONNECT), self._gloo.recv([torch.empty(1)], peer, _CONNECT)]
            _await(works, f"rank {self._gloo.rank()} and rank {peer}")
        return self._enqueue(peer, [self._exchange(kind, peer, [tensors], _PAIR)])

    def _enqueue(self, stream: int | None, operations: list[Callable[[], None]]) -> StreamWork:
        self._last[stream] = work = StreamWork(operations, self._last.get(stream))
        return work

    def _exchange(self, kind: str, peer: int, messages: list[list[Tensor]], tags: tuple[int, int]) -> Callable[[], None]:
        """Returns a function that sends or receives messages one after the other, each once the receiver is ready."""
        ready, data = tags

        def exchange() -> None:
            for tensors in messages:
                if kind == "send":
                    self._gloo.recv([torch.empty(1)], peer, ready).wait()
                    self._gloo.send(tensors, peer, data).wait()
                else:
                    self._gloo.send([torch.zeros(1)], peer, ready).wait()
                    self._gloo.recv(tensors, peer, data).wait()

        return exchange

    def _create_communicator(self) -> None:
        if None not in self._communicators:
            self._communicators.add(None)
            _await([self._gloo.allreduce([torch.zeros(1)])], "all ranks of the group")


for _name in _COLLECTIVES:
    setattr(NCCLDouble, _name, functools.partialmethod(NCCLDouble._collective, _name))


def _await(works: list[Any], ranks_text: str) -> None:
    try:
        for work in works:
            work.wait(timedelta(seconds=DEADLOCK_S))
    except RuntimeError as error:
        raise RuntimeError(
            f"NCCL double: deadlock: the communicator of {ranks_text} is created only once each comes to it"
        ) from error


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _check(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        if tensor.layout != torch.strided or not tensor.is_contiguous():
            raise ValueError(f"NCCL double: tensors must be contiguous and dense, not {tuple(tensor.shape)} by {tensor.stride()}")
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"NCCL double: NCCL has no {tensor.dtype}")
