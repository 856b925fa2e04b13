"""The course: every notebook executes, what it claims holds, its exercises accept the answers in solutions.py, and what is stored
came out of the cells as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

import workbench as wb
from notebooks import execute
from workbench import widgets
from workbench.notebook.exercise import exercises

PATHS = sorted(Path(execute.__file__).parent.glob("*.ipynb"))
MOST_BYTES = 450 * 2**10  # the still of a comparison, with its nine charts, takes 290 KiB
CHECK = re.compile(r'widgets\.check_exercise\("(\d\d\.\d)", answer_\d(?:, \w+=[\w.]+(?:\["[^"]+"\])?)*\)')
"""A check shows which exercise it is and what of the notebook it needs."""
notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def outputs(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    for cell in execute.code_cells(notebook):
        yield from cell.outputs


def assert_executes(path: Path) -> None:
    """With each exercise answered as in solutions.py. Measured times are left out."""
    notebook = execute.execute(execute.without_time_claims(execute.with_answers(execute.read(path))))
    assert [output.ename for output in outputs(notebook) if output.output_type == "error"] == []
    said = "".join(output.get("text", "") for output in outputs(notebook))
    assert said.count("Correct.") == 3
    assert "Not answered" not in said


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path == PATHS[0] else pytest.mark.long) for path in PATHS],
    ids=lambda path: path.stem,
)
def test_a_notebook_executes_and_its_claims_hold(path: Path) -> None:
    if "transformers" in path.stem:
        pytest.importorskip("transformers", reason="requires the extra hf")
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
def test_every_stored_picture_is_described_in_words(path: Path) -> None:
    pictures = [output for output in outputs(execute.read(path)) if "image/png" in output.get("data", {})]
    assert all(output.metadata["image/png"].get("alt", "").strip() for output in pictures)


@notebooks
def test_a_notebook_says_how_long_it_takes_as_it_was_measured(path: Path) -> None:
    notebook = execute.read(path)
    record, first = notebook.metadata.get(execute.MEASURED), notebook.cells[0].source
    promises = [execute.promise_of(notebook)] if record and execute.is_quiet(record) else []
    assert re.findall(r"^\*All cells .*", first, re.MULTILINE) == promises
    rest = first.removesuffix("".join(promises))
    assert not re.search(r"\b(seconds|minutes?)\b", rest), "one promise, not two"


@pytest.mark.parametrize(
    ("duration_s", "words"),
    [(3.0, "10 seconds"), (43.2, "40 seconds"), (89.0, "90 seconds"), (93.0, "1½ minutes"), (61 * 2, "2 minutes")],
)
def test_a_duration_is_rounded_for_people(duration_s: float, words: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A\n\n*All cells together take about 9 hours.*")])
    notebook.metadata[execute.MEASURED] = {"duration_s": duration_s, "num_runs": 1, "num_disturbed_runs": 0, "num_cores": 2}
    source = execute.promise(notebook).cells[0].source
    assert source == f"# A\n\n*All cells together take about {words} on a quiet machine with 2 cores.*"


def test_a_quiet_duration_stays_when_a_later_execution_is_disturbed() -> None:
    quiet, busy = (
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_markdown_cell("# A")],
            metadata={execute.MEASURED: {"duration_s": 40.0 * n, "num_runs": 5, "num_disturbed_runs": 2 * n - 2, "num_cores": 2}},
        )
        for n in (1, 2)
    )
    assert "40 seconds" in execute.promise(busy, quiet).cells[0].source
    assert busy.metadata[execute.MEASURED] == quiet.metadata[execute.MEASURED]
    busy.metadata[execute.MEASURED] = {**busy.metadata[execute.MEASURED], "num_disturbed_runs": 2}
    assert execute.promise(busy, nbformat.v4.new_notebook(metadata=busy.metadata)).cells[0].source == "# A"


@notebooks
def test_a_stored_notebook_is_small_and_names_no_place_of_this_machine(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    assert not re.search(r"/(home|root|work|tmp|Users)/", path.read_text())


@notebooks
def test_a_notebook_asserts_what_it_claims_and_has_three_exercises_with_solutions(path: Path) -> None:
    cells = execute.read(path).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert sum(source.count("assert ") for source in code) >= 4
    answered = execute.with_answers(execute.read(path))
    placeholders = [source for source in code if re.match(r"answer_\d = \.\.\.$", source)]
    checks = [found[1] for source in code if (found := CHECK.fullmatch(source))]
    assert len(placeholders) == 3
    assert checks == [name for name in exercises() if name.startswith(path.stem[:2])]
    assert not any(source in [cell.source for cell in answered.cells] for source in placeholders)


@notebooks
def test_a_notebook_tells_no_answer_to_its_exercises(path: Path) -> None:
    cells = [cell.source for cell in execute.read(path).cells]
    below = "\n".join(cells[next(number for number, source in enumerate(cells) if "## Exercises" in source) :])
    own = [exercise for name, exercise in exercises().items() if name.startswith(path.stem[:2])]
    assert not [exercise for exercise in own if exercise.why in below or f"= {exercise.answer}\n" in below]
    assert "lambda" not in below and "<details>" not in below


def test_a_right_answer_is_explained_and_a_wrong_one_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = exercises()["04.2"]
    widgets.check_exercise("04.2", 0.25)
    assert capsys.readouterr().out == f"Correct.\n{exercise.why}\n"
    with pytest.raises(AssertionError, match="not correct") as raised:
        widgets.check_exercise("04.2", 0.2)
    assert exercise.hint in str(raised.value) and exercise.why not in str(raised.value)
    widgets.check_exercise("04.2", ...)
    assert capsys.readouterr().out.startswith("No answer yet")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("01.1", 124_439_808 * 12), ("02.1", 4), ("02.3", (14.9, 14.9)), ("03.2", 1 / 8), ("04.1", 28), ("04.1", 26),
        ("08.1", 0.002), ("08.2", 1e5), ("07.2", "x"), ("10.2", 12 / 20), ("10.3", wb.RunSpec(model="mlp", split={"data": 2})),
        ("00.2", wb.RunSpec(model="mlp", split={"data": 2})), ("00.3", wb.RunSpec(split={"data": 2})),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused_with_the_hint_of_its_exercise(name: str, wrong: object) -> None:
    measured = {"runs": {}} if name == "07.2" else {}
    with pytest.raises(AssertionError, match=re.escape(exercises()[name].hint)):
        widgets.check_exercise(name, wrong, **measured)


@pytest.mark.parametrize("name", ["00.2", "00.3", "01.1", "02.1", "02.3", "03.2", "04.1", "04.2", "08.1", "08.2", "10.2"])
def test_the_solution_of_an_exercise_without_a_run_is_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    widgets.check_exercise(name, eval(exercises()[name].answer, {"wb": wb}))
    assert capsys.readouterr().out.startswith("Correct.")


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


def test_an_execution_records_its_duration() -> None:
    notebook = execute.execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time; time.sleep(0.5)")]))
    record = notebook.metadata[execute.MEASURED]
    assert record["duration_s"] > 0.5
    assert (record["num_runs"], record["num_disturbed_runs"]) == (0, 0)


def test_a_false_claim_fails_the_execution() -> None:
    with pytest.raises(CellExecutionError, match="AssertionError"):
        execute.execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")]))
