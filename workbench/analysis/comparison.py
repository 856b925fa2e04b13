"""Frames of a comparison of runs, which need names of their own: two runs may have the same split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from workbench.analysis.losses import verdict
from workbench.errors import SpecError
from workbench.spec.differences import differing
from workbench.store.run_directory import RunDirectory

Row = dict[str, Any]


def labelled(rows: Sequence[Row]) -> list[Row]:
    """The rows with labels in place of their splits that no two share: the split alone where it says enough, with the run's
    name where those differ, else with its place among its like."""
    count = Counter(row["split"] for row in rows)
    named = Counter((row["split"], row["name"]) for row in rows)
    seen: Counter[str] = Counter()
    result = []
    for row in rows:
        label = str(row["split"])
        seen[label] += 1
        if count[label] > 1:
            is_told = row["name"] and named[row["split"], row["name"]] == 1
            label += f" ({row['name']})" if is_told else f" #{seen[label]}"
        result.append({**row, "split": label})
    return result


def spec_differences(runs: Sequence[RunDirectory], labels: Sequence[str]) -> pd.DataFrame:
    """A row a path of the spec in which the runs differ, a column a run, values as text; empty where one has no such path. A
    run whose plugins are not here has an empty column."""
    tables = []
    for run in runs:
        try:
            tables.append({key: value for key, value in run.spec().as_dict().items() if key != "name"})
        except SpecError:
            tables.append({})
    rows = differing(tables)
    texts = [["" if value is None else str(value) for value in values] for values in rows.values()]
    return pd.DataFrame(texts, columns=list(labels), index=pd.Index(rows, name="option"))


def figures(rows: Sequence[Row]) -> pd.DataFrame:
    """The figures of a comparison as numbers, one row a run, in the units that people read; rows as of ``labelled``."""
    frame = pd.DataFrame(rows)
    number = frame.apply(pd.to_numeric, errors="coerce")
    return pd.DataFrame(
        {
            "run": frame["split"],
            "workers": number["num_workers"],
            "step_ms": number["step_time_s"] * 1e3,
            "p10_ms": number["step_time_p10_s"] * 1e3,
            "p90_ms": number["step_time_p90_s"] * 1e3,
            "samples_per_s": number["samples_per_s"],
            "speedup": number["speedup"],
            "speedup_same_cores": number["speedup_same_cores"],
            "efficiency": number["efficiency"] * 100,
            "peak_mib": number["peak_memory_bytes"] / 2**20,
            "sent_mib": number["communication_bytes_per_step"] / 2**20,
            "parity": [verdict(row) for row in rows],
            "state": frame["state"],
        }
    )
