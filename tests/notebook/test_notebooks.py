"""The course: every notebook executes, what it claims holds, its exercises accept the answers that they show, and what is stored
came out of the cells as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from notebooks import execute

PATHS = sorted(Path(execute.__file__).parent.glob("*.ipynb"))
MOST_BYTES = 400 * 2**10
notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def outputs(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    for cell in execute.code_cells(notebook):
        yield from cell.outputs


def assert_executes(path: Path) -> None:
    """With each exercise answered as the notebook says below it. Measured times are left out."""
    notebook = execute.execute(execute.without_time_claims(execute.with_answers(execute.read(path))))
    assert [output.ename for output in outputs(notebook) if output.output_type == "error"] == []
    said = "".join(output.get("text", "") for output in outputs(notebook))
    assert said.count("Correct.") == 3
    assert "Not answered" not in said


@pytest.mark.slow
@pytest.mark.timeout(600)
@notebooks
def test_a_notebook_executes_and_its_claims_hold(path: Path) -> None:
    assert_executes(path)


@notebooks
def test_no_cell_was_changed_after_it_was_executed(path: Path) -> None:
    assert execute.changed_cells(execute.read(path)) == [], f"execute it again: python notebooks/execute.py notebooks/{path.name}"


@notebooks
def test_stored_outputs_are_of_one_execution_from_top_to_bottom_without_an_error(path: Path) -> None:
    notebook = execute.read(path)
    counts = [cell.execution_count for cell in execute.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))


@notebooks
def test_a_stored_notebook_is_small_and_names_no_place_of_this_machine(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text())


@notebooks
def test_a_notebook_asserts_what_it_claims_and_has_three_exercises_with_answers(path: Path) -> None:
    cells = execute.read(path).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert sum(source.count("assert ") for source in code) >= 4
    answered = execute.with_answers(execute.read(path))
    placeholders = [source for source in code if re.match(r"answer_\d = \.\.\.$", source)]
    checks = [source for source in code if re.search(r"widgets\.check\(\s*answer_\d", source)]
    assert len(placeholders) == len(checks) == 3
    assert not any(source in [cell.source for cell in answered.cells] for source in placeholders)


@notebooks
def test_what_tests_an_answer_and_so_tells_it_is_folded_away(path: Path) -> None:
    checks = [cell for cell in execute.code_cells(execute.read(path)) if "widgets.check(" in cell.source]
    assert all(cell.metadata.get("jupyter") == {"source_hidden": True} for cell in checks)


def test_a_changed_cell_and_a_cell_that_never_ran_are_noticed() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell("2 + 2")])
    execute.tidy(notebook)
    assert execute.changed_cells(notebook) == []
    notebook.cells[1].source = "2 + 3"
    notebook.cells.append(nbformat.v4.new_code_cell("3 + 3"))
    assert execute.changed_cells(notebook) == ["2 + 3", "3 + 3"]


def test_live_widgets_and_charts_are_stored_as_pictures_alone() -> None:
    data = {"text/plain": "x", "image/png": "", **{kind: {} for kind in execute.LIVE}}
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("execute_result", data=data)])
    execute.tidy(nbformat.v4.new_notebook(cells=[cell]))
    assert set(cell.outputs[0].data) == {"text/plain", "image/png"}


def test_a_false_claim_fails_the_execution() -> None:
    with pytest.raises(CellExecutionError, match="AssertionError"):
        execute.execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")]))
