"""Submission: starts runs and the baselines that they are compared with."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator

from workbench.api.hardware import calibration
from workbench.api.stored_run import Run
from workbench.api.user_code import copies_of_code, in_run_directory, refuse_while_inspecting, with_hashes
from workbench.errors import DamagedRunError, RunFailedError, SpecError, UsageError
from workbench.hardware.fit import link_notes
from workbench.launch import start as launcher
from workbench.launch.block_times import block_times
from workbench.launch.environment import baseline_key, environment, max_other_load_cores, num_cores
from workbench.launch.place import take_ticket
from workbench.launch.termination import terminated_as_interrupted
from workbench.messages import nearest_name
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.spec.work import work_differences
from workbench.store import listing
from workbench.store.directory import RunDirectory, home, new_run_id
from workbench.store.json_record import from_json
from workbench.store.records import Expected, RunRecord
from workbench.store.run_status import RunState, RunStatus
from workbench.store.trust import Trust, trust_of_times
from workbench.strategies.pipeline.stages import staged_strategy

_UNUSABLE = (RunState.FAILED, RunState.CANCELLED, RunState.LOST)
"""States of a run that no other can be compared with."""


def submit(spec: RunSpec, *, use_server: bool = True) -> Run:
    """Starts a run, after its baselines where the store has none that match, and returns at once.

    ``partition = "time"`` takes seconds: the blocks are timed first, and wait in the device queue.

    Args:
        use_server: False has the effect of ``launch.fork_server = false`` in the spec.

    Raises:
        SpecError: the spec cannot be run, or ``baseline.mode`` names a run that it cannot be compared with; nothing was started.
        RunFailedError: the blocks could not be timed, or the supervisor could not be started.
    """
    with terminated_as_interrupted():
        planned = plan(spec)
        if not use_server:
            planned = dataclasses.replace(planned, spec=with_launch(spec, fork_server=False))
        return submit_plan(planned)


def submit_plan(planned: Plan, *, as_baseline: bool = False) -> Run:
    """Starts the run of a plan, as ``submit`` starts the run of a spec."""
    refuse_while_inspecting()
    baseline, same_cores = _find_named(planned.spec) if as_baseline else named_baseline(planned.spec), None
    planned, block_times_s = _resolved(planned)
    spec, machine = planned.spec, environment()
    is_own_baseline = spec.baseline.mode == "auto" and planned.num_workers == 1
    if spec.baseline.mode == "auto" and not is_own_baseline:
        baseline, same_cores = _baselines(planned)
    with cancelled_on_error((baseline, same_cores)):
        run_id = new_run_id(spec.split.label)
        record = RunRecord(
            run_id=run_id,
            name=spec.name,
            mode=spec.mode,
            model=planned.model.name,
            dataset=planned.dataset.label,
            split=spec.split.label,
            num_workers=planned.num_workers,
            device=planned.device,
            torch_version=str(machine.torch_version),
            created_at=time.time(),
            baseline_run_id=run_id if is_own_baseline else baseline.id if baseline else None,
            same_cores_baseline_run_id=same_cores.id if same_cores else None,
            baseline_key=baseline_key(spec) if planned.num_workers == 1 else None,
            threads_per_worker=spec.launch.threads_per_worker,
            timeout_s=spec.launch.timeout_s,
            num_cores=num_cores(),
            mesh=dict(planned.mesh.axes),
            expected=from_json(Expected, planned.expected_record()),
            block_times_s=block_times_s,
            link=spec.link.label if spec.link.parts and planned.num_workers > 1 else None,
            link_notes=tuple(link_notes(planned, calibration()) if spec.link.parts else ()),
            max_other_load_cores=max_other_load_cores(spec),
            max_calibration_age_days=spec.measure.max_calibration_age_days,
            waits_for_quiet=spec.launch.wait_for_quiet,
            started_as_baseline=as_baseline,
        )
        toml, code = dumps(in_run_directory(spec)), copies_of_code(planned)
        run = Run(RunDirectory.create(home(), run_id, toml, record, machine, code))
        _start(run, record, spec.launch.fork_server)
    return run


def _start(run: Run, record: RunRecord, use_server: bool) -> None:
    """Starts the supervisor of a new run, which gets its place in the device queue. If that fails or is interrupted, the run has
    ended when the exception is raised."""
    ticket = None
    try:
        ticket = None if record.waits_for_quiet else take_ticket(run.directory, record)
        launcher.start(run.directory, use_server, ticket)
    except OSError as error:
        message = f"the supervisor cannot be started: {error}"
        run.directory.write_status(RunStatus(RunState.FAILED, message))
        raise RunFailedError(f"run {run.id}: {message}") from None
    except BaseException:  # a supervisor that has started reads the request and ends
        run.directory.request_cancel()
        run.directory.write_status(RunStatus(RunState.CANCELLED, "interrupted before it started"))
        raise
    finally:
        if ticket is not None:
            ticket.close()
    run.is_new = True


@contextlib.contextmanager
def cancelled_on_error(runs: Iterable[Run | None]) -> Iterator[None]:
    """Cancels those of the runs that a submission started if the block, in which they may become more, raises an exception, such
    as an interrupt."""
    try:
        yield
    except BaseException:
        for run in runs:
            if run is not None and run.is_new:
                run.end()
        raise


def _resolved(planned: Plan) -> tuple[Plan, dict[str, float] | None]:
    """Completes the spec of a plan with the hashes of its files, the device and, for ``partition = "time"``, the partition.

    Returns:
        the plan, and the time of each block in seconds if the blocks were timed.
    """
    spec, times = with_hashes(planned), None
    strategy = staged_strategy(spec)
    if strategy is not None and strategy.options.partition == "time":
        times, can_end = block_times(spec, planned.device), [block.is_cut_point for block in planned.full_model.blocks]
        spec = spec.replace(split={**dict(spec.split.items()), strategy.name: strategy.with_partition_by(times, can_end)})
        planned = plan(spec)
    return dataclasses.replace(planned, spec=with_launch(spec, device=planned.device)), times


def with_launch(spec: RunSpec, **options: str | int) -> RunSpec:
    """Returns the spec with these launch options."""
    return spec.replace(launch={**spec.as_dict()["launch"], **options})


def named_baseline(spec: RunSpec) -> Run | None:
    """Returns the run that ``baseline.mode`` names; None for ``auto`` and ``none``.

    Raises:
        SpecError: there is no such run, or several; or it failed, has several workers, or does different work.
    """
    run = _find_named(spec)
    if run is None:
        return None
    if run.state in _UNUSABLE:
        raise SpecError("baseline.mode", f"run {run.id} has no figures to compare with: it is {run.state}")
    if (num_workers := run.record.num_workers) != 1:
        raise SpecError("baseline.mode", f"run {run.id} has {num_workers} workers, but a baseline has one")
    if texts := work_differences([run.spec.as_dict(), with_hashes(plan(spec)).as_dict()]):
        raise SpecError("baseline.mode", f"run {run.id} and this spec do different work: {', '.join(texts)}")
    return run


def _find_named(spec: RunSpec) -> Run | None:
    mode = spec.baseline.mode
    if mode in ("auto", "none"):
        return None
    try:
        return Run(listing.find(home(), mode))
    except UsageError as error:
        ids = [directory.id for directory in listing.all_runs(home())]
        hint = nearest_name(mode, ["auto", "none", *ids])
        raise SpecError("baseline.mode", f"{error}{hint} Allowed: 'auto', 'none' or the id of a run") from None


def _baselines(planned: Plan) -> tuple[Run, Run]:
    """Returns the two runs on one worker that a split is compared with: with the threads of one of its workers, and with the
    threads of all workers together, but no more than there are cores."""
    spec, num_threads = planned.spec, planned.spec.launch.threads_per_worker
    first = _on_one_worker(spec, num_threads, "auto")
    if planned.device == "cuda":
        return first, first
    with cancelled_on_error((first,)):
        same_cores = max(num_threads, min(num_threads * planned.num_workers, num_cores()))
        return first, _on_one_worker(spec, same_cores, first.id)


def _on_one_worker(spec: RunSpec, num_threads: int, baseline: str) -> Run:
    """Returns a run of the spec on one worker: a matching run in the store, or a new one, compared with ``baseline``."""
    single = with_launch(spec, threads_per_worker=num_threads)
    single = single.replace(name="", split={}, link={}, baseline={"mode": baseline})
    return reusable_baseline(single) or submit_plan(plan(single), as_baseline=True)


def reusable_baseline(spec: RunSpec) -> Run | None:
    """Returns the newest run in the store that can serve as a baseline in place of a run of this spec on one worker."""
    key, load = baseline_key(spec), max_other_load_cores(spec)
    for directory in listing.newest_first(home()):
        with contextlib.suppress(DamagedRunError):
            if directory.record().baseline_key == key and _is_reusable(Run(directory), load):
                return Run(directory)
    return None


def _is_reusable(run: Run, max_other_load_cores: float) -> bool:
    """Whether a run can serve as a baseline: it finished undisturbed, as this load counts, or still may, or it exceeded its
    memory budget, as it would again."""
    if run.state is RunState.FINISHED and run.summary is not None:
        record = dataclasses.replace(run.record, max_other_load_cores=max_other_load_cores)
        return trust_of_times(record, run.summary) is not Trust.DISTURBED
    return run.state not in _UNUSABLE or (run.error is not None and run.error.memory is not None)
