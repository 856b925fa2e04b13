"""The table of runs."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import streamlit as st

from workbench.analysis.parity import HELP
from workbench.dashboard.table import SHOWN

_HELP = {
    "split": "Strategies and their sizes: dp data, layer, pp pipeline, tp tensor, fsdp fully sharded data, …",
    "threads_per_worker": "Threads per worker. A split is also compared with one worker that has the threads of all workers.",
    "step_time_ms": "Median over the timed steps of the slowest worker: forward, backward, communication and optimizer.",
    "samples_per_s": "Global batch size divided by the step time.",
    "speedup": "Step time of one worker, with the same threads per worker, divided by the step time of this run.",
    "trust": "State of the times: quiet, or why they are unreliable.",
    "peak_memory_mib": "Peak memory of the tensors on the largest worker.",
    "communication_mib": "Communication volume per step: each collective counts once per group, each send once.",
    "parity": HELP,
}
_FORMATS = {
    "step_time_ms": "%.1f", "samples_per_s": "%.0f", "speedup": "%.2f×", "peak_memory_mib": "%.1f", "communication_mib": "%.2f",
}  # fmt: skip
RUN_ADDRESS = "run?run="
"""Address of the page of a run, before its id."""
_WIDTHS = {"name": 140, "parity": 110, "tags": 120}
"""Widths in pixels of columns whose longest text may be in a later row."""


def runs_table(frame: pd.DataFrame, key: str, selection: Literal["multi-row"] | None = None) -> list[str]:
    """Draws the table, without columns that distinguish no runs. Returns the ids of the selected rows."""
    needless = {column for column in ("name", "tags") if not frame[column].any()}
    if frame["threads_per_worker"].nunique() < 2:
        needless.add("threads_per_worker")
    columns = frame[[column for column in SHOWN if column not in needless]]
    chosen: Any = {"on_select": "rerun", "selection_mode": selection} if selection else {}
    columns = columns.assign(run_id=RUN_ADDRESS + columns["run_id"].astype(str))
    event: Any = st.dataframe(columns, hide_index=True, key=key, column_config=_columns(), placeholder="–", **chosen)
    return [str(frame["run_id"].iloc[row]) for row in event.selection.rows] if selection else []


def _columns() -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for column, head in SHOWN.items():
        if column in _FORMATS:
            columns[column] = st.column_config.NumberColumn(head, help=_HELP.get(column), format=_FORMATS[column])
        elif column == "threads_per_worker":
            columns[column] = st.column_config.NumberColumn(head, help=_HELP[column], width=70)
        elif column == "run_id":
            columns[column] = st.column_config.LinkColumn(head, display_text="run=(.*)", help="Opens the page of the run.")
        elif column == "created":
            columns[column] = st.column_config.DatetimeColumn(head, format="D MMM, HH:mm")
        else:
            columns[column] = st.column_config.TextColumn(head, help=_HELP.get(column), width=_WIDTHS.get(column))
    return columns
