"""The speed-ups of a run over its baselines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workbench.errors import DamagedRunError
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.records import RunRecord
from workbench.store.trust import Trust, trust_of_times


def undisturbed_step_time_s(path: Path) -> float | None:
    """Returns the median step time of the run in this directory; None if it has not finished, and if other programs disturbed
    it."""
    run = RunDirectory(path)
    summary = run.summary()
    if summary is None or trust_of_times(run.record(), summary) is Trust.DISTURBED:
        return None
    return summary.step_time_s


def speedup_over(
    run: RunDirectory,
    baseline_id: str | None,
    step_time_s: float,
    baseline_step_time_s: Callable[[Path], float | None] = undisturbed_step_time_s,
) -> float | None:
    """Returns the step time of the baseline divided by that of the run.

    1 if the run is its own baseline; None without a baseline, if it has not finished, and if other programs disturbed it.

    Args:
        run: the run, in the store that holds the baseline.
        baseline_id: the run to compare with.
        step_time_s: median step time of the run in seconds.
        baseline_step_time_s: returns that of the run in a directory, such as one that many runs share and that was read before.
    """
    if baseline_id is None:
        return None
    if baseline_id == run.id:
        return 1.0
    of_baseline = baseline_step_time_s(run.path.parent / baseline_id)
    return None if of_baseline is None else of_baseline / step_time_s


def speedups(
    run: RunDirectory,
    record: RunRecord,
    summary: Summary,
    baseline_step_time_s: Callable[[Path], float | None] = undisturbed_step_time_s,
) -> dict[str, float | None]:
    """Returns ``speedup``, ``speedup_same_cores`` and ``efficiency``. Earlier versions recorded them also over disturbed
    baselines; a baseline that was purged or is damaged leaves what the summary recorded."""
    over: dict[str, float | None] = {}
    ids = {"speedup": record.baseline_run_id, "speedup_same_cores": record.same_cores_baseline_run_id}
    for column, baseline_id in ids.items():
        recorded = getattr(summary, column)
        try:
            over[column] = speedup_over(run, baseline_id, summary.step_time_s, baseline_step_time_s)
        except DamagedRunError:
            over[column] = recorded
        if over[column] is None and (baseline_id is None or not (run.path.parent / baseline_id / "run.json").exists()):
            over[column] = recorded
    return {**over, "efficiency": None if over["speedup"] is None else over["speedup"] / record.num_workers}
