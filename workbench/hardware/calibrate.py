"""Measures what this machine computes and communicates, in worker processes that are started as a run's are."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import RunFailedError
from workbench.hardware.fit import fit
from workbench.hardware.store import JOB, LOAD, SCHEMA_VERSION
from workbench.launch.device_queue import Holder, Ticket
from workbench.launch.environment import environment, num_cores
from workbench.launch.spawn import Workers
from workbench.store.directory import RunDirectory
from workbench.store.events import MeasuredEvent
from workbench.store.figures import CpuLoad
from workbench.store.json_record import from_json, plain
from workbench.store.load import other_load_cores

MODULE = "workbench.runtime.calibration_worker"
TABLES = ("matmul", "memory", "communication")
_POLL_S = 0.02

Row = dict[str, Any]
Report = Callable[[str, Row], None]


def measure(group_sizes: Sequence[int], report: Report) -> dict[str, Any]:
    """Calibrates this machine: matrix products and memory, then communication in groups of each size. Waits in the device queue.

    Args:
        group_sizes: Numbers of workers of the groups.
        report: Called with the table and the row of each measurement, and with the table ``progress`` before others.

    Raises:
        RunFailedError: a worker failed; the message includes its last line of output.
    """
    machine, tables = environment(), {table: list[Row]() for table in TABLES}
    cores = num_cores()
    num_threads = sorted({2**exponent for exponent in range(cores.bit_length())} | {cores})
    ticket = Ticket(["cpu"], Holder("calibration"))
    try:
        while not ticket.is_first():
            time.sleep(_POLL_S)
        jobs = [{"num_workers": num_workers, "num_threads": num_threads} for num_workers in (1, *group_sizes)]
        load = max([_measure(job, tables, report) for job in jobs])
    finally:
        ticket.release()
    points: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for row in tables["communication"]:
        points.setdefault((row["operation"], row["group_size"]), []).append((row["payload_bytes"], row["time_s"]))
    links = [fit(operation, n, measured) for (operation, n), measured in points.items()]
    head = {"schema_version": SCHEMA_VERSION, "created_at": time.time(), "other_load_cores": load, "environment": plain(machine)}
    return {**head, **tables, "links": links}


def _measure(job: Row, tables: dict[str, list[Row]], report: Report) -> float:
    """Starts the workers of one job and collects the measurements of rank 0. Returns the cores that other programs kept busy."""
    with tempfile.TemporaryDirectory() as directory:
        run = RunDirectory(Path(directory))
        run.make_folders()
        (run.path / JOB).write_text(json.dumps(job), encoding="utf-8")
        workers, offset, has_finished = Workers(run, job["num_workers"], MODULE), 0, False
        begun_s, used_s = time.perf_counter(), time.process_time()
        try:
            while not has_finished:
                codes = workers.poll()
                events, offset = run.events(0, offset)
                for event in events:
                    if isinstance(event, MeasuredEvent) and event.table != LOAD:
                        tables.get(event.table, []).append(event.row)
                        report(event.table, event.row)
                has_finished = all(code == 0 for code in codes)  # polled before the events were read
                failed = next((rank for rank, code in enumerate(codes) if code), None)
                if failed is not None and not has_finished:
                    lines = run.log_path(failed).read_text(errors="replace").strip().splitlines() or ["no output"]
                    raise RunFailedError(f"calibration failed on worker {failed}: {lines[-1]}")
                time.sleep(_POLL_S)
        finally:
            workers.end()
        own_cores = (time.process_time() - used_s) / (time.perf_counter() - begun_s)
        last = [run.events(rank)[0][-1] for rank in range(job["num_workers"])]
        return load_beside([from_json(CpuLoad, event.row) for event in last if isinstance(event, MeasuredEvent)], own_cores)


def load_beside(loads: Sequence[CpuLoad], own_cores: float) -> float:
    """Returns the cores that programs other than the calibration kept busy.

    Args:
        loads: as each worker saw it.
        own_cores: that this process, which waits for the workers, kept busy.
    """
    cores = other_load_cores(loads)
    assert cores is not None, "a calibration takes long enough to tell what else ran"
    return max(0.0, cores - own_cores)
