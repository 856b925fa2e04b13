"""Workers of the tensor axis simulated by threads of one process, which verify a tensor plan before there are workers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from workbench.plan.tensor_plan import SliceCommunication

R = TypeVar("R")
_LIMIT_S = 60.0
"""Longest time that a worker waits for the others."""
_SWITCH_S = 1e-4
"""Longest time that a worker keeps the interpreter while others wait for it; Python's own, 5 ms, is longer than their work."""


class Workers:
    """What the simulated workers share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.phases = ["forward"] * size
        """Of each worker."""
        self._barrier = threading.Barrier(size, timeout=_LIMIT_S)
        self._tensors = [[torch.empty(0)] * size, [torch.empty(0)] * size]
        """Of this exchange and of the last one, which a slow worker may still read."""
        self._counts = [0] * size

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        """Returns the tensors of all workers, by rank."""
        tensors = self._tensors[self._counts[rank] % 2]
        self._counts[rank] += 1
        tensors[rank] = tensor.detach()
        self._barrier.wait()
        return list(tensors)

    def run(self, work: Callable[[SimulatedMesh], R]) -> list[R]:
        """Returns the results of ``work`` on each worker, by rank.

        Raises:
            Exception: what the first worker that failed raised.
        """

        def attempt(rank: int) -> R:
            try:
                return work(SimulatedMesh(self, rank))
            except BaseException:
                self._barrier.abort()  # the others would wait for it
                raise

        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            with ThreadPoolExecutor(self.size) as pool:
                results = [pool.submit(attempt, rank) for rank in range(self.size)]
        finally:
            sys.setswitchinterval(interval)
        errors = [error for error in (result.exception() for result in results) if error is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [result.result() for result in results]


class LikeOthers(Workers):
    """A single worker, as if the others had the same tensors: it shows shapes."""

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        return [tensor.detach()] * self.size


class SimulatedMesh:
    """One worker's view of the axis; takes the place of a ``DeviceMesh`` in ``collectives``."""

    def __init__(self, workers: Workers, rank: int) -> None:
        self._workers, self._rank = workers, rank
        self.communication: list[SliceCommunication] = []
        """Collectives so far, with the elements of all samples."""

    def size(self) -> int:
        """Returns the number of workers."""
        return self._workers.size

    def get_local_rank(self) -> int:
        """Returns the index of this worker."""
        return self._rank

    def part(self) -> SimulatedMesh:
        """Returns a view of the same workers that notes the communication of its own."""
        return SimulatedMesh(self._workers, self._rank)

    def begin(self, phase: str) -> None:
        """Sets the phase of the following communication."""
        self._workers.phases[self._rank] = phase

    def all_reduced(self, x: Tensor) -> Tensor:
        """As ``collectives.all_reduced``."""
        self._note("all_reduce", x.numel())
        first, *others = self._workers.exchange(self._rank, x)
        total = first.clone()
        for tensor in others:
            total += tensor
        return total

    def all_gathered(self, x: Tensor, dim: int) -> Tensor:
        """As ``collectives.all_gathered``."""
        self._note("all_gather", x.numel() * self.size())
        return torch.cat(self._workers.exchange(self._rank, x), dim)

    def _note(self, operation: str, elements: int) -> None:
        self.communication.append(SliceCommunication(operation, self._workers.phases[self._rank], elements))
