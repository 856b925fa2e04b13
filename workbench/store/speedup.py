"""The speed-ups of a run over its baselines."""

from __future__ import annotations

from workbench.errors import DamagedRunError
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.records import Labels, RunRecord
from workbench.store.trust import Trust, trust_of_times


def baselines(record: RunRecord, labels: Labels) -> tuple[str | None, str | None]:
    """Returns the ids of the runs on one worker that a run is compared with, with the threads of one worker and with those of
    all: those measured again in their place, if any, or those of its submission."""
    return (
        labels.baseline_run_id or record.baseline_run_id,
        labels.same_cores_baseline_run_id or record.same_cores_baseline_run_id,
    )


def speedup_over(run: RunDirectory, baseline_id: str | None, step_time_s: float) -> float | None:
    """Returns the step time of the baseline divided by that of the run.

    1 if the run is its own baseline; None without a baseline, if it has not finished, and if other programs disturbed it.

    Args:
        run: the run, in the store that holds the baseline.
        baseline_id: the run to compare with.
        step_time_s: median step time of the run in seconds.
    """
    if baseline_id is None:
        return None
    if baseline_id == run.id:
        return 1.0
    baseline = RunDirectory(run.path.parent / baseline_id)
    summary = baseline.summary()
    if summary is None or trust_of_times(baseline.record(), summary) is Trust.DISTURBED:
        return None
    return summary.step_time_s / step_time_s


def speedups(run: RunDirectory, record: RunRecord, labels: Labels, summary: Summary) -> dict[str, float | None]:
    """Returns ``speedup``, ``speedup_same_cores`` and ``efficiency`` over the baselines as they are now in the store; a baseline
    that was purged leaves what the summary recorded."""
    over: dict[str, float | None] = {}
    for column, baseline_id in zip(("speedup", "speedup_same_cores"), baselines(record, labels), strict=True):
        try:
            is_there = baseline_id is not None and (run.path.parent / baseline_id / "run.json").exists()
            over[column] = speedup_over(run, baseline_id, summary.step_time_s) if is_there else getattr(summary, column)
        except DamagedRunError:
            over[column] = getattr(summary, column)
    return {**over, "efficiency": None if over["speedup"] is None else over["speedup"] / record.num_workers}
