"""How figures look in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = dict[str, Any]
NUM_TENSORS = 5


def seconds(value: float | None) -> str:
    """``12.3 ms``"""
    if value is None:
        return "–"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def mebibytes(value: float | None) -> str:
    """``12.3 MiB``"""
    return "–" if value is None else f"{value / 2**20:.2f} MiB"


def factor(value: float | None) -> str:
    """``1.53×``"""
    return "–" if value is None else f"{value:.2f}×"


def milliseconds(value: float | None) -> str:
    """``12.3``"""
    return "–" if value is None else f"{value * 1e3:.1f}"


def _mebibytes(value: float | None) -> str:
    return mebibytes(value).removesuffix(" MiB")


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _parity(row: Row) -> str:
    """Lossy is what differs from one worker on purpose, by no more than it may."""
    unequal = "–" if row["parity_max_error"] is None else "lossy"
    return {True: "equal", False: "[red]WRONG[/red]", None: unequal}[row["parity_ok"]]


Column = tuple[str, Callable[[Row], str]]
"""A head, and what stands below it in a run's row."""

_TRAINING: tuple[Column, ...] = (
    ("step\nms", lambda row: milliseconds(row["step_time_s"])),
    ("p10–p90\nms", lambda row: f"{milliseconds(row['step_time_p10_s'])}–{milliseconds(row['step_time_p90_s'])}"),
    ("samples\n/s", lambda row: _rate(row["samples_per_s"])),
)
_INFERENCE: tuple[Column, ...] = (
    ("latency\nms", lambda row: milliseconds(row["step_time_s"])),
    ("p95\nms", lambda row: milliseconds(row["step_time_p95_s"])),
    ("samples\n/s", lambda row: _rate(row["samples_per_s"])),
)
_GENERATION: tuple[Column, ...] = (
    _INFERENCE[0],
    ("first\nms", lambda row: milliseconds(row["time_to_first_token_s"])),
    ("token\nms", lambda row: milliseconds(row["time_per_token_s"])),
    ("tokens\n/s", lambda row: _rate(row["generated_tokens_per_s"])),
)
_IN_ALL: tuple[Column, ...] = (
    ("speed-\nup", lambda row: factor(row["speedup"])),
    ("equal\ncores", lambda row: factor(row["speedup_same_cores"])),
    ("peak\nMiB", lambda row: _mebibytes(row["peak_memory_bytes"])),
    ("sent\nMiB", lambda row: _mebibytes(row["communication_bytes_per_step"])),
    ("parity\n", _parity),
)


def comparison(rows: Iterable[Row], threads: dict[str, int]) -> Table:
    """The table of a comparison, a row a run; ``threads`` (by run id) are shown where they differ. Where all is inference,
    a step is called what it is, the latency of a batch; where all is generation, so are first and later tokens."""
    rows = list(rows)
    figures = _INFERENCE if all(row["mode"] == "inference" for row in rows) else _TRAINING
    if all(row["generated_tokens_per_s"] is not None for row in rows if row["step_time_s"] is not None):
        figures = _GENERATION if figures is _INFERENCE else figures
    columns = figures + _IN_ALL
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("split\n", no_wrap=True)
    for head, _ in columns:
        table.add_column(head, justify="left" if head == "parity\n" else "right", no_wrap=True)
    differ = len({threads.get(row["run_id"]) for row in rows if row["num_workers"] == 1}) > 1
    for row in rows:
        name = row["split"]
        if differ and row["num_workers"] == 1:
            name += f", {threads.get(row['run_id'])} thread(s)"
        if row["step_time_s"] is None:
            table.add_row(name, f"[red]{row['state']}[/red]")
        else:
            table.add_row(name, *(value(row) for _, value in columns))
    return table


def largest_tensors(rows: Iterable[Row]) -> Table:
    """The first five of the largest tensors at a worker's peak; rows as in ``peak_tensors``."""
    table = Table("MiB", "category", "module or parameter", "shape", "dtype", box=None, padding=(0, 1, 0, 2))
    for row in list(rows)[:NUM_TENSORS]:
        size, category = _mebibytes(row["bytes"]), row["category"].replace("_", " ")
        table.add_row(size, category, escape(row["module"] or "–"), row["shape"] or "one number", row["dtype"])
    return table


def failure(console: Console, run_id: str, error: Row | None, message: str) -> None:
    """Why a run did not finish."""
    console.print(f"[red]{run_id}[/red] {escape(message)}")
    if error:
        console.print(f"  step {error.get('step')}: {escape(str(error.get('exception')))}", highlight=False)
        if memory := error.get("memory"):  # its budget was too small: no traceback tells more than what was alive
            alive = (f"{name.replace('_', ' ')} {mebibytes(size)}" for name, size in memory["by_category"].items() if size)
            console.print(f"  alive on worker {error['rank']}: {', '.join(alive)}; the largest tensors:", highlight=False)
            console.print(largest_tensors(memory["largest_tensors"]))
        for line in (error.get("last_lines") or [])[-6:] if not memory else ():
            console.print(f"  | {escape(line)}", highlight=False)
        if error.get("advice"):
            console.print(f"  {escape(error['advice'])}", highlight=False)
