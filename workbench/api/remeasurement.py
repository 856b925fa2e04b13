"""Measures disturbed runs again, once the machine is quiet."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.api.stored_run import Run
from workbench.api.submission import reusable_baseline, submit_plan, with_launch
from workbench.launch.termination import terminated_as_interrupted
from workbench.plan.resolve import plan
from workbench.store import labels
from workbench.store.directory import RunDirectory
from workbench.store.run_status import RunState
from workbench.store.speedup import baselines
from workbench.store.trust import Trust, trust_of_times


def measure_again(runs: Sequence[Run]) -> list[Run]:
    """Submits anew what other programs disturbed; each waits until the machine is quiet.

    A disturbed run is submitted again. Of an undisturbed run whose baseline was disturbed only the baselines are, and its
    speed-ups refer to these as soon as they have finished.

    Returns:
        for each run the one to look at in its place: a new run, or the same.

    Raises:
        SpecError: a plugin that a spec names is missing.
    """
    with terminated_as_interrupted():
        return [_measured_again(run) for run in runs]


def can_be_measured_again(run: Run) -> bool:
    """Whether other programs disturbed the run or a baseline of it."""
    return _is_disturbed(run) or any(map(_is_disturbed, _baselines_of(run)))


def pending(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs and their baselines that have not ended, in the order in which they start."""
    all_runs = [other for run in runs for other in (*_baselines_of(run), run)]
    return [run for run in {run.id: run for run in all_runs}.values() if not run.state.is_terminal]


def _measured_again(run: Run) -> Run:
    if not can_be_measured_again(run):
        return run
    if _is_disturbed(run):
        return _in_place_of(run)
    new_ids = {old.id: _in_place_of(old).id for old in _baselines_of(run) if _is_disturbed(old)}
    labels.change_baselines(run.directory, *(new_ids.get(old) if old else None for old in baselines(run.record, run.labels)))
    return run


def _in_place_of(run: Run) -> Run:
    """Returns an undisturbed run, or one that waits for a quiet machine. A baseline is measured once for all runs that refer to
    it."""
    key = run.record.baseline_key
    spec = with_launch(run.spec, wait_for_quiet=True)
    return (reusable_baseline(key) if key else None) or submit_plan(plan(spec), as_baseline=run.record.started_as_baseline)


def _is_disturbed(run: Run) -> bool:
    summary = run.summary if run.state is RunState.FINISHED else None
    return summary is not None and trust_of_times(run.record, summary) is Trust.DISTURBED


def _baselines_of(run: Run) -> list[Run]:
    """Returns the baselines of a run, except itself, that are in the store."""
    ids = dict.fromkeys(baselines(run.record, run.labels))
    paths = [run.path.parent / other for other in ids if other is not None and other != run.id]
    return [Run(RunDirectory(path)) for path in paths if (path / "run.json").exists()]
