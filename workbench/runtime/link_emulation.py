"""Emulates slower links: the real operation is done, and its completion held back until the emulated one would be.

An emulated operation begins when the last of its participants has entered it (a send: the sender) and its links are free,
and takes what ``plan/link_model.py`` says. Nobody knows when the others enter, so each writes it on a board in memory that all
workers of the machine share, whose clock is one too; once the real operation is done, everybody's entry stands there.
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

from workbench.plan.link_model import OPERATIONS, Route, place, route
from workbench.plan.mesh import WORLD, Mesh
from workbench.spec.link import Link

NUM_CHANNELS = 1024
"""Groups of workers, and ordered pairs within groups, that a run may have."""
DEPTH = 2048
"""Operations of a channel that the board remembers; a worker may be half of them ahead of the others."""
SPIN_S = 100e-6
"""A sleep may last this much longer than asked; so much is waited for awake."""

Use = tuple[int, int, int]
"""One direction of one link: the link's index, the place where it is, 0 out and 1 in."""


class Board:
    """What the workers tell one another: when each entered what, when it began, and until when every link is busy."""

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
        """One worker at a time."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def channel(self, key: tuple[Any, ...]) -> int:
        """Number of a channel, the same on every worker that names it."""
        name = np.uint64(int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") or 1)
        with self.mutex():
            taken = np.flatnonzero((self._names == name) | (self._names == 0))
            assert len(taken), f"link emulation supports at most {NUM_CHANNELS} groups and pairs of workers"
            self._names[taken[0]] = name
        return int(taken[0])

    def begin(self, passage: Passage) -> float:
        """When an operation that all have entered begins; whoever asks first takes its links. Needs the mutex."""
        begun = self._begun[passage.channel, passage.sequence % DEPTH]  # (sequence number from 1, time)
        if begun[0] != passage.sequence + 1:
            start = max([passage.last_entry, *(self._free_from[use] for use in passage.uses)])
            for use in passage.uses:
                self._free_from[use] = start + passage.busy_s
            begun[:] = passage.sequence + 1, start
        return float(begun[1])


@dataclass
class Passage:
    """One operation on its way over an emulated link, as one worker sees it."""

    channel: int
    sequence: int
    """Which operation of the channel it is, from 0."""

    entries: np.ndarray[Any, Any]
    """When each rank entered it; 0: not yet."""

    ranks: list[int]
    """Whose entry it needs to begin."""

    uses: list[Use]
    busy_s: float
    """How long it keeps its links busy."""

    duration_s: float
    """How long it lasts for this worker."""

    end: float | None = None
    """When it is over for this worker."""

    @property
    def last_entry(self) -> float:
        """When the last of those whose entry it needs entered."""
        return float(self.entries[self.ranks].max())

    @property
    def has_all(self) -> bool:
        """Whether all required ranks have entered."""
        return bool(self.entries[self.ranks].all())


class Links:
    """The emulated links of one worker."""

    def __init__(self, link: Link, mesh: Mesh, axes: dict[str, str], here: int, board: Board) -> None:
        self._link, self._mesh, self._axes, self._here, self._board = link, mesh, axes, here, board
        self._names = list(link.parts)
        self._channels: dict[tuple[Any, ...], int] = {}
        self._sequence: Counter[int] = Counter()
        self._routes: dict[tuple[str, tuple[int, ...]], Route] = {}
        self._pending: list[Passage] = []
        self._lock = threading.Lock()
        self.timer = Timer()

    def enter(self, operation: str, group: str, ranks: list[int], pair: tuple[int, ...], num_bytes: int) -> Passage | None:
        """Notes, before the real operation is issued, that this worker enters it; None: no emulated link is in its way."""
        here, ends = self._here, list(pair)
        way = self._route(group, ends or ranks)
        if not way.is_emulated or operation not in OPERATIONS:
            return None
        lasts_s = way.duration_s(operation, len(ranks), num_bytes)
        bytes_s = way.bytes_s(operation, len(ranks), num_bytes)
        with self._lock:
            channel = self._channel((group, *ranks, *ends))
            sequence = self._sequence[channel]
            self._sequence[channel] += 1
            entries = self._board.entered[channel]
            entries[(sequence + DEPTH // 2) % DEPTH, here] = 0.0  # from the round before
            entries[sequence % DEPTH, here] = time.perf_counter()
            passage = Passage(
                channel,
                sequence,
                entries[sequence % DEPTH],
                ends[:1] or ranks,
                self._uses(way, ranks, ends),
                # The steps of a collective wait for one another, latencies and all; messages may follow at once.
                busy_s=bytes_s if ends else lasts_s,
                # A sender is free when its last byte has left.
                duration_s=bytes_s if operation == "send" else lasts_s,
            )
            self._pending.append(passage)
        return passage

    def delay(self, work: Any, passage: Passage) -> DelayedWork:
        """The real operation's work, done no earlier than the emulated one."""
        return DelayedWork(work, passage, self)

    def end_of(self, passage: Passage) -> float:
        """When it is over for this worker; to be asked once the real operation is done."""
        with self._lock:
            if passage.end is None:
                ready = [p for p in self._pending if p is passage or p.has_all]
                with self._board.mutex():
                    for each in sorted(ready, key=lambda p: p.last_entry):  # links are taken in this order
                        each.end = self._board.begin(each) + each.duration_s
                self._pending = [p for p in self._pending if p.end is None]
            assert passage.end is not None
            return passage.end

    def _uses(self, way: Route, ranks: list[int], ends: list[int]) -> list[Use]:
        """The links that an operation keeps busy: of a message the sender's out and the receiver's in, else all of all."""
        sides = zip(ends, (0, 1), strict=True) if ends else itertools.product(ranks, (0, 1))
        places = {(self._names.index(n), place(self._link, n, rank), side) for rank, side in sides for n in way.names}
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
    """A real operation's work that is done no earlier than the emulated one. It passes while the worker computes."""

    def __init__(self, inner: Any, passage: Passage, links: Links) -> None:
        self._inner, self._passage, self._links = inner, passage, links

    def wait(self, *timeout: timedelta) -> bool:
        done = self._inner.wait(*timeout)
        _sleep_until(self._links.end_of(self._passage))
        return bool(done)

    def get_future(self) -> Any:
        return self._links.timer.delay(self._inner.get_future(), lambda: self._links.end_of(self._passage))

    def is_completed(self) -> bool:
        return self._inner.is_completed() and time.perf_counter() >= self._links.end_of(self._passage)

    def is_success(self) -> bool:
        return bool(self._inner.is_success())

    def result(self) -> Any:
        return self._inner.result()


