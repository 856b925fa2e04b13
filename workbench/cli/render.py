"""How figures look in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = dict[str, Any]


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


def parity(row: Row) -> str:
    """``equal (5e-16)``"""
    if row["parity_ok"] is None:
        return "–"
    error = row["parity_max_error"]
    return ("equal" if row["parity_ok"] else "WRONG") + (f" ({error:.0e})" if error is not None else "")


def comparison(rows: Iterable[Row], threads: dict[str, int]) -> Table:
    """The table of a comparison, a row a run; ``threads`` (by run id) are shown where they differ."""
    rows = list(rows)
    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column("split", no_wrap=True)
    for head in (
        "step time",
        "p10–p90",
        "samples/s",
        "speed-up",
        "on equal\ncores",
        "peak\nmemory",
        "bytes sent\nper step",
    ):
        table.add_column(head, justify="right")
    table.add_column("parity")
    differ = len({threads.get(row["run_id"]) for row in rows if row["num_workers"] == 1}) > 1
    for row in rows:
        name = row["split"]
        if differ and row["num_workers"] == 1:
            name += f", {threads.get(row['run_id'])} threads"
        if row["step_time_s"] is None:
            table.add_row(name, f"[red]{row['state']}[/red]")
            continue
        spread = f"{row['step_time_p10_s'] * 1e3:.1f}–{row['step_time_p90_s'] * 1e3:.1f}"
        table.add_row(
            name,
            seconds(row["step_time_s"]),
            spread,
            f"{row['samples_per_s']:.0f}",
            factor(row["speedup"]),
            factor(row["speedup_same_cores"]),
            mebibytes(row["peak_memory_bytes"]),
            mebibytes(row["communication_bytes_per_step"]),
            parity(row),
        )
    return table


def failure(console: Console, run_id: str, error: Row | None, message: str) -> None:
    """Why a run did not finish."""
    console.print(f"[red]{run_id}[/red] {escape(message)}")
    if error:
        console.print(f"  step {error.get('step')}: {escape(str(error.get('exception')))}", highlight=False)
        for line in (error.get("last_lines") or [])[-6:]:
            console.print(f"  | {escape(line)}", highlight=False)
        if error.get("advice"):
            console.print(f"  {escape(error['advice'])}", highlight=False)
