"""Renders a run and a comparison as HTML for a notebook cell. All text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from workbench.analysis import formatting
from workbench.messages import counted
from workbench.spec.markup import table as table  # for views, too
from workbench.store.records import RunError

Row = dict[str, Any]


def cells(rows: Sequence[Row], threads: Mapping[str, int]) -> tuple[list[str], list[list[str]]]:
    """Returns the heads of a comparison and the cells of each run; a run without figures shows its state.

    Args:
        rows: Rows as in ``runs``.
        threads: Threads of a worker, by run id.
    """
    columns = formatting.columns(rows)
    heads = ["split", *(column.title for column in columns)]
    texts = []
    for row, name in zip(rows, formatting.names(rows, dict(threads)), strict=True):
        has_figures = row["step_time_s"] is not None
        values = [column.text(row) for column in columns] if has_figures else [str(row["state"]), *[""] * (len(columns) - 1)]
        texts.append([name, *values])
    return heads, texts


def comparison_html(rows: Sequence[Row], threads: Mapping[str, int]) -> str:
    """Returns the table of a comparison, one row per run."""
    return table(*cells(rows, threads))


def run_html(row: Row, message: str, error: RunError | None) -> str:
    """Returns the description of a run with its figures, or its progress, or the reason of its failure."""
    workers = counted(row["num_workers"], "worker")
    title = f"<b>{escape(row['split'])}</b> · {escape(row['model'])} on {escape(row['dataset'])} · {workers} · {row['state']}"
    text = f"<p>{title}</p>"
    if row["step_time_s"] is not None:
        heads, texts = cells([row], {})
        return text + table(heads[1:], [cell[1:] for cell in texts], num_names=0)
    sentences = [message, *([error.advice] if error else [])]
    return text + "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences if sentence)


def run_text(row: Row) -> str:
    """Returns ``<Run 20261124-… finished: dp2 of transformer, 80.3 ms per step, speed-up 1.61×>``."""
    text = f"Run {row['run_id']} {row['state']}"
    if row["step_time_s"] is not None:
        unit = "batch" if row["mode"] == "inference" else "step"
        step_time = formatting.marked(formatting.seconds(row["step_time_s"]), row, "step_time_s")
        text += f": {row['split']} of {row['model']}, {step_time} per {unit}"
        if row["speedup"] is not None:
            text += f", speed-up {formatting.marked(formatting.factor(row['speedup']), row, 'speedup')}"
    return f"<{text}>"
