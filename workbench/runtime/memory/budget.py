"""Enforces a memory budget: a worker that exceeds it fails, as on a device of that size."""

from __future__ import annotations

from typing import Any

from workbench.plan.memory import REMEDIES
from workbench.runtime.memory.allocation_log import Peak
from workbench.store.records import ExceededBudget


class MemoryBudgetExceeded(Exception):  # noqa: N818 - like out of memory on a device, not an error of the program
    """A worker has allocated more than its memory budget."""

    def __init__(self, budget: int, peak: Peak) -> None:
        over, allowed = peak.num_bytes / 2**20, budget / 2**20
        super().__init__(
            f"out of memory in {peak.where}: {over:.2f} MiB are allocated, but measure.memory_budget_bytes is {allowed:.2f} MiB"
        )
        self.budget, self.peak = budget, peak

    @property
    def details(self) -> dict[str, Any]:
        """Fields that ``error.json`` has in addition to the exception."""
        peak = self.peak
        memory = ExceededBudget(self.budget, peak.num_bytes, peak.where, peak.by_category, tuple(peak.largest))
        return {"memory": memory, "advice": self._advice()}

    def _advice(self) -> str:
        """Returns the remedy for the largest category."""
        largest = max(self.peak.by_category, key=lambda category: self.peak.by_category[category])
        remedy = REMEDIES.get(largest, REMEDIES["other"])
        return f"The largest category is {largest.replace('_', ' ')}: {remedy}."
