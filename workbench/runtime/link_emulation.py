"""Link emulation (``[link]`` in a spec): delays the completion of each operation until a slower link would have completed it.

The real operation runs. The emulated one begins when its last participant has entered it (a send: the sender) and its links are
free, and takes the time of the formulas in ``plan/link_model.py``. Workers share their entry times through memory of the machine,
whose clock they also share: once the real operation is done, the entry times of all participants are there. ``docs/links.md``
describes the model and its limits.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import heapq
import itertools
import mmap
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from workbench.plan.collective_costs import OPERATIONS
from workbench.plan.link_model import Route, link_index, route
from workbench.plan.mesh import WORLD, Mesh
from workbench.spec.link import Link

NUM_CHANNELS = 1024
"""Largest number of groups of workers, and of ordered pairs within groups, of a run."""
DEPTH = 2048
"""Operations of a channel that the board keeps. A worker may be half of them ahead of the others."""
SPIN_S = 100e-6
"""The end of a wait is spun instead of slept, because a sleep may last this much longer than requested."""

Use = tuple[int, int, int]
"""One direction of one link: index of the link, its worker or node, and 0 for out or 1 for in."""


class EntryBoard:
    """Shared memory of the workers: when each entered which operation, when operations began, and when each link is free again.

    Args:
        path: file of the memory.
        num_workers: number of workers of the run.
        num_links: number of emulated links of the spec.
    """

    def __init__(self, path: str, num_workers: int, num_links: int) -> None:
        self._file = os.open(path, os.O_RDWR)
        shapes = (NUM_CHANNELS,), (NUM_CHANNELS, DEPTH, num_workers), (NUM_CHANNELS, DEPTH, 2), (num_links, num_workers, 2)
        sizes = [8 * int(np.prod(shape)) for shape in shapes]
        os.ftruncate(self._file, sum(sizes))  # zeros that take no memory until they are written
        memory = mmap.mmap(self._file, sum(sizes))
        offsets = itertools.accumulate(sizes, initial=0)
        kinds = np.uint64, np.float64, np.float64, np.float64
        arrays = [np.ndarray(shape, kind, memory, at) for shape, kind, at in zip(shapes, kinds, offsets, strict=False)]
        self._names, self.entered, self._begun, self._free_from = arrays

    @contextlib.contextmanager
    def mutex(self) -> Iterator[None]:
        """Excludes all other workers."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def channel(self, key: tuple[Any, ...]) -> int:
        """Returns the number of the channel of a group or pair, the same on every worker."""
        name = np.uint64(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") or 1)
        with self.mutex():
            taken = np.flatnonzero((self._names == name) | (self._names == 0))
            assert len(taken), f"link emulation supports at most {NUM_CHANNELS} groups and pairs of workers"
            self._names[taken[0]] = name
        return int(taken[0])

    def begin(self, emulated: EmulatedOperation) -> float:
        """Returns when an operation begins that all participants have entered. The first call reserves its links. Requires
        ``mutex``."""
        begun = self._begun[emulated.channel, emulated.sequence % DEPTH]  # (sequence number from 1, time)
        if begun[0] != emulated.sequence + 1:
            start = max([emulated.last_entry, *(self._free_from[use] for use in emulated.uses)])
            for use in emulated.uses:
                self._free_from[use] = start + emulated.busy_s
            begun[:] = emulated.sequence + 1, start
        return float(begun[1])


@dataclass
class EmulatedOperation:
    """One operation over an emulated link, from the point of view of one worker; times in seconds of the monotonic clock."""

    channel: int
    sequence: int
    """Number of the operation in its channel, from 0."""

    entries: np.ndarray[Any, Any]
    """When each rank entered it; 0 before that."""

    ranks: list[int]
    """The participants that must have entered before it begins."""

    uses: list[Use]
    busy_s: float
    """How long it occupies its links."""

    duration_s: float
    """How long it takes for this worker."""

    end: float | None = None
    """When it is complete for this worker; None until that is known."""

    @property
    def last_entry(self) -> float:
        """Returns when the last required participant entered."""
        return float(self.entries[self.ranks].max())

    @property
    def all_entered(self) -> bool:
        """Whether all required participants have entered."""
        return bool(self.entries[self.ranks].all())


class EmulatedLinks:
    """The emulated links of one worker, made by ``emulate_links``."""

    def __init__(self, link: Link, mesh: Mesh, axes: dict[str, str], here: int, board: EntryBoard) -> None:
        self._link, self._mesh, self._axes, self._here, self._board = link, mesh, axes, here, board
        self._names = list(link.parts)
        self._channels: dict[tuple[Any, ...], int] = {}
        self._sequence: Counter[int] = Counter()
        self._routes: dict[tuple[str, tuple[int, ...]], Route] = {}
        self._pending: list[EmulatedOperation] = []
        self._lock = threading.Lock()
        self.timer = Timer()

    def enter(
        self, operation: str, group: str, ranks: list[int], pair: tuple[int, ...], num_bytes: int
    ) -> EmulatedOperation | None:
        """Records that this worker enters an operation, before the real one is issued.

        Args:
            operation: name of the operation, as in the table ``communication``.
            group: name of its process group.
            ranks: ranks of the group.
            pair: sender and receiver of a send or recv; empty for collectives.
            num_bytes: payload.

        Returns:
            The emulated operation; None if it uses no emulated link.
        """
        here, ends = self._here, list(pair)
        link = self._route(group, ends or ranks)
        if not link.is_emulated or operation not in OPERATIONS:
            return None
        duration_s = link.duration_s(operation, len(ranks), num_bytes)
        transmission_s = link.transmission_s(operation, len(ranks), num_bytes)
        with self._lock:
            channel = self._channel((group, *ranks, *ends))
            sequence = self._sequence[channel]
            self._sequence[channel] += 1
            entries = self._board.entered[channel]
            entries[(sequence + DEPTH // 2) % DEPTH, here] = 0.0  # from the round before
            entries[sequence % DEPTH, here] = time.perf_counter()
            emulated = EmulatedOperation(
                channel,
                sequence,
                entries[sequence % DEPTH],
                ends[:1] or ranks,
                self._uses(link, ranks, ends),
                # A collective occupies its links during all its steps, with latencies; a message only while it transfers bytes.
                busy_s=transmission_s if ends else duration_s,
                # A sender is free when its last byte has left.
                duration_s=transmission_s if operation == "send" else duration_s,
            )
            self._pending.append(emulated)
        return emulated

    def delay(self, work: Any, emulated: EmulatedOperation) -> DelayedWork:
        """Returns a work that is complete when both the real and the emulated operation are."""
        return DelayedWork(work, emulated, self)

    def end_of(self, emulated: EmulatedOperation) -> float:
        """Returns when an operation is complete for this worker. Requires that the real operation is."""
        with self._lock:
            if emulated.end is None:
                ready = [p for p in self._pending if p is emulated or p.all_entered]
                with self._board.mutex():
                    for each in sorted(ready, key=lambda p: p.last_entry):  # the order in which links are reserved
                        each.end = self._board.begin(each) + each.duration_s
                self._pending = [p for p in self._pending if p.end is None]
            assert emulated.end is not None
            return emulated.end

    def _uses(self, link: Route, ranks: list[int], ends: list[int]) -> list[Use]:
        """Returns the links that an operation occupies: for a message, out of the sender and into the receiver; else both
        directions of all workers."""
        sides = zip(ends, (0, 1), strict=True) if ends else itertools.product(ranks, (0, 1))
        places = {(self._names.index(n), link_index(self._link, n, rank), side) for rank, side in sides for n in link.names}
        return sorted(places)

    def _channel(self, key: tuple[Any, ...]) -> int:
        if key not in self._channels:
            self._channels[key] = self._board.channel(key)
        return self._channels[key]

    def _route(self, group: str, members: list[int]) -> Route:
        key = group, tuple(members)
        if key not in self._routes:
            self._routes[key] = route(self._link, self._mesh, self._axes.get(group, WORLD), members)
        return self._routes[key]


class DelayedWork:
    """The work of a real operation, complete no earlier than the emulated one. The delay elapses while the worker computes."""

    def __init__(self, inner: Any, emulated: EmulatedOperation, links: EmulatedLinks) -> None:
        self._inner, self._emulated, self._links = inner, emulated, links

    def wait(self, *timeout: timedelta) -> bool:
        done = self._inner.wait(*timeout)
        _sleep_until(self._links.end_of(self._emulated))
        return bool(done)

    def get_future(self) -> Any:
        return self._links.timer.delay(self._inner.get_future(), lambda: self._links.end_of(self._emulated))

    def is_completed(self) -> bool:
        return self._inner.is_completed() and time.perf_counter() >= self._links.end_of(self._emulated)

    def is_success(self) -> bool:
        return bool(self._inner.is_success())

    def result(self) -> Any:
        return self._inner.result()


class Timer:
    """Completes futures at given times in a thread of its own, so that neither DDP, which waits for them in C++, nor the threads
    of gloo are blocked."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Any, Any]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def delay(self, future: Any, end: Callable[[], float]) -> Any:
        """Returns a future with the value or the exception of ``future``, done at the time ``end()``, which is evaluated when
        ``future`` is done."""
        late: Any = torch.futures.Future()
        future.add_done_callback(lambda done: self._put(end(), late, done))
        # The done future is the value of the late one, so that an exception is raised as C++ expects it.
        return late.then(lambda it: it.value().value())

    def _put(self, moment: float, late: Any, done: Any) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (moment, next(self._numbers), late, done))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting or (left := self._waiting[0][0] - time.perf_counter()) > SPIN_S:
                    self._changed.wait(left - SPIN_S if self._waiting else None)
                moment, _, late, done = heapq.heappop(self._waiting)
            _sleep_until(moment)
            late.set_result(done)


def _sleep_until(moment: float) -> None:
    if (left := moment - time.perf_counter()) > SPIN_S:
        time.sleep(left - SPIN_S)
    while time.perf_counter() < moment:
        pass


def emulate_links(link: Link, mesh: Mesh, axes: dict[str, str], rank: int, control: Any) -> EmulatedLinks | None:
    """Returns the emulated links of a worker; None if the spec emulates none. Called by all workers together.

    Args:
        link: the options ``[link]`` of the spec.
        mesh: mesh of the run.
        axes: name of a process group → mesh axis that it spans; read when a group is first used.
        rank: rank of this worker.
        control: process group over all workers that is not recorded.
    """
    if not link.parts or mesh.num_workers == 1:
        return None
    path = [""]
    if rank == 0:
        memory = Path("/dev/shm")
        handle, path[0] = tempfile.mkstemp(prefix="workbench-links-", dir=memory if memory.is_dir() else None)
        os.close(handle)
    dist.broadcast_object_list(path, src=0, group=control)
    board = EntryBoard(path[0], mesh.num_workers, len(link.parts))
    dist.barrier(group=control)
    if rank == 0:
        Path(path[0]).unlink()  # the memory exists until the last worker unmaps it
    return EmulatedLinks(link, mesh, axes, rank, board)
