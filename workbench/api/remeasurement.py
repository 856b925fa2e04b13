"""Measures disturbed runs again, once the machine is quiet."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.api.stored_run import Run
from workbench.api.submission import cancelled_on_error, reusable_baseline, submit_plan, with_launch
from workbench.launch.termination import terminated_as_interrupted
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.store.directory import RunDirectory
from workbench.store.run_status import RunState
from workbench.store.trust import Trust, trust_of_times


def measure_again(runs: Sequence[Run]) -> list[Run]:
    """Submits anew the runs that other programs disturbed, or whose baselines they disturbed. Each waits until the machine is
    quiet, as do the disturbed baselines, which are measured once for all.

    Returns:
        for each run the one to look at in its place: a new run, or the same.

    Raises:
        SpecError: a spec cannot be run any more, such as one whose plugin is missing; nothing was started.
    """
    with terminated_as_interrupted():
        for run in runs:
            if can_be_measured_again(run):
                plan(run.spec)  # rejects before the first is submitted
        new: dict[str, Run] = {}
        with cancelled_on_error(new.values()):
            return [_submit_again(run, new) for run in runs]


def can_be_measured_again(run: Run) -> bool:
    """Whether other programs disturbed the run or a baseline of it."""
    return any(map(_is_disturbed, (run, *_baselines_of(run))))


def pending(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs and their baselines that have not ended, in the order in which they start."""
    all_runs = {other.id: other for run in runs for other in (*_baselines_of(run), run)}
    return [run for run in all_runs.values() if not run.state.is_terminal]


def _submit_again(run: Run, new: dict[str, Run]) -> Run:
    """Submits a run again, unless ``new`` (by the id of the old run) has it; its named baseline first, if that was disturbed."""
    if not can_be_measured_again(run):
        return run
    if run.id not in new:
        spec = with_launch(run.spec, wait_for_quiet=True)
        if spec.baseline.mode not in ("auto", "none"):
            spec = spec.replace(baseline={"mode": _of_named_baseline(spec, run, new)})
        measured = reusable_baseline(spec) if run.record.num_workers == 1 else None
        new[run.id] = measured or submit_plan(plan(spec), as_baseline=run.record.started_as_baseline)
    return new[run.id]


def _of_named_baseline(spec: RunSpec, run: Run, new: dict[str, Run]) -> str:
    """Returns the id of the run to compare with: of the named baseline, or of the one that is measured in its place."""
    named = next((other for other in _baselines_of(run) if other.id.endswith(spec.baseline.mode)), None)
    return _submit_again(named, new).id if named else spec.baseline.mode


def _is_disturbed(run: Run) -> bool:
    summary = run.summary if run.state is RunState.FINISHED else None
    return summary is not None and trust_of_times(run.record, summary) is Trust.DISTURBED


def _baselines_of(run: Run) -> list[Run]:
    """Returns the baselines of a run, except itself, that are in the store."""
    paths = [run.path.parent / other for other in run.record.baseline_ids]
    return [Run(RunDirectory(path)) for path in paths if (path / "run.json").exists()]
