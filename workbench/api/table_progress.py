"""A table of runs that grows while they go on: in the output of a cell, or in a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from workbench.api.progress import REFRESH_S, cell_shell, progress_text
from workbench.messages import counted

if TYPE_CHECKING:
    from workbench.analysis.progress import Follower
    from workbench.api.stored_run import Run

Rows = Sequence[Mapping[str, Any]]


class _Table(Protocol):
    def show(self, heads: list[str], cells: list[list[str]], text: str) -> None:
        """Draws the table and the line below it in place of what is there."""

    def end(self, text: str) -> None:
        """Leaves what is shown when the runs have ended."""


@contextlib.contextmanager
def growing_table(threads: Mapping[str, int]) -> Iterator[Callable[[list[dict[str, Any]], list[Run]], None]]:
    """Shows runs while the block waits for them.

    Args:
        threads: Threads of a worker, by run id.

    Yields:
        A function of the rows of all runs and of the runs that have not ended, to call during each poll.
    """
    from workbench.analysis.formatting import duration, run_name
    from workbench.analysis.markup import cells

    table, begin_s, drawn_s = _table(), time.monotonic(), float("-inf")
    followers: dict[str, Follower] = {}
    num_runs = 0

    def show(rows: list[dict[str, Any]], waiting: list[Run]) -> None:
        nonlocal drawn_s, num_runs
        num_runs = len(rows)
        if table is None or (waiting and time.monotonic() - drawn_s < REFRESH_S):
            return
        drawn_s = time.monotonic()
        text = f"{len(rows) - len(waiting)} of {counted(len(rows), 'run')} ended"
        if waiting:
            text += f" · {run_name(waiting[0].record)}: {progress_text(waiting[0], followers)}"
        table.show(*cells(rows, threads), text)

    try:
        yield show
    finally:
        if table is not None:
            table.end(f"{counted(num_runs, 'run')} in {duration(time.monotonic() - begin_s)}")


def _table() -> _Table | None:
    """Returns the table of the cell that is executed, or of the terminal; None if neither is there."""
    shell = cell_shell()
    if shell is not None and hasattr(shell, "kernel"):
        return _CellTable()
    return _TerminalTable() if sys.stderr.isatty() else None


class _CellTable:
    """A table in the output of a cell. At the end its line alone stays: the cell shows the comparison that it returns."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, heads: list[str], cells: list[list[str]], text: str) -> None:
        from workbench.analysis.markup import table

        self._draw(f"{table(heads, cells)}<p>{escape(text)}</p>", text)

    def end(self, text: str) -> None:
        self._draw(f"<p>{escape(text)}</p>", text)

    def _draw(self, html: str, text: str) -> None:
        from IPython.display import display

        data = {"text/html": html, "text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class _TerminalTable:
    """A table on stderr, which stays."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True, markup=False, emoji=False, highlight=False), auto_refresh=False)
        self._live.start()

    def show(self, heads: list[str], cells: list[list[str]], text: str) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
        for index, head in enumerate(heads):
            table.add_column(Text(head), justify="right" if index else "left")
        for row in cells:
            table.add_row(*map(Text, row))
        self._live.update(Group(table, Text(text)), refresh=True)

    def end(self, text: str) -> None:
        self._live.stop()
