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


def _mebibytes(value: float | None) -> str:
    return mebibytes(value).removesuffix(" MiB")


def comparison(rows: Iterable[Row], threads: dict[str, int]) -> Table:
    """The table of a comparison, a row a run; ``threads`` (by run id) are shown where they differ."""
    rows = list(rows)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("split\n", no_wrap=True)
    heads = ("step\nms", "p10–p90\nms", "samples\n/s", "speed-\nup", "equal\ncores", "peak\nMiB", "sent\nMiB")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("parity\n", no_wrap=True)
    differ = len({threads.get(row["run_id"]) for row in rows if row["num_workers"] == 1}) > 1
    for row in rows:
        name = row["split"]
        if differ and row["num_workers"] == 1:
            name += f", {threads.get(row['run_id'])} thread(s)"
        if row["step_time_s"] is None:
            table.add_row(name, f"[red]{row['state']}[/red]")
            continue
        spread = f"{row['step_time_p10_s'] * 1e3:.1f}–{row['step_time_p90_s'] * 1e3:.1f}"
        table.add_row(
            name,
            f"{row['step_time_s'] * 1e3:.1f}",
            spread,
            f"{row['samples_per_s']:.0f}",
            factor(row["speedup"]),
            factor(row["speedup_same_cores"]),
            _mebibytes(row["peak_memory_bytes"]),
            _mebibytes(row["communication_bytes_per_step"]),
            {True: "equal", False: "[red]WRONG[/red]", None: "–" if row["parity_max_error"] is None else "lossy"}[
                row["parity_ok"]
            ],
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
