"""The line that a cell shows while it waits for runs, in a real kernel, in a terminal, and its words."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import nbformat
import pytest

import workbench as wb
from notebooks import execute
from tests.helpers.specs import tiny
from workbench.analysis.progress import Follower
from workbench.analysis.progress_line import EndedRun, ended_line, progress_line, run_name
from workbench.api import Run
from workbench.store.run_status import RunState

SETUP = """
import workbench as wb
from tests.helpers.specs import tiny
alone = {"mode": "none"}
"""
LISTEN = """
from IPython import get_ipython
publisher, texts = get_ipython().display_pub, []
publish = publisher.publish
publisher.publish = lambda data, *args, **kwargs: (texts.append(data["text/plain"]), publish(data, *args, **kwargs))[1]
"""


def executed(*sources: str) -> nbformat.NotebookNode:
    return execute.execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]))


def test_a_cell_shows_what_it_waits_for_and_keeps_one_line_of_it() -> None:
    notebook = executed(
        SETUP + LISTEN,
        "run = wb.run(tiny(data=2))",
        "print(*texts, sep='\\n')",
        "runs = [wb.run(tiny(data=2).replace(baseline=alone)) for _ in range(2)]",
        "wb.compare([tiny(layer=2).replace(baseline=alone), tiny(tensor=2).replace(baseline=alone)]); print(texts[-2])",
        "wb.compare(runs)['split'].tolist()",
    )
    first, said, second, compared, last = (cell.outputs for cell in notebook.cells[1:])
    assert [output.output_type for output in first] == ["display_data"], "the line is updated in place"
    assert first[0].data["text/plain"].startswith("dp2 finished after ")
    assert "<progress" not in first[0].data["text/html"]
    lines = said[0].text.splitlines()
    assert any(line.startswith("dp2 · baseline single: ") for line in lines)
    assert any(" · step " in line for line in lines)
    assert second[0].data["text/plain"].startswith("2 runs finished after ") and second[0].data["text/plain"].endswith(
        ": dp2 × 2"
    )
    assert len(second) == 1
    assert compared[0].data["text/plain"].endswith(": layer2, tp2")
    assert any("tp2 (2 of 2) · " in output.get("text", "") for output in compared)
    assert [output.output_type for output in last] == ["execute_result"], "what has ended is not waited for"


def test_a_script_shows_nothing() -> None:
    code = SETUP + "wb.run(tiny().replace(baseline=alone))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.usefixtures("store")
def test_a_line_names_what_a_run_waits_for_and_how_far_it_is(run: Run) -> None:
    follower = Follower(run)
    follower.read_new()
    assert progress_line(follower) == "finished"
    assert run_name(run) == "dp2"
    same_cores = wb.open_run(run.record.same_cores_baseline_run_id)
    assert run_name(same_cores) == "single, 2 threads"
    going = wb.submit(tiny(data=2).replace(baseline={"mode": "none"}, train={"num_steps": 100_000}))
    follower = Follower(going)
    while not re.match(r"running, timed steps · step \d+ of 1000\d\d · about .* left$", progress_line(follower)):
        follower.read_new()
    waiting = wb.submit(tiny(data=2).replace(baseline={"mode": "none"}))
    while not waiting.message:
        time.sleep(0.05)
    assert progress_line(Follower(waiting)) == f"queued · {waiting.message}"
    assert "1 run ahead" in waiting.message
    waiting.end()
    going.end()


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ({"dp2": "finished"}, "dp2 finished after 2 s"),
        ({"dp2": "running"}, "dp2 still running after 2 s"),
        ({"dp2": "finished", "dp4": "finished"}, "2 runs finished after 4 s: dp2, dp4"),
        ({"dp2": "finished", "tp2": "failed"}, "1 of 2 runs finished after 4 s: dp2; tp2 failed"),
        ({"dp2": "cancelled", "tp2": "failed"}, "0 of 2 runs finished after 4 s; dp2 cancelled; tp2 failed"),
    ],
)
def test_what_is_left_of_the_line_says_what_became_of_the_runs(states: dict[str, str], line: str) -> None:
    assert ended_line([EndedRun(name, name, RunState(state), 2.0) for name, state in states.items()]) == line
