"""The line that a cell shows while it waits for runs, in a real kernel, in a terminal, and its words."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import psutil
import pytest

import workbench as wb
from notebooks import execute
from tests.helpers.specs import tiny
from workbench.analysis.formatting import run_name
from workbench.analysis.progress import Follower
from workbench.analysis.progress_line import EndedRun, ended_line, progress_line
from workbench.api import Run
from workbench.api.progress import shown, shown_work
from workbench.store.directory import RunDirectory
from workbench.store.processes import ProcessIdentity
from workbench.store.run_status import RunState, RunStatus

SETUP = """
import workbench as wb
from tests.helpers.specs import tiny
alone = {"mode": "none"}
"""
CANCEL_AT_A_STEP = """
publisher, texts = get_ipython().display_pub, []
publish = publisher.publish
def heard(data, *args, **kwargs):
    texts.append(data["text/plain"])
    publish(data, *args, **kwargs)
    if " · step " in texts[-1]:
        run.cancel()
publisher.publish = heard
"""
ENDLESS = {"num_steps": 100_000}


@pytest.mark.slow
def test_a_cell_shows_what_it_waits_for_and_keeps_one_line_of_it() -> None:
    sources = (
        SETUP + CANCEL_AT_A_STEP,
        f"run = wb.submit(tiny(data=2).replace(baseline=alone, train={ENDLESS}))",
        "run = run.wait()",
        "print(*texts, sep='\\n')",
        "run = run.wait()",
    )
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    waited, said, again = (cell.outputs for cell in execute.execute(nbformat.v4.new_notebook(cells=cells)).cells[2:])
    assert [output.output_type for output in waited] == ["display_data"], "the line is updated in place"
    assert waited[0].data["text/plain"].startswith("dp2 cancelled after ")
    assert "<progress" not in waited[0].data["text/html"]
    assert re.search(r"^dp2 · running, .* · step \d+ of 1000\d\d", said[0].text, re.MULTILINE)
    assert again == [], "what has ended is not waited for"


@dataclass
class Kernel:
    """The part of IPython's shell in a kernel that a line is made with."""

    message_id: str = "first"
    execution_count: int = 1
    meta: dict[str, Any] = field(default_factory=dict)
    kernel: None = None
    outputs: list[list[str]] = field(default_factory=list)
    """The texts of each output, which follow one another in place."""

    def get_parent(self) -> dict[str, Any]:
        return {"header": {"msg_id": self.message_id}}

    def display(self, data: dict[str, str], **_: Any) -> SimpleNamespace:
        texts = [data["text/plain"]]
        self.outputs.append(texts)
        return SimpleNamespace(update=lambda data, **_: texts.append(data["text/plain"]))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr("IPython.get_ipython", lambda: kernel)
    monkeypatch.setattr("IPython.display.display", kernel.display)
    return kernel


@pytest.fixture
def going(run: Run, tmp_path: Path) -> Run:
    """A copy of a run and of its baselines, which seem to be in progress."""
    supervisor = ProcessIdentity(os.getpid(), psutil.Process().create_time())
    for source in (run.path, *(run.path.with_name(other) for other in run.record.baseline_ids)):
        copy = shutil.copytree(source, tmp_path / source.name)
        RunDirectory(copy).write_status(RunStatus(RunState.RUNNING, supervisor=supervisor))
    return Run(RunDirectory(tmp_path / run.id))


def without_time(text: str) -> str:
    return text.split(" after ")[0]


def test_the_runs_of_one_cell_share_a_line_and_another_cell_has_its_own(kernel: Kernel, going: Run) -> None:
    with shown(going, "1 of 2") as refresh:
        refresh()
    with shown(Run(going.directory), "2 of 2") as refresh:
        refresh()
    kernel.message_id = "second"  # such as a callback between cells: the count stays
    with shown(going):
        pass
    first, second = kernel.outputs
    assert re.match(r"dp2 \(1 of 2\) · baseline single(, 2 threads)?: running, .* · step (\d+) of \2 ", first[0])
    assert without_time(first[1]) == "dp2 not ended"
    assert first[2].startswith("1 finished · dp2 (2 of 2) · ")
    assert list(map(without_time, second)) == ["dp2 not ended"]


