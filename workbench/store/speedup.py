"""The speed-ups of a run over its baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import DamagedRunError
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.records import RunRecord
from workbench.store.trust import Trust, trust_of_times


@dataclass(frozen=True)
class Baseline:
    """What a run is compared with."""

    step_time_s: float | None
    """Median step time; None if the run has not finished, and if other programs disturbed it."""

    num_units: int | None
    """Threads of all workers, on GPUs the workers; None if the run was purged."""


def read_baseline(path: Path) -> Baseline:
    """Returns what other runs are compared with of the run in this directory."""
    run = RunDirectory(path)
    if not (path / "run.json").exists():
        return Baseline(None, None)
    record, summary = run.record(), run.summary()
    if summary is None or trust_of_times(record, summary) is Trust.DISTURBED:
        return Baseline(None, _num_units(record))
    return Baseline(summary.step_time_s, _num_units(record))


def speedup_over(
    run: RunDirectory,
    baseline_id: str | None,
    step_time_s: float,
    read: Callable[[Path], Baseline] = read_baseline,
) -> float | None:
    """Returns the step time of the baseline divided by that of the run.

    1 if the run is its own baseline; None without a baseline, if it has not finished, and if other programs disturbed it.

    Args:
        run: the run, in the store that holds the baseline.
        baseline_id: the run to compare with.
        step_time_s: median step time of the run in seconds.
        read: returns the baseline in a directory, such as one that many runs share and that was read before.
    """
    if baseline_id is None:
        return None
    if baseline_id == run.id:
        return 1.0
    of_baseline = read(run.path.parent / baseline_id).step_time_s
    return None if of_baseline is None else of_baseline / step_time_s


def speedups(
    run: RunDirectory,
    record: RunRecord,
    summary: Summary,
    read: Callable[[Path], Baseline] = read_baseline,
) -> dict[str, float | None]:
    """Returns ``speedup``, ``speedup_same_cores`` and ``efficiency``. Earlier versions recorded them also over disturbed
    baselines; a baseline that was purged or is damaged leaves what the summary recorded."""
    over: dict[str, float | None] = {}
    ids = {"speedup": record.baseline_run_id, "speedup_same_cores": record.same_cores_baseline_run_id}
    for column, baseline_id in ids.items():
        recorded = getattr(summary, column)
        try:
            over[column] = speedup_over(run, baseline_id, summary.step_time_s, read)
        except DamagedRunError:
            over[column] = recorded
        if over[column] is None and (baseline_id is None or not (run.path.parent / baseline_id / "run.json").exists()):
            over[column] = recorded
    return {**over, "efficiency": efficiency(run, record, over["speedup"], read)}


def efficiency(
    run: RunDirectory, record: RunRecord, speedup: float | None, read: Callable[[Path], Baseline] = read_baseline
) -> float | None:
    """Returns the speed-up divided by how many times as many threads as its baseline the run has, all workers together; on GPUs,
    as many workers. So one worker with two threads that is 1.4 times as fast as with one has an efficiency of 0.7.

    None without a speed-up, and if the run was compared with one of other threads that was purged or is damaged.

    Args:
        run: the run, in the store that holds the baseline.
        record: the record of the run.
        speedup: its speed-up over ``record.baseline_run_id``.
        read: as of ``speedup_over``.
    """
    if speedup is None:
        return None
    if record.baseline_run_id in (run.id, None):
        return speedup / record.num_workers
    try:
        num_units = read(run.path.parent / str(record.baseline_run_id)).num_units
    except DamagedRunError:
        num_units = None
    if num_units is None:  # that of a split has the threads of one of its workers
        return speedup / record.num_workers if record.num_workers > 1 else None
    return speedup * num_units / _num_units(record)


def _num_units(record: RunRecord) -> int:
    return record.num_workers * (1 if record.device == "cuda" else record.threads_per_worker)
