"""One worker of a calibration: ``python -m workbench.runtime.calibration_worker DIRECTORY RANK LIFELINE_FD RENDEZVOUS_FD``.

Alone it measures matrix products and memory; with others, the operations that they communicate by, through the process group
that runs use. Each measurement is an event.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from workbench.hardware.store import JOB, LOAD
from workbench.runtime.cpu_contention import Load
from workbench.runtime.tracing.process_group import control_group, register_backend
from workbench.runtime.tracing.recorder import Recorder
from workbench.runtime.worker import connect_store, exit_process, exit_with_supervisor
from workbench.store.directory import RunDirectory
from workbench.store.events import EventWriter, MeasuredEvent
from workbench.store.json_record import plain

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
MATRIX_SIZE = 1024
MEMORY_BYTES = 128 * 2**20
"""Size of each array: STREAM requires four times the size of the caches."""
SECONDS = 0.4
"""Minimum time for which each product or copy is repeated."""
SIZES = tuple(2**exponent for exponent in range(10, 25, 2))
"""Payloads in bytes, 1 KiB to 16 MiB."""
NUM_ROUNDS = 4
"""Rounds over all sizes and operations, so that a disturbance affects only a part of the repetitions of each."""
NUM_WARMUPS = 2
"""Warm-up repetitions of each size and operation, in every round."""
TIMEOUT = timedelta(seconds=60)


def main(path: str, rank: int, lifeline: int, rendezvous: int) -> int:
    """Measures, and writes each row as an event on rank 0. Returns the exit code."""
    threading.Thread(target=exit_with_supervisor, args=(lifeline,), daemon=True).start()
    run = RunDirectory(Path(path))
    events, job = EventWriter(run.events_path(rank)), json.loads((run.path / JOB).read_bytes())
    if job["num_workers"] == 1:
        measured = compute_rows(job["num_threads"])
    else:
        torch.set_num_threads(1)
        store = connect_store(rank, job["num_workers"], rendezvous, TIMEOUT)
        backend = register_backend(Recorder(), "cpu")
        dist.init_process_group(backend, store=store, rank=rank, world_size=job["num_workers"], timeout=TIMEOUT)
        measured = communication_rows(rank, job["num_workers"], control_group(TIMEOUT))
    before = Load.now()
    for table, row in measured:
        if rank == 0:
            events.write(MeasuredEvent(rank=rank, table=table, row=row))
    events.write(MeasuredEvent(rank=rank, table=LOAD, row=plain(Load.now().since(before))))
    return 0


def compute_rows(num_threads: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the FLOP/s of a matrix product (2n³ operations) by precision, and the bytes per second of copying and of the triad
    a = b + s·c as STREAM counts them (McCalpin 1995): each byte that the program reads or writes counts once. The fastest
    repetition counts."""
    for threads in num_threads:
        torch.set_num_threads(threads)
        for precision, dtype in DTYPES.items():
            a, b, c = (torch.ones(MATRIX_SIZE, MATRIX_SIZE, dtype=dtype) for _ in range(3))
            flops = 2 * MATRIX_SIZE**3 / _fastest(functools.partial(torch.mm, a, b, out=c))
            yield "matmul", {"num_threads": threads, "precision": precision, "flops_per_s": flops}
        for kind, (passes, once) in _memory_operations().items():
            yield "memory", {"num_threads": threads, "kind": kind, "bytes_per_s": passes * MEMORY_BYTES / _fastest(once)}


def _memory_operations() -> dict[str, tuple[int, Callable[[], Any]]]:
    """Returns the number of arrays that an operation reads and writes, and the operation."""
    a, b, c = (torch.ones(MEMORY_BYTES // 4) for _ in range(3))
    return {"copy": (2, lambda: a.copy_(b)), "triad": (3, lambda: torch.add(b, c, alpha=3.0, out=a))}


def _fastest(once: Callable[[], Any]) -> float:
    once()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    return min(times)


def communication_rows(rank: int, num_workers: int, control: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a ``progress`` row before each measurement, and at the end the median seconds of each operation and payload, from
    the entry of the last participant to the end of the last one."""
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _, size in itertools.product(range(NUM_ROUNDS), SIZES):
        for operation, once in _operations(rank, num_workers, size).items():
            yield "progress", {"operation": operation, "group_size": num_workers, "payload_bytes": size}
            for number in range(NUM_WARMUPS + num_repetitions(size)):
                dist.barrier(group=control)
                start = time.perf_counter()
                once()
                if number >= NUM_WARMUPS:
                    times.setdefault((operation, size), []).append((start, time.perf_counter()))
    workers: list[Any] = [None] * num_workers
    dist.all_gather_object(workers, times, group=control)
    for operation, size in times:
        repetitions = zip(*(worker[operation, size] for worker in workers), strict=True)
        taken = [max(end for _, end in each) - max(start for start, _ in each) for each in repetitions]
        row = {"operation": operation, "group_size": num_workers, "payload_bytes": size, "time_s": median(taken)}
        yield "communication", {**row, "num_repetitions": len(taken)}


def num_repetitions(payload_bytes: int) -> int:
    """Returns the number of repetitions in each round; fewer for large payloads."""
    return max(3, min(12, 2**23 // payload_bytes))


def _operations(rank: int, n: int, size: int) -> dict[str, Callable[[], Any]]:
    """Returns the operations on a full tensor of ``size`` bytes; for all-to-all, that is the input of this worker."""
    full, part = torch.zeros(size // 4), torch.zeros(size // 4 // n)
    other = torch.zeros_like(full)
    operations: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: dist.all_reduce(full),
        "all_gather": lambda: dist.all_gather_into_tensor(full, part),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(part, full),
        "all_to_all": lambda: dist.all_to_all_single(other, full),
    }
    if n == 2:
        operations["send"] = lambda: dist.send(full, 1) if rank == 0 else dist.recv(full, 0)
    return operations


if __name__ == "__main__":
    exit_process(main(sys.argv[1], *map(int, sys.argv[2:])))
