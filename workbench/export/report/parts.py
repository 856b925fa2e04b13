"""What reports are made of, whatever they are written as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.analysis.comparison import labelled
from workbench.charts.theme import AnyChart
from workbench.store import listing
from workbench.store.directory import RunDirectory, StoredRun


@dataclass(frozen=True)
class Table:
    """Heads, and rows of as many texts; all but the first ``num_names`` columns are figures."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 1


@dataclass(frozen=True)
class Sentences:
    """A list of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Listing:
    """Text that is shown as it is, such as a file; closed until asked for, under its ``name``."""

    name: str
    text: str


@dataclass(frozen=True)
class Drawing:
    """A chart and what is said where it cannot be seen."""

    chart: AnyChart
    description: str


Part = Table | Sentences | Listing | Drawing


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and what bears it out."""

    heading: str
    sentence: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Compared:
    """The runs of a report; one is a comparison of one."""

    runs: Sequence[RunDirectory]
    rows: Sequence[dict[str, Any]]
    """Theirs as of ``comparison.labelled``."""

    @property
    def labels(self) -> list[str]:
        """What they are called."""
        return [row["split"] for row in self.rows]

    @property
    def finished(self) -> list[tuple[RunDirectory, dict[str, Any]]]:
        """Runs that have figures, with their rows."""
        return [(run, row) for run, row in zip(self.runs, self.rows, strict=True) if row["step_time_s"] is not None]


def compare(runs: Sequence[StoredRun]) -> Compared:
    """The rows of these runs, with labels that no two share."""
    directories = [run.directory for run in runs]
    threads = {run.id: run.record().threads_per_worker for run in directories}
    return Compared(directories, labelled([listing.row(run) for run in directories], threads))