def test_a_baseline_that_cannot_be_read_does_not_end_the_wait(kernel: Kernel, going: Run) -> None:
    for baseline in going.record.baseline_ids:
        (going.path.with_name(baseline) / "status.json").write_text("{")
    with shown(going) as refresh:
        refresh()
    [texts] = kernel.outputs
    assert re.match(r"dp2 · no progress to show: run .*: status.json is damaged", texts[0])
    assert without_time(texts[1]) == "dp2 not ended"


def test_a_run_that_cannot_be_read_does_not_hide_why_the_wait_ends(kernel: Kernel, going: Run) -> None:
    with pytest.raises(KeyboardInterrupt), shown(going):
        (going.path / "status.json").write_text("{")
        raise KeyboardInterrupt
    assert [list(map(without_time, texts)) for texts in kernel.outputs] == [["dp2 cannot be read"]]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_line_that_is_as_wide_at_most(monkeypatch: pytest.MonkeyPatch, going: Run) -> None:
    monkeypatch.setattr("IPython.get_ipython", object)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with shown(going) as refresh:
        refresh()
    empty, during, after = terminal.getvalue().split("\r\033[K")
    assert empty == ""
    assert during.startswith("100% dp2 · baseline single")
    assert len(during) == 29
    assert without_time(after) == "dp2 not ended"
    assert after.endswith("\n")
    monkeypatch.setattr("sys.stderr", pipe := io.StringIO())
    with shown(going) as refresh:
        refresh()
    assert pipe.getvalue() == ""


def test_work_shows_what_it_does_and_how_it_ended(kernel: Kernel) -> None:
    with shown_work("calibration") as show:
        show("matrix products")
    kernel.message_id = "second"
    with pytest.raises(ZeroDivisionError), shown_work("calibration"):
        raise ZeroDivisionError
    assert [list(map(without_time, texts)) for texts in kernel.outputs] == [
        ["calibration · matrix products", "calibration finished"],
        ["calibration failed"],
    ]


def test_a_script_shows_nothing() -> None:
    code = SETUP + "wb.run(tiny().replace(baseline=alone))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.usefixtures("store")
def test_a_line_names_what_a_run_waits_for_and_how_far_it_is(run: Run) -> None:
    follower = Follower(run)
    follower.read_new()
    assert progress_line(follower) == "finished"
    assert run_name(run.record) == "dp2"
    same_cores = wb.open_run(run.record.same_cores_baseline_run_id)
    assert run_name(same_cores.record) == "single, 2 threads"
    going = wb.submit(tiny(data=2).replace(baseline={"mode": "none"}, train=ENDLESS))
    follower = Follower(going)
    while not re.match(r"running, timed steps · step \d+ of 1000\d\d · about .* left$", progress_line(follower)):
        time.sleep(0.05)
        follower.read_new()
    waiting = wb.submit(tiny(data=2).replace(baseline={"mode": "none"}))
    while not waiting.message:
        time.sleep(0.05)
    assert progress_line(Follower(waiting)) == f"queued · {waiting.message}"
    assert "1 ahead" in waiting.message
    waiting.end()
    going.end()


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ({"dp2": "finished"}, "dp2 finished after 2 s"),
        ({"dp2": "running"}, "dp2 not ended after 2 s"),
        ({"dp2": "finished", "dp4": "finished"}, "2 runs finished after 4 s: dp2, dp4"),
        ({"dp2": "finished", "tp2": "failed"}, "1 of 2 runs finished after 4 s: dp2; tp2 failed"),
        ({"dp2": "cancelled", "tp2": "failed"}, "0 of 2 runs finished after 4 s; dp2 cancelled; tp2 failed"),
    ],
)
def test_what_is_left_of_the_line_says_what_became_of_the_runs(states: dict[str, str], line: str) -> None:
    assert ended_line([EndedRun(name, name, RunState(state), 2.0) for name, state in states.items()]) == line
