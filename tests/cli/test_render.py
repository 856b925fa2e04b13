"""How figures look in the terminal."""

from __future__ import annotations

from io import StringIO

from rich.console import Console
from rich.table import Table

from workbench.cli.render import whole


def test_a_narrow_terminal_loses_no_figure() -> None:
    table, text = Table("step", "peak"), StringIO()
    for column in table.columns:
        column.no_wrap = True
    table.add_row("123456789.5 ms", "987654321.25 MiB")
    whole(Console(file=text, width=12), table)
    assert "123456789.5 ms" in text.getvalue()
    assert "987654321.25 MiB" in text.getvalue()
