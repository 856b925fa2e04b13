"""Explains why a split does not need less memory, by what its largest worker holds at its peak."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.analysis.work import first_of_same_work
from workbench.plan.memory import REMEDIES

if TYPE_CHECKING:
    from workbench.store.directory import StoredRun

NOTABLE = 1.15
"""Factor over an even share of one worker's memory from which on a split is reported."""


@dataclass(frozen=True)
class MemoryLimit:
    """Largest category of memory at the peak of the worker with the highest peak."""

    category: str
    share: float
    """Share of the peak."""
    rank: int
    peak_bytes: int

    def __str__(self) -> str:
        name = self.category.replace("_", " ")
        verb = "accounts" if name in ("optimizer state", "communication", "workspace", "other") else "account"
        start = f"{name} {verb} for" if self.share >= 0.5 else f"the largest category is {name},"
        remedy = REMEDIES.get(self.category, REMEDIES["other"])
        return f"{start} {self.share:.0%} of the peak of worker {self.rank}; to reduce it, {remedy}"


def memory_limit(run: StoredRun) -> MemoryLimit | None:
    """Returns the largest category of a finished run; None if its memory was not measured by category."""
    run = run.directory
    summary = run.summary()
    peaks = [worker.peak_memory_by_category or {} for worker in summary.workers] if summary else []
    sizes = [sum(peak.values()) for peak in peaks]
    if not any(sizes):
        return None
    rank = max(range(len(sizes)), key=lambda index: sizes[index])
    category = max(peaks[rank], key=lambda name: peaks[rank][name])
    return MemoryLimit(category, peaks[rank][category] / sizes[rank], rank, sizes[rank])


def sentences(runs: Iterable[StoredRun]) -> dict[str, str]:
    """Returns, by run id, why a split needs more than its even share of one worker's memory. The runs must include one on a
    single worker that does the same work."""
    records = [(run, run.directory.record(), limit) for run in runs if (limit := memory_limit(run))]
    singles = [run for run, record, _ in records if record.num_workers == 1]
    peak_bytes = {run.id: limit.peak_bytes for run, _, limit in records}
    by_run = {}
    single_of = first_of_same_work(singles, [run for run, record, _ in records if record.num_workers > 1])
    for run, record, limit in records:
        single, even_share = single_of.get(run.id), 1 / record.num_workers
        if single and (share := limit.peak_bytes / peak_bytes[single.id]) > NOTABLE * even_share:
            by_run[run.id] = (
                f"{record.split} needs {share:.0%} of one worker's memory, more than its even share of {even_share:.0%}: {limit}."
            )
    return by_run
