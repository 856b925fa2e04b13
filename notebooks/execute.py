"""Executes notebooks and stores what came out: ``python notebooks/execute.py notebooks/00_quickstart.ipynb …``.

A notebook runs in a kernel of its own, in an empty directory and with an empty store, so that nothing is taken from earlier. Each
cell keeps a digest of the source that it was executed with; tests/notebook/test_notebooks.py says when a cell was changed
since. Of live widgets and charts only the still images are stored: the rest would be large, and of no use where no kernel
runs.
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
ROOT = Path(__file__).parents[1]
_ANSWER = re.compile(r"^(answer_\d+) = \.\.\.", re.MULTILINE)
_TIME_CLAIM = re.compile(r"^( *)assert .*  # of measured times$", re.MULTILINE)
_CHECK = re.compile(r'check_exercise\("(\d\d\.\d)", (answer_\d+)')


def read(path: Path) -> NotebookNode:
    """The notebook in a file."""
    return nbformat.read(path, as_version=4)


def execute(notebook: NotebookNode) -> NotebookNode:
    """Executes all cells, in place.

    Raises:
        CellExecutionError: a cell raised something.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "WORKBENCH_HOME": f"{directory}/store"}
        client = NotebookClient(
            notebook, timeout=CELL_LIMIT_S, resources={"metadata": {"path": directory}}, store_widget_state=False
        )
        client.execute(env=environment)
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
        start, notebook = time.monotonic(), read(path)
        nbformat.write(tidy(execute(notebook)), path)
        print(f"{path}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 2**10:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
