"""Submission: starting runs and the baselines that they are compared with, and waiting for them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from workbench.api.hardware import calibration
from workbench.api.store import open_run
from workbench.api.stored_run import Run
from workbench.errors import DamagedRunError, RunFailedError, SpecError, UsageError
from workbench.hardware.fit import link_notes
from workbench.launch import start as launcher
from workbench.launch.block_times import block_times
from workbench.launch.environment import baseline_key, environment, num_cores
from workbench.launch.termination import terminated_as_interrupted
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.spec.option_files import with_file_hashes
from workbench.store import listing
from workbench.store.directory import RunDirectory, home, new_run_id
from workbench.store.records import RunRecord, RunState, RunStatus
from workbench.strategies.pipeline.stages import staged

if TYPE_CHECKING:
    from workbench.analysis.comparison_frame import Comparison

__all__ = ["compare", "run", "submit", "submit_plan", "terminated_as_interrupted"]

UNUSABLE = (RunState.FAILED, RunState.CANCELLED, RunState.LOST)
"""States of a run that no other can be compared with."""


def submit(spec: RunSpec, *, use_server: bool = True) -> Run:
    """Starts a run, and first its baselines where the store has none that match; returns at once. Only a partition by time
    takes seconds first, and waits for the runs before it: what each block takes here is measured.

    Args:
        use_server: False starts the run as ``launch.fork_server = false`` in its spec does.

    Raises:
        SpecError: the spec cannot be run, or ``baseline.mode`` names a run that does not exist; nothing was started.
        RunFailedError: the blocks' times could not be measured, or the supervisor could not be started.
    """
    with terminated_as_interrupted():
        planned = plan(spec)
        if not use_server:
            planned = dataclasses.replace(planned, spec=_with_launch(spec, fork_server=False))
        return submit_plan(planned)


def submit_plan(planned: Plan, *, as_baseline: bool = False) -> Run:
    """Starts the run of a plan, as ``submit`` starts the run of a spec."""
    baseline, same_cores = _named_baseline(planned.spec), None
    planned, block_times_s = _resolved(planned)
    spec, here = planned.spec, environment()
    is_own_baseline = spec.baseline.mode == "auto" and planned.num_workers == 1
    if spec.baseline.mode == "auto" and not is_own_baseline:
        baseline, same_cores = _baselines(planned)
    with _ended_on_error(baseline, same_cores):
        run_id = new_run_id(spec.split.label)
        record = RunRecord(
            run_id=run_id,
            name=spec.name,
            mode=spec.mode,
            model=spec.model.name,
            dataset=spec.dataset.name,
            split=spec.split.label,
            num_workers=planned.num_workers,
            device=planned.device,
            backend="nccl" if planned.device == "cuda" else "gloo",
            torch_version=str(here.torch_version),
            created_at=time.time(),
            baseline_run_id=run_id if is_own_baseline else baseline.id if baseline else None,
            same_cores_baseline_run_id=same_cores.id if same_cores else None,
            baseline_key=baseline_key(spec) if planned.num_workers == 1 else None,
            threads_per_worker=spec.launch.threads_per_worker,
            timeout_s=spec.launch.timeout_s,
            num_cores=num_cores(),
            mesh=dict(planned.mesh.axes),
            expected=planned.expected_record(),
            block_times_s=block_times_s,
            link=spec.link.label if spec.link.parts and planned.num_workers > 1 else None,
            link_notes=tuple(link_notes(planned, calibration()) if spec.link.parts else ()),
            started_as_baseline=as_baseline,
        )
        run = Run(RunDirectory.create(home(), run_id, dumps(spec), record, here))
        _start(run, spec.launch.fork_server)
    return run


def _start(run: Run, use_server: bool) -> None:
    """Starts the supervisor of a new run. If that fails or is interrupted, the run has ended when the exception is raised."""
    try:
        launcher.start(run.directory, use_server)
    except OSError as error:
        message = f"the supervisor cannot be started: {error}"
        run.directory.write_status(RunStatus(RunState.FAILED, message))
        raise RunFailedError(f"run {run.id}: {message}") from None
    except BaseException:  # a supervisor that has started reads the request and ends
        run.directory.request_cancel()
        run.directory.write_status(RunStatus(RunState.CANCELLED, "interrupted before it started"))
        raise
    run.is_new = True


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
    known = [plan(item) if isinstance(item, RunSpec) else open_run(item) for item in chosen]
    for item in known:
        if isinstance(item, Plan):
            _named_baseline(item.spec)  # like plan(), rejects it before the run of another has started
    with terminated_as_interrupted():
        runs = [_to_the_end(submit_plan(item)) if isinstance(item, Plan) else item for item in known]
    return Comparison([r.row() for r in runs], {r.id: r.record.threads_per_worker for r in runs})


def _to_the_end(started: Run) -> Run:
    """Waits; an interrupt cancels the run and waits until nothing of it is left."""
    try:
        return started.wait()
    except KeyboardInterrupt:
        started.end()
        raise


@contextlib.contextmanager
def _ended_on_error(*baselines: Run | None) -> Iterator[None]:
    """Around a submission: if it raises, be it of an interrupt, the baselines that were started for it end too."""
    try:
        yield
    except BaseException:
        for baseline in baselines:
            if baseline is not None and baseline.is_new:
                baseline.end()
        raise


def _resolved(planned: Plan) -> tuple[Plan, dict[str, float] | None]:
    """Returns the plan with what its run records: hashes of files, the device and, for ``partition = "time"``, the partition by
    the seconds that each block takes here. Also returns these seconds."""
    spec, times = with_file_hashes(planned.spec), None
    strategy = staged(spec)
    if strategy is not None and strategy.options.partition == "time":
        times = block_times(spec, planned.device)
        spec = spec.replace(split={**dict(spec.split.items()), strategy.name: strategy.with_partition_by(times)})
        planned = plan(spec)
    return dataclasses.replace(planned, spec=_with_launch(spec, device=planned.device)), times


def _with_launch(spec: RunSpec, **options: str | int) -> RunSpec:
    """Returns the spec with these launch options."""
    return spec.replace(launch={**spec.as_dict()["launch"], **options})


def _named_baseline(spec: RunSpec) -> Run | None:
    """Returns the run that ``baseline.mode`` names; None for ``auto`` and ``none``.

    Raises:
        SpecError: there is no such run, or several.
    """
    mode = spec.baseline.mode
    if mode in ("auto", "none"):
        return None
    try:
        return Run(listing.find(home(), mode))
    except UsageError as error:
        ids = [directory.id for directory in listing.all_runs(home())]
        nearest = difflib.get_close_matches(mode, ["auto", "none", *ids], n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise SpecError("baseline.mode", f"{error}{hint} Allowed: 'auto', 'none' or the id of a run") from None


def _baselines(planned: Plan) -> tuple[Run, Run]:
    """Returns the two runs on one worker that a split is compared with: with as many threads as each of its workers, and with
    as many as all of them together, but no more than there are cores."""
    spec, threads = planned.spec, planned.spec.launch.threads_per_worker
    first = _on_one_worker(spec, threads, "auto")
    if planned.device == "cuda":
        return first, first
    cores = num_cores()
    with _ended_on_error(first):
        num_threads = max(threads, min(threads * planned.num_workers, cores))
        return first, _on_one_worker(spec, num_threads, first.id)


def _on_one_worker(spec: RunSpec, num_threads: int, baseline: str) -> Run:
    """Returns a run of the spec on one worker: a matching run in the store, or a new one, compared with ``baseline``."""
    single = _with_launch(spec, threads_per_worker=num_threads)
    single = single.replace(name="", split={}, link={}, baseline={"mode": baseline})
    key = baseline_key(single)
    for directory in reversed(listing.all_runs(home())):
        with contextlib.suppress(DamagedRunError):
            if directory.record().baseline_key == key and _is_reusable(Run(directory)):
                return Run(directory)
    return submit_plan(plan(single), as_baseline=True)


def _is_reusable(run: Run) -> bool:
    """Whether a run need not be repeated: it ended well or still may, or needs more memory than its budget, as it would again."""
    return run.state not in UNUSABLE or (run.error is not None and run.error.memory is not None)
