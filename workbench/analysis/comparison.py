"""Builds DataFrames that compare runs, which get unique labels: two runs may have the same split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from workbench.analysis.formatting import names
from workbench.analysis.markup import cells, comparison_html
from workbench.analysis.memory import memory_at_peak, memory_budget_bytes
from workbench.analysis.parity import parity_text
from workbench.analysis.scaling import way
from workbench.analysis.trust import is_disturbed
from workbench.errors import SpecError
from workbench.spec.paths import differences, flat, value_text
from workbench.store.columns import RUN_COLUMNS
from workbench.store.directory import StoredRun
from workbench.store.trust import Trust

Row = dict[str, Any]
PARTS = ("compute", "optimizer", "exposed communication", "idle", "schedule", "other")
"""Parts of a step, in the order in which they are drawn."""
_IRRELEVANT_PATHS = ("name", "model.folder", "baseline.mode", "launch.fork_server", "launch.wait_for_quiet")
"""Paths of a spec that do not change what a run computes."""


class Comparison(pd.DataFrame):
    """The rows of several runs with all columns of ``runs``. It displays itself as a table of the main figures; frames derived
    from it are plain DataFrames.

    ``refused`` has, by label, why splits that were to be compared have no figures: a check refused them, or their run failed.
    """

    _internal_names = [*pd.DataFrame._internal_names, "_rows", "_threads", "refused"]  # type: ignore[attr-defined]
    _internal_names_set = set(_internal_names)

    def __init__(
        self, rows: Sequence[dict[str, Any]], threads: Mapping[str, int], refused: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(list(rows), columns=list(RUN_COLUMNS))  # type: ignore[call-arg]
        self._rows, self._threads = list(rows), dict(threads)
        self.refused = dict(refused or {})

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li><b>{escape(label)}</b>: {escape(reason)}</li>" for label, reason in self.refused.items())
        return comparison_html(self._rows, self._threads) + (f"<p>Without figures:</p><ul>{reasons}</ul>" if reasons else "")

    def __repr__(self) -> str:
        heads, texts = cells(self._rows, self._threads)
        reasons = [f"{label}: {reason}" for label, reason in self.refused.items()]
        return "\n".join([pd.DataFrame(texts, columns=heads).to_string(index=False), *reasons])


def labelled(rows: Sequence[Row], threads: dict[str, int]) -> list[Row]:
    """Returns the rows with unique labels in place of their splits: ``formatting.names``, with the mark of a disturbed run, so
    that every chart shows it. ``way`` is the label without sizes.

    Args:
        threads: Threads of a worker, by run id.
    """
    marks = [f" {Trust.DISTURBED.mark}" if is_disturbed(row) else "" for row in rows]
    labels = zip(rows, names(rows, threads), marks, strict=True)
    return [{**row, "split": f"{label}{mark}", "way": way(row["split"])} for row, label, mark in labels]


def spec_differences(runs: Sequence[StoredRun], labels: Sequence[str]) -> pd.DataFrame:
    """Returns the options in which the runs differ by choice: one row per path of the spec, one column per run, values as text.
    Empty where a run has no such path, and for a run whose plugins are not installed."""
    chosen, values = [], []
    for run in runs:
        try:
            spec = run.directory.spec()
            chosen.append(differences(spec))
            values.append(dict(flat(spec.as_dict())))
        except SpecError:
            chosen.append({})
            values.append({})
    paths = [path for path in dict.fromkeys(path for differing in chosen for path in differing) if path not in _IRRELEVANT_PATHS]
    rows = {path: [value.get(path) for value in values] for path in paths}
    rows = {path: row for path, row in rows.items() if any(value != row[0] for value in row)}
    texts = [["" if value is None else value_text(value) for value in row] for row in rows.values()]
    return pd.DataFrame(texts, columns=list(labels), index=pd.Index(list(rows), name="option", dtype="object"))


def peaks(runs: Sequence[StoredRun], labels: Sequence[str]) -> pd.DataFrame:
    """Returns the memory of each worker at its peak, as ``memory.memory_at_peak``, with the run's label as ``split`` and its
    memory budget as ``budget_mebibytes``. Runs without memory steps are left out."""
    frames = []
    for run, label in zip(runs, labels, strict=True):
        budget = memory_budget_bytes(run)
        frames.append(
            memory_at_peak(run).assign(split=label, budget_mebibytes=float("nan") if budget is None else budget / 2**20)
        )
    return pd.concat(frames, ignore_index=True)[["split", "worker", "category", "mebibytes", "budget_mebibytes"]]


def step_parts(rows: Iterable[Row]) -> pd.DataFrame:
    """Returns the step breakdown of each run: ``split``, ``part``, ``milliseconds``, means over workers and trace steps, and
    ``step_ms``, the median of the timed steps.

    Args:
        rows: Rows as in ``runs``.
    """
    return pd.DataFrame(
        [
            {
                "split": row["split"],
                "part": part,
                "milliseconds": row[f"{part.replace(' ', '_')}_s"] * 1e3,
                "step_ms": row["step_time_s"] * 1e3,
            }
            for row in rows
            if row["step_time_s"] is not None
            for part in PARTS
            if row[f"{part.replace(' ', '_')}_s"] is not None  # not recorded in older runs
        ]
    )


def pareto(rows: Iterable[Row]) -> pd.DataFrame:
    """Returns step time against peak memory: ``split``, ``step_time_ms`` with ``p10_ms`` and ``p90_ms``, ``peak_memory_mib`` of
    the largest worker, and ``on_front``, whether no other run is at least as good in both and better in one. Runs without both
    figures are left out.

    Args:
        rows: Rows as in ``runs``.
    """
    measured = [row for row in rows if row["step_time_s"] is not None and row["peak_memory_bytes"] is not None]
    points = [(row["step_time_s"], row["peak_memory_bytes"]) for row in measured]
    return pd.DataFrame(
        {
            "split": [row["split"] for row in measured],
            "step_time_ms": [time_s * 1e3 for time_s, _ in points],
            "p10_ms": [(row["step_time_p10_s"] or row["step_time_s"]) * 1e3 for row in measured],
            "p90_ms": [(row["step_time_p90_s"] or row["step_time_s"]) * 1e3 for row in measured],
            "peak_memory_mib": [size / 2**20 for _, size in points],
            "on_front": [not any(_dominates(other, point) for other in points) for point in points],
        }
    )


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]


def numbers(rows: Sequence[Row]) -> pd.DataFrame:
    """Returns the figures of a comparison as numbers in readable units, one row per run.

    Args:
        rows: Rows as ``labelled`` returns them.
    """
    frame = pd.DataFrame(rows)
    number = frame.apply(pd.to_numeric, errors="coerce")
    return pd.DataFrame(
        {
            "run": frame["split"],
            "workers": number["num_workers"],
            "step_ms": number["step_time_s"] * 1e3,
            "trust": frame["trust"],
            "p10_ms": number["step_time_p10_s"] * 1e3,
            "p90_ms": number["step_time_p90_s"] * 1e3,
            "samples_per_s": number["samples_per_s"],
            "speedup": number["speedup"],
            "speedup_same_cores": number["speedup_same_cores"],
            "efficiency": number["efficiency"] * 100,
            "peak_mib": number["peak_memory_bytes"] / 2**20,
            "communication_mib": number["communication_bytes_per_step"] / 2**20,
            "parity": [parity_text(row) for row in rows],
            "state": frame["state"],
        }
    )
