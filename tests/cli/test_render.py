"""How figures look in the terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from workbench.analysis.byte_units import in_bytes
from workbench.analysis.formatting import bandwidth
from workbench.cli.memory import _mebibytes
from workbench.cli.render import whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (in_bytes(4), "4 B"),
        (in_bytes(3000), "2.93 KiB"),
        (in_bytes(2**31), "2.00 GiB"),
        (_mebibytes(4), "<0.01"),
        (_mebibytes(0), "0.00"),
        (bandwidth(33.0), "33.0 B/s"),
        (bandwidth(8000.0), "8.0 kB/s"),
        (bandwidth(2.5e9), "2.5 GB/s"),
        (bandwidth(float("nan")), "–"),
    ],
)
def test_a_small_figure_has_a_small_unit(text: str, expected: str) -> None:
    assert text == expected


def test_a_narrow_terminal_loses_no_figure() -> None:
    table, text = Table("step", "peak"), StringIO()
    for column in table.columns:
        column.no_wrap = True
    table.add_row("123456789.5 ms", "987654321.25 MiB")
    whole(Console(file=text, width=12), table)
    assert "123456789.5 ms" in text.getvalue()
    assert "987654321.25 MiB" in text.getvalue()
