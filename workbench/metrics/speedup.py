"""The speed-up of a run over its baselines."""

from __future__ import annotations

from workbench.store.directory import RunDirectory


def speedup_over(run: RunDirectory, baseline_id: str | None, step_time_s: float) -> float | None:
    """Returns the step time of the baseline divided by that of the run.

    1 if the run is its own baseline; None without a baseline or if it has not finished.

    Args:
        run: the run, in the store that holds the baseline.
        baseline_id: the run to compare with.
        step_time_s: median step time of the run in seconds.
    """
    if baseline_id is None:
        return None
    if baseline_id == run.id:
        return 1.0
    summary = RunDirectory(run.path.parent / baseline_id).summary()
    return summary.step_time_s / step_time_s if summary else None
