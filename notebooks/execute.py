"""Executes notebooks and stores what came out: ``python notebooks/execute.py notebooks/00_quickstart.ipynb …``.

A notebook runs in a kernel of its own, in an empty directory and with an empty store, so that nothing is taken from earlier. Each
cell keeps a digest of the source that it was executed with; tests/notebook/test_notebooks.py says when a cell was changed
since. Of live widgets and charts only the still images are stored: the rest would be large, and of no use where no kernel
runs. The first cell says how long the notebook takes on a quiet machine, as it was measured here; the metadata have the seconds,
and how many runs other programs disturbed.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

CELL_LIMIT_S = 300
DIGEST = "executed_source"
LIVE = ("application/vnd.jupyter.widget-view+json", "application/vnd.vegalite.v5+json")
MEASURED = "workbench"
"""Key of the metadata of a notebook with its duration and what disturbed it."""
ROOT = Path(__file__).parents[1]
_PROMISE = re.compile(r"\n+\*All cells together take about .*\*$")
_ANSWER = re.compile(r"^(answer_\d+) = \.\.\.", re.MULTILINE)
_TIME_CLAIM = re.compile(r"^( *)assert .*  # of measured times$", re.MULTILINE)
_CHECK = re.compile(r'check_exercise\("(\d\d\.\d)", (answer_\d+)')


def read(path: Path) -> NotebookNode:
    """The notebook in a file."""
    return nbformat.read(path, as_version=4)


def execute(notebook: NotebookNode) -> NotebookNode:
    """Executes all cells, in place, and records the duration.

    Raises:
        CellExecutionError: a cell raised something.
    """
    from workbench.store.runs_table import rows

    with tempfile.TemporaryDirectory() as directory:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "WORKBENCH_HOME": f"{directory}/store"}
        client = NotebookClient(
            notebook, timeout=CELL_LIMIT_S, resources={"metadata": {"path": directory}}, store_widget_state=False
        )
        start = time.monotonic()
        client.execute(env=environment)
        duration_s = round(time.monotonic() - start, 1)
        trusts = [row.get("trust") for row in rows(Path(directory, "store"))]
    notebook.metadata[MEASURED] = {
        "duration_s": duration_s,
        "num_runs": len(trusts),
        "num_disturbed_runs": trusts.count("disturbed"),
        "num_cores": len(os.sched_getaffinity(0)),
    }
    return notebook


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Stamps each cell with the digest of its source and keeps of widgets and charts the still images, in place."""
    notebook.metadata.pop("widgets", None)
    for cell in code_cells(notebook):
        cell.metadata = NotebookNode({**{k: v for k, v in cell.metadata.items() if k != "execution"}, DIGEST: digest(cell)})
        for output in cell.outputs:
            for kind in LIVE if len(output.get("data", {})) > 1 else ():
                output.data.pop(kind, None)
    return notebook


def promise(notebook: NotebookNode, earlier: NotebookNode | None = None) -> NotebookNode:
    """Says in the first cell how long the notebook takes, in place. On a busy machine a quiet record of an ``earlier`` execution
    stays; without one the cell promises nothing."""
    before = (earlier or notebook).metadata.get(MEASURED)
    if before and is_quiet(before) and not is_quiet(notebook.metadata[MEASURED]):
        notebook.metadata[MEASURED] = before
    first, told = notebook.cells[0], is_quiet(notebook.metadata[MEASURED])
    first.source = _PROMISE.sub("", first.source).rstrip() + (f"\n\n{promise_of(notebook)}" if told else "")
    return notebook


def is_quiet(record: dict[str, float]) -> bool:
    """Whether other programs disturbed at most a quarter of the runs of a recorded execution."""
    return record["num_disturbed_runs"] <= record["num_runs"] / 4


def promise_of(notebook: NotebookNode) -> str:
    """Returns the sentence on the recorded duration, rounded to tens of seconds or half minutes."""
    recorded = notebook.metadata[MEASURED]
    seconds, halves = max(10, round(recorded["duration_s"], -1)), round(recorded["duration_s"] / 30)
    minutes = f"{halves // 2 or ''}{'½' if halves % 2 else ''} minute{'s' if halves > 2 else ''}"
    duration = f"{seconds:.0f} seconds" if recorded["duration_s"] < 90 else minutes
    return f"*All cells together take about {duration} on a quiet machine with {recorded['num_cores']} cores.*"


def changed_cells(notebook: NotebookNode) -> list[str]:
    """Sources of the cells that are not as they were executed."""
    return [cell.source for cell in code_cells(notebook) if cell.metadata.get(DIGEST) != digest(cell)]


def with_answers(notebook: NotebookNode) -> NotebookNode:
    """Each ``answer_1 = ...`` replaced by the answer in solutions.py, in place."""
    from workbench.notebook.exercise import exercises

    checked = {found[2]: found[1] for cell in code_cells(notebook) if (found := _CHECK.search(cell.source))}
    for cell in code_cells(notebook):
        if placeholder := _ANSWER.search(cell.source):
            cell.source = f"{placeholder[1]} = {exercises()[checked[placeholder[1]]].answer}"
    return notebook


def without_time_claims(notebook: NotebookNode) -> NotebookNode:
    """Drops the claims about measured times, which other programs can make false, in place: only a quiet machine shows them."""
    for cell in code_cells(notebook):
        cell.source = _TIME_CLAIM.sub(r"\1pass", cell.source)
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that are executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def digest(cell: NotebookNode) -> str:
    """Of a cell's source."""
    return hashlib.sha256(cell.source.encode()).hexdigest()[:16]


def main(paths: list[str]) -> None:
    """Executes these notebooks one after the other and writes them back."""
    for path in map(Path, paths):
        earlier = read(path)
        notebook = execute(read(path))
        record = notebook.metadata[MEASURED]
        nbformat.write(tidy(promise(notebook, earlier)), path)
        print(
            f"{path}: {record['duration_s']:.0f} s, {path.stat().st_size / 2**10:.0f} KiB,"
            f" {record['num_disturbed_runs']} of {record['num_runs']} runs disturbed"
            + ("" if is_quiet(record) else ": execute it again on a quiet machine"),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
