"""The expected values of a plan, computed once for the page and its checks."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from workbench.analysis.expected import expected_communication, held
from workbench.plan.plan import Plan


@dataclass(frozen=True)
class Outlook:
    """A plan with the results of its formulas."""

    plan: Plan
    held: pd.DataFrame
    """As of ``expected.held``."""
    communication: pd.DataFrame
    """As of ``expected.expected_communication``."""

    @classmethod
    def of(cls, planned: Plan) -> Outlook:
        """Computes the formulas of a plan."""
        return cls(planned, held(planned), expected_communication(planned))

    @property
    def bytes_of_workers(self) -> dict[int, int]:
        """Expected memory by rank."""
        sums = self.held.groupby("worker")["bytes"].sum()
        return {int(str(rank)): int(size) for rank, size in sums.items()}
