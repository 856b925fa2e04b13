"""Parts of a report, independent of its format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.analysis.comparison import labelled
from workbench.charts.theme import AnyChart
from workbench.store import runs_table
from workbench.store.directory import RunDirectory, StoredRun


@dataclass(frozen=True)
class Table:
    """A table; all columns except the first ``num_names`` are figures."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int = 1


@dataclass(frozen=True)
class Sentences:
    """A list of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Listing:
    """Verbatim text, such as a file, which is folded under its ``name``."""

    name: str
    text: str


@dataclass(frozen=True)
class Drawing:
    """A chart and its data."""

    chart: AnyChart
    frame: pd.DataFrame


Part = Table | Sentences | Listing | Drawing


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and the parts that support it."""

    heading: str
    sentence: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Compared:
    """The runs of a report, one or several."""

    runs: Sequence[RunDirectory]
    rows: Sequence[dict[str, Any]]
    """Rows of the runs, as ``comparison.labelled`` returns them."""

    @property
    def labels(self) -> list[str]:
        """Labels of the runs."""
        return [row["split"] for row in self.rows]

    @property
    def finished(self) -> list[tuple[RunDirectory, dict[str, Any]]]:
        """Returns the runs that have figures, with their rows."""
        return [(run, row) for run, row in zip(self.runs, self.rows, strict=True) if row["step_time_s"] is not None]


def compare(runs: Sequence[StoredRun]) -> Compared:
    """Returns the rows of these runs, with unique labels."""
    directories = [run.directory for run in runs]
    threads = {run.id: run.record().threads_per_worker for run in directories}
    return Compared(directories, labelled([runs_table.row(run) for run in directories], threads))
