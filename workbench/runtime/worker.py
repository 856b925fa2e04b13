"""One worker of a run, started by module name:
``python -m workbench.runtime.worker RUN_DIRECTORY RANK LIFELINE_FD RENDEZVOUS_FD``."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from workbench.runtime.tracing.process_group import control_group, device_of, register_backend
from workbench.runtime.tracing.recorder import Recorder
from workbench.store.directory import RunDirectory
from workbench.store.events import ErrorEvent, EventWriter, FinishedEvent, ParityEvent, ReadyEvent, StepEvent
from workbench.store.figures import Completions, WorkerFigures

if TYPE_CHECKING:
    from workbench.plan.plan import Plan
    from workbench.runtime.step_loop import Measurements
    from workbench.runtime.tracing.completion import Agreement

_PROGRESS_INTERVAL_S = 0.1


def main(run_path: str, rank: int, lifeline: int, rendezvous: int) -> int:
    """Runs the worker to its end; returns the exit code."""
    threading.Thread(target=exit_with_supervisor, args=(lifeline,), daemon=True).start()
    run = RunDirectory(Path(run_path))
    events, recorder = EventWriter(run.events_path(rank)), Recorder()
    with stacks_on_request(run.stack_path(rank)):
        try:
            _run(run, rank, rendezvous, events, recorder)
        except Exception as error:  # noqa: BLE001 - reported to the supervisor, which ends the run
            traceback.print_exc()
            events.write(error_event(error, rank, recorder))
            return 1
    return 0


@contextlib.contextmanager
def stacks_on_request(path: Path) -> Iterator[None]:
    """Writes the stacks of all threads to a file on SIGUSR1, which the supervisor sends to a worker that hangs."""
    if not hasattr(signal, "SIGUSR1"):
        yield
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # afterwards: a late request must not end the worker
    with path.open("w") as file:
        faulthandler.register(signal.SIGUSR1, file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def _run(run: RunDirectory, rank: int, rendezvous: int, events: EventWriter, recorder: Recorder) -> None:
    record = run.record()
    kind, num_workers = record.device, record.num_workers
    device, timeout = device_of(kind, rank), timedelta(seconds=record.timeout_s)
    torch.set_num_threads(record.threads_per_worker)
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend, store = register_backend(recorder, kind), connect_store(rank, num_workers, rendezvous, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_workers, timeout=timeout)
    dist.all_reduce(torch.ones(1, device=device))
    events.write(ReadyEvent(rank=rank))
    from workbench.plan.resolve import plan
    from workbench.spec.option_files import with_file_hashes

    spec = run.spec()
    if rank == 0:
        with_file_hashes(spec)  # a file may have changed while the run waited
    measure_run(run, plan(spec), rank, device, events, recorder, control_group(timeout))


def connect_store(rank: int, num_workers: int, rendezvous: int, timeout: timedelta) -> Any:
    """Connects to the store of the rendezvous; ``rendezvous`` is the file descriptor of a listening socket, which all inherit."""
    listener = socket.socket(fileno=rendezvous)
    host, port = listener.getsockname()
    return dist.TCPStore(  # type: ignore[attr-defined]  # torch's stub lacks it
        host,
        port,
        num_workers,
        is_master=rank == 0,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach() if rank == 0 else None,
    )


def measure_run(
    run: RunDirectory,
    plan_: Plan,
    rank: int,
    device: torch.device,
    events: EventWriter,
    recorder: Recorder,
    control: Any,
) -> None:
    """Checks parity, runs the steps and writes the tables and figures of this worker."""
    from workbench.metrics.communication import worker_communication
    from workbench.runtime.batches import Batches
    from workbench.runtime.build import DTYPES, build_worker, make_mesh
    from workbench.runtime.link_emulation import emulate_links
    from workbench.runtime.parity.check import check_parity
    from workbench.runtime.step_loop import run_steps
    from workbench.runtime.tracing.completion import complete
    from workbench.runtime.tracing.step_breakdown import step_parts
    from workbench.runtime.tracing.tables import communication_rows, timeline_rows
    from workbench.runtime.tracing.wait_attribution import attribute_waits

    spec = plan_.spec
    mesh = make_mesh(plan_, device.type, recorder)
    if spec.measure.parity:
        report = check_parity(plan_, rank, mesh, recorder, device, control, spec.measure.num_parity_steps)
        if report is not None:
            events.write(ParityEvent(rank=rank, **report.as_dict()))
    dtype = DTYPES[spec.train.precision]
    worker = build_worker(plan_, rank, mesh, recorder, device, dtype)
    last_report = 0.0

    def on_step(**values: Any) -> None:
        nonlocal last_report
        now = time.monotonic()
        if now - last_report > _PROGRESS_INTERVAL_S or values["step"] + 1 == values["num_steps"]:
            last_report = now
            events.write(StepEvent(rank=rank, **values))

    # One clock for all workers: that of this machine. Workers of several machines would first have to measure how far theirs
    # are apart, here and before idle time is attributed.
    origins = [time.perf_counter()]
    dist.broadcast_object_list(origins, src=0, group=control)
    origin_s = origins[0]
    recorder.emulated_links = emulate_links(spec.link, plan_.mesh, recorder.axes, rank, control)
    measured = run_steps(plan_, worker, Batches(plan_, device, dtype), recorder, on_step, run.profiler_path(rank), control)
    agreement = complete(recorder)
    if device.type == "cpu":
        attribute_waits(recorder, control, plan_.num_workers)
    communication = communication_rows(recorder, origin_s)
    per_step = worker_communication(communication, spec.measure.num_trace_steps)
    figures = _figures(measured, step_parts(recorder, measured.steps), agreement, per_step)
    _write_tables(run, rank, origin_s, measured, communication, timeline_rows(recorder, origin_s))
    events.write(FinishedEvent(rank=rank, figures=figures))
    dist.barrier(group=control)  # no worker closes connections that another still needs


def _write_tables(
    run: RunDirectory,
    rank: int,
    origin_s: float,
    measured: Measurements,
    communication: list[dict[str, Any]],
    timeline: list[dict[str, Any]],
) -> None:
    """Writes the tables of this worker. Times become seconds since the origin of the run's clock."""
    from workbench.store.tables import write_table

    tables = {
        "steps": [{**row, "start_s": row["start_s"] - origin_s} for row in measured.steps],
        "memory": [{**row, "time_s": row["time_s"] - origin_s} for row in measured.memory],
        "peak_tensors": measured.peak_tensors,
        "communication": [{k: value for k, value in row.items() if k != "group_size"} for row in communication],
        "timeline": timeline,
    }
    for name, rows in tables.items():
        write_table(run.table_path(name, rank), name, [{"run_id": run.id, "rank": rank, **row} for row in rows])