class Timer:
    """Completes futures at given times, in a thread of its own: those who wait for them (DDP, in C++) need no thread, and
    gloo's own go on to the next operation."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Any, Any]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def delay(self, future: Any, end: Callable[[], float]) -> Any:
        """A future with the value, or the failure, of ``future`` that is done at ``end()``, asked when ``future`` is done."""
        late: Any = torch.futures.Future()
        future.add_done_callback(lambda done: self._put(end(), late, done))
        # The done future travels as the value of the late one; what fails in a callback fails as C++ expects it.
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


def emulate(link: Link, mesh: Mesh, axes: dict[str, str], rank: int, control: Any) -> Links | None:
    """Sets up the links of worker ``rank``, on all workers together; None where none is emulated.

    ``axes``: name of a process group → the mesh axis that it spans; read when a group is first used.
    """
    if not link.parts or mesh.num_workers == 1:
        return None
    path = [""]
    if rank == 0:
        memory = Path("/dev/shm")
        handle, path[0] = tempfile.mkstemp(prefix="workbench-links-", dir=memory if memory.is_dir() else None)
        os.close(handle)
    dist.broadcast_object_list(path, src=0, group=control)
    board = Board(path[0], mesh.num_workers, len(link.parts))
    dist.barrier(group=control)
    if rank == 0:
        Path(path[0]).unlink()  # it lives as long as somebody has it mapped
    return Links(link, mesh, axes, rank, board)
