"""Progress in a cell: one line, updated in place, of the runs that a notebook or an IPython terminal waits for.

A script shows nothing: without an IPython shell in this thread there is no line. The line belongs to the cell, so it is kept in
the namespace that IPython reserves for extensions (``shell.meta``); all runs that a cell waits for share it.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.analysis.progress import Follower
    from workbench.analysis.progress_line import EndedRun
    from workbench.api.stored_run import Run
    from workbench.store.run_status import RunState

REFRESH_S = 0.5
"""Drawing is rare and cheap, since the runs need the cores."""

_UNREADABLE = (WorkbenchError, FileNotFoundError)
"""What reading a run raises that is damaged or was purged. Such a run, often a baseline, does not end the wait for another."""


class Line(Protocol):
    """A line that is updated in place."""

    def show(self, text: str, done: float) -> None:
        """Shows a text, and the share of the work that is done."""

    def end(self, run: EndedRun) -> None:
        """Replaces the line by what became of the runs so far."""


@contextlib.contextmanager
def shown(run: Run, position: str = "") -> Iterator[Callable[[], None]]:
    """Shows the progress of a run while the block waits for it. What cannot be read is said in the line and raises nothing.

    Args:
        run: the run that the block waits for.
        position: which of several runs it is, such as ``2 of 3``.

    Yields:
        a function to call during each poll.
    """
    line = None if run.state.is_terminal else _line()
    if line is None:
        yield lambda: None
        return
    from workbench.analysis.progress_line import EndedRun

    name, begin_s = _name(run), time.monotonic()
    followers: dict[str, Follower] = {}
    drawn_s = float("-inf")

    def refresh() -> None:
        nonlocal drawn_s
        if time.monotonic() - drawn_s >= REFRESH_S:
            drawn_s = time.monotonic()
            line.show(f"{name}{f' ({position})' if position else ''} · {progress_text(run, followers)}", _done(followers))

    try:
        yield refresh
    finally:
        line.end(EndedRun(run.id, name, _state(run), time.monotonic() - begin_s))


@contextlib.contextmanager
def shown_work(name: str) -> Iterator[Callable[[str], None]]:
    """Shows what the work in the block does.

    Yields:
        a function to call with each text.
    """
    from workbench.analysis.progress_line import EndedRun
    from workbench.store.run_status import RunState

    line, begin_s, state = _line(), time.monotonic(), RunState.FAILED
    try:
        yield lambda text: line.show(f"{name} · {text}", 0.0) if line else None
        state = RunState.FINISHED
    finally:
        if line:
            line.end(EndedRun(name, name, state, time.monotonic() - begin_s))


def progress_text(run: Run, followers: dict[str, Follower]) -> str:
    """Returns the progress of the first of a run's baselines and itself that has not ended, or why it cannot be read.

    Args:
        run: the run.
        followers: by id, the follower of the run that the last call was about; at first empty.
    """
    from workbench.analysis.formatting import run_name
    from workbench.analysis.progress import Follower
    from workbench.analysis.progress_line import progress_line
    from workbench.api.remeasurement import pending

    try:
        current = next(iter(pending([run])), run)
        if current.id not in followers:
            followers.clear()
            followers[current.id] = Follower(current)
        follower = followers[current.id]
        follower.read_new()
        baseline = "" if current.id == run.id else f"baseline {run_name(current.record)}: "
        return baseline + progress_line(follower)
    except _UNREADABLE as error:
        return f"no progress to show: {error}"


def _name(run: Run) -> str:
    from workbench.analysis.formatting import run_name

    try:
        return run_name(run.record)
    except _UNREADABLE:
        return run.id


def _state(run: Run) -> RunState | None:
    try:
        return run.state
    except _UNREADABLE:
        return None


def _done(followers: dict[str, Follower]) -> float:
    progress = next((follower.progress for follower in followers.values()), None)
    return progress[0] / progress[1] if progress else 0.0


def _line() -> Line | None:
    """Returns the line of what is being executed in this thread, a cell or the callback of a widget; None if there is none."""
    shell = cell_shell()
    if shell is None:
        return None
    if not hasattr(shell, "kernel"):
        return _TerminalLine() if sys.stderr.isatty() else None
    line = shell.meta.get("workbench_line")
    message_id = _message_id(shell)
    if line is None or line.message_id != message_id:
        line = shell.meta["workbench_line"] = _CellLine(message_id)
    return line


def cell_shell() -> Any:
    """Returns the IPython shell that executes something in this thread; None if there is none."""
    ipython = sys.modules.get("IPython")
    is_main = threading.current_thread() is threading.main_thread()
    return getattr(ipython, "get_ipython", lambda: None)() if is_main else None


def _message_id(shell: Any) -> str:
    """Returns the id of the message that the kernel handles. The count of executions is no such id: between cells it is that of
    the next, and a cell that is not stored in the history leaves it as it is."""
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return str(parent.get("header", {}).get("msg_id", shell.execution_count))


class _CellLine:
    """A bar and a text in the output of a cell; at the end the text alone, which is stored with the notebook."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self._ended: dict[str, EndedRun] = {}
        """By id: an interrupted wait is followed by one for the end of the cancelled run."""
        self._data: dict[str, str] = {}
        self._handle: Any = None

    def show(self, text: str, done: float) -> None:
        before = f"{len(self._ended)} finished · " if self._ended else ""
        bar = f'<progress value="{done:.3f}" max="1" aria-label="progress"></progress> '
        self._update(before + text, bar)

    def end(self, run: EndedRun) -> None:
        from workbench.analysis.progress_line import ended_line

        self._ended[run.id] = run
        self._update(ended_line(list(self._ended.values())))

    def _update(self, text: str, bar: str = "") -> None:
        from IPython.display import display

        data = {"text/html": f"<div>{bar}{escape(text)}</div>", "text/plain": text}
        if data == self._data:
            return
        self._data = data
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class _TerminalLine:
    """A line on stderr."""

    def show(self, text: str, done: float) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{f'{done:4.0%} {text}'[:width]}", end="", file=sys.stderr, flush=True)

    def end(self, run: EndedRun) -> None:
        from workbench.analysis.progress_line import ended_line

        print(f"\r\033[K{ended_line([run])}", file=sys.stderr, flush=True)