def _figures(
    measured: Measurements, parts: dict[str, Any], agreement: Agreement, communication: list[dict[str, Any]]
) -> WorkerFigures:
    """Returns the figures of this worker; ``parts`` are those of ``step_parts``."""
    from workbench.runtime.memory.allocator import resident_peak_bytes

    return WorkerFigures(
        parameters=measured.parameters,
        parameter_bytes=measured.parameter_bytes,
        gradient_bytes=measured.gradient_bytes,
        optimizer_state_bytes=measured.optimizer_state_bytes,
        **({} if measured.peak_memory is None else measured.peak_memory.figures()),
        held_memory_by_category=measured.held_memory,
        kept_activation_bytes=measured.kept_activation_bytes,
        **measured.allocator_figures,
        dropped_tokens=measured.dropped_tokens,
        resident_peak_bytes=resident_peak_bytes(),
        load=measured.load,
        counted_flops=measured.counted_flops,
        completions=Completions(**{**asdict(agreement), "differences": tuple(agreement.differences)}),
        **parts,
        communication=tuple(communication),
    )


def error_event(error: Exception, rank: int, recorder: Recorder) -> ErrorEvent:
    """Returns the event of an exception, by which the supervisor finds the worker that caused a failure."""
    return ErrorEvent(
        rank=rank,
        step=recorder.step,
        exception=describe(error),
        traceback="".join(traceback.format_exception(error)),
        is_communication=recorder.communication_failed or _is_communication_error(error),
        operations=tuple(recorder.last_operations),
        **getattr(error, "details", {}),  # of a memory budget that was exceeded
    )


def describe(error: BaseException) -> str:
    """Returns the first cause of an exception on one line; the traceback has the exceptions that wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _is_communication_error(error: BaseException) -> bool:
    """Whether communication failed. C++ waits (DDP's buckets) raise plain RuntimeErrors, whose text names gloo or NCCL."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(mark in text for mark in ("gloo", "NCCL", "Connection closed by peer"))


def exit_with_supervisor(lifeline: int) -> None:
    """Blocks until the supervisor's end of the pipe is closed, which happens when the supervisor ends; then exits."""
    os.read(lifeline, 1)
    os._exit(1)


def exit_process(code: int) -> None:
    """Ends the process without the teardown of gloo, which aborts now and then (torch 2.13). All files have been written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    exit_process(main(sys.argv[1], *map(int, sys.argv[2:])))
