"""Submission: starting runs and the baselines that they are compared with, and waiting for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from workbench.api.hardware import calibration
from workbench.api.store import open_run
from workbench.api.stored_run import Run
from workbench.errors import DamagedRunError, RunFailedError
from workbench.hardware.fit import link_notes
from workbench.launch import start as launcher
from workbench.launch.block_times import block_times
from workbench.launch.environment import baseline_key, environment
from workbench.launch.termination import terminated_as_interrupted
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.spec.option_files import with_file_hashes
from workbench.store import listing
from workbench.store.directory import RunDirectory, home, new_run_id
from workbench.strategies.pipeline.stages import staged

if TYPE_CHECKING:
    from workbench.analysis.comparison_frame import Comparison

__all__ = ["compare", "run", "submit", "terminated_as_interrupted"]

UNUSABLE = ("failed", "cancelled", "lost")
"""States of a run that no other can be compared with."""


def submit(spec: RunSpec, *, use_server: bool = True) -> Run:
    """Starts a run, and first its baselines where the store has none that match; returns at once. Only a partition by time
    takes seconds first, and waits for the runs before it: what each block takes here is measured.

    Raises:
        SpecError: the spec cannot be run; nothing was started.
        UsageError: ``baseline.mode`` names a run that does not exist.
        RunFailedError: the blocks' times could not be measured.
    """
    with terminated_as_interrupted():
        return _submit(spec, use_server)


def _submit(spec: RunSpec, use_server: bool, as_baseline: bool = False) -> Run:
    planned = plan(spec)
    spec, times = _partitioned(with_file_hashes(spec), planned)
    planned = plan(spec) if times else planned
    spec = spec.replace(launch={**spec.as_dict()["launch"], "device": planned.device})
    mode, own_id = spec.baseline.mode, new_run_id(spec.split.label)
    baseline = same_cores = None
    pair: tuple[Run, ...] = ()
    if mode not in ("auto", "none"):
        baseline = listing.find(home(), mode).id
    elif mode == "auto" and planned.num_workers == 1:
        baseline = own_id
    elif mode == "auto":
        pair = baselines(spec, planned, use_server)
        baseline, same_cores = (run.id for run in pair)
    with _ended_on_error(*pair):
        run = _start(spec, planned, own_id, baseline, same_cores, times, use_server, as_baseline)
    run.is_new = True
    return run


def baselines(spec: RunSpec, planned: Plan, use_server: bool = True) -> tuple[Run, Run]:
    """The runs on one worker that a split is compared with, reused or started: with the same threads as each of its
    workers, and with as many as it has in all (but no more than there are cores)."""
    threads = spec.launch.threads_per_worker
    cores = int(environment()["num_cores"])
    first = _single(spec, threads, "auto", use_server)
    if planned.device == "cuda":
        return first, first
    with _ended_on_error(first):
        return first, _single(spec, max(threads, min(threads * planned.num_workers, cores)), first.id, use_server)


def run(spec: RunSpec, *, use_server: bool = True) -> Run:
    """Runs to the end. An interrupt, or SIGTERM, cancels the run and waits until nothing of it is left.

    Raises:
        RunFailedError: it failed, was cancelled or lost; the message says which worker and why.
    """
    with terminated_as_interrupted():
        started = _to_the_end(submit(spec, use_server=use_server))
    if started.state != "finished":
        raise RunFailedError(f"run {started.id} {started.state}: {started.message}")
    return started


def compare(chosen: Iterable[Run | RunSpec | str] | Run | RunSpec | str) -> Comparison:
    """Rows of these runs (or ids) side by side, in this order; a spec is run first, and a failed one keeps its row. A frame
    with the columns of ``runs``, shown as the figures that one compares."""
    from workbench.analysis.comparison_frame import Comparison

    chosen = [chosen] if isinstance(chosen, Run | RunSpec | str) or not isinstance(chosen, Iterable) else chosen
    known = [item if isinstance(item, RunSpec) else open_run(item) for item in chosen]
    for item in known:
        if isinstance(item, RunSpec):
            plan(item)  # refuse before anything starts
    with terminated_as_interrupted():
        found = [_to_the_end(submit(item)) if isinstance(item, RunSpec) else item for item in known]
    return Comparison([r.row() for r in found], {r.id: r.record["threads_per_worker"] for r in found})


def _to_the_end(started: Run) -> Run:
    """Waits; an interrupt cancels the run and waits until nothing of it is left."""
    try:
        return started.wait()
    except KeyboardInterrupt:
        started.end()
        raise


@contextlib.contextmanager
def _ended_on_error(*runs: Run) -> Iterator[None]:
    """Around a submission: if it raises, be it of an interrupt, the baselines that were started for it end too."""
    try:
        yield
    except BaseException:
        for run in runs:
            if run.is_new:
                run.end()
        raise


def _single(spec: RunSpec, threads: int, mode: str, use_server: bool) -> Run:
    """The run of this spec on one worker: one in the store that matches, or a new one."""
    launch = {**spec.as_dict()["launch"], "threads_per_worker": threads}
    single = spec.replace(name="", split={}, launch=launch, link={}, baseline={"mode": mode})
    key = baseline_key(single)
    for directory in reversed(listing.all_runs(home())):
        with contextlib.suppress(DamagedRunError):
            if directory.record().get("baseline_key") == key and _is_reusable(Run(directory)):
                return Run(directory)
    return _submit(single, use_server, as_baseline=True)


def _is_reusable(run: Run) -> bool:
    """Whether a run need not be repeated: it ended well or still may, or needs more memory than its budget, as it would again."""
    return run.state not in UNUSABLE or bool((run.error or {}).get("memory"))


def _partitioned(spec: RunSpec, planned: Plan) -> tuple[RunSpec, dict[str, float] | None]:
    """The spec with the partition that was asked for by time as it is measured here, and the blocks' times."""
    strategy = staged(spec)
    if strategy is None or strategy.options.partition != "time":
        return spec, None
    times = block_times(spec, planned.device)
    return spec.replace(split={**dict(spec.split.items()), strategy.name: strategy.with_partition_by(times)}), times


