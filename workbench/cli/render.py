"""Tables and figures in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from textwrap import wrap
from typing import Any, Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from workbench.analysis import formatting
from workbench.api.store import RunError
from workbench.cli.terminal import Terminal

Row = dict[str, Any]
WIDEST = 1000
NUM_TENSORS = 5
_SHORT = {"communication\nMiB": "comm.\nMiB"}
"""Shorter headings of columns that do not fit into a terminal of 80 characters."""


def comparison(rows: Iterable[Row], threads: dict[str, int]) -> Table:
    """Returns the table of a comparison, one row per run; ``threads`` (by run id) are shown if they differ."""
    rows = list(rows)
    columns = formatting.columns(rows)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("split\n", no_wrap=True)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column.figure == "parity_verdict" else "right"
        table.add_column(_SHORT.get(column.head, column.head), justify=justify, no_wrap=True)
    for row, name in zip(rows, formatting.names(rows, threads), strict=True):
        split, *rest = re.split(r" (?=over |\()", name)
        name = "\n  ".join([split, *wrap(" ".join(rest), 18)])
        if row["step_time_s"] is None:
            table.add_row(name, Text(row["state"], style="red"))
        else:
            table.add_row(name, *(_cell(column.text(row)) for column in columns))
    return table


def _cell(text: str) -> Text:
    """Returns a cell: a figure with a mark is dim."""
    style = "red" if text == "WRONG" else "dim" if text.endswith("⚠") else ""
    return Text(text.replace("equal per shard", "equal per\nshard"), style=style)


def whole(console: Console, table: Table) -> None:
    """Prints a table with all its figures: the terminal wraps a table that is too wide, instead of cutting it."""
    width = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    Terminal(file=console.file, width=max(width, console.width)).print(table)


def largest_tensors(rows: Iterable[Row]) -> Table:
    """Returns a table of the first ``NUM_TENSORS`` rows of ``peak_tensors``: the largest tensors at a worker's peak."""
    table = Table("MiB", "category", "module or parameter", "shape", "dtype", box=None, padding=(0, 1, 0, 2))
    for row in list(rows)[:NUM_TENSORS]:
        size, category = f"{row['bytes'] / 2**20:.2f}", row["category"].replace("_", " ")
        table.add_row(size, category, row["module"] or "–", row["shape"] or "scalar", row["dtype"])
    return table


def failure(console: Console, run_id: str, error: RunError | None, message: str) -> None:
    """Prints why a run did not finish."""
    console.print(Text.assemble((run_id, "red"), f" {message}"))
    if error:
        what = [] if error.step is None else [f"step {error.step}"]
        what += [] if error.exception in message else [error.exception]
        if what:
            console.print(f"  {': '.join(what)}")
        if memory := error.memory:  # the memory budget was exceeded: the tensors explain more than a traceback
            alive = (
                f"{name.replace('_', ' ')} {formatting.mebibytes(size)}" for name, size in memory.by_category.items() if size
            )
            console.print(f"  memory of worker {error.rank}: {', '.join(alive)}; largest tensors:")
            console.print(largest_tensors(memory.largest_tensors))
        for line in error.last_lines[-6:] if not memory else ():
            console.print(f"  | {line}")
        if error.advice:
            console.print(f"  {error.advice}")