def _start(
    spec: RunSpec,
    planned: Plan,
    run_id: str,
    baseline: str | None,
    same_cores: str | None,
    block_times_s: dict[str, float] | None,
    use_server: bool,
    as_baseline: bool,
) -> Run:
    here = environment()
    record = {
        "run_id": run_id,
        "name": spec.name,
        "mode": spec.mode,
        "model": spec.model.name,
        "dataset": spec.dataset.name,
        "split": spec.split.label,
        "num_workers": planned.num_workers,
        "device": planned.device,
        "backend": "nccl" if planned.device == "cuda" else "gloo",
        "torch_version": here["torch_version"],
        "created_at": time.time(),
        "baseline_run_id": baseline,
        "same_cores_baseline_run_id": same_cores,
        "baseline_key": baseline_key(spec) if planned.num_workers == 1 else None,
        "threads_per_worker": spec.launch.threads_per_worker,
        "timeout_s": spec.launch.timeout_s,
        "num_cores": here["num_cores"],
        "mesh": planned.mesh.axes,
        "expected": planned.expected_record(),
        "block_times_s": block_times_s,
        "link": spec.link.label if spec.link.parts and planned.num_workers > 1 else None,
        "link_notes": link_notes(planned, calibration()) if spec.link.parts else [],
        "started_as_baseline": as_baseline,
    }
    directory = RunDirectory.create(home(), run_id, dumps(spec), record, here)
    try:
        launcher.start(directory, use_server)
    except BaseException:  # a supervisor that has started reads the request and ends
        directory.request_cancel()
        directory.write_status({"state": "cancelled", "message": "interrupted before it started"})
        raise
    return Run(directory)
