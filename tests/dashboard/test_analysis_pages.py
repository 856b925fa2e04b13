"""The pages Learn, Trace and Compare, drawn by Streamlit's own tester, and what goes wrong on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.helpers.comparison import record_run
from tests.helpers.pages import EVIL, failed, labels, marked_up, page, texts
from tests.helpers.recorded import pipeline_run
from tests.helpers.states import live
from workbench.dashboard.lessons import lesson, names
from workbench.spec import RunSpec
from workbench.store import runs_table
from workbench.store.directory import RunDirectory

SINGLE, DATA = "20261124-100001-single-aaaaaa", "20261124-100002-dp2-bbbbbb"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    return tmp_path


def two_runs(store: Path) -> list[RunDirectory]:
    return [record_run(store, SINGLE, "finished", 1), pipeline_run(store)]


def test_compare_and_the_page_of_a_run_show_what_has_changed_since(store: Path) -> None:
    single, run = two_runs(store)
    pages = page("compare", runs=f"{single.id},{run.id}"), page("run", run=run.id)
    summary = run.summary()
    assert summary is not None
    run.write_summary(replace(summary, step_time_s=2.5))
    compared, of_run = (test.run() for test in pages)
    shown = next(element.value for element in compared.dataframe if "efficiency" in element.value)
    assert 2500.0 in list(shown["step_ms"])
    assert any("2500.0" in frame.value.to_string() for frame in of_run.dataframe), "the results of its report"


def test_a_lessons_run_that_waits_says_for_what(store: Path) -> None:
    run = live(store, "run-1", 1.0)
    run.write_status(replace(run.status(), message="waiting for baseline base-1"))
    assert "waiting for baseline base-1" in texts(page("learn", lesson="data", run="run-1"))


@pytest.mark.parametrize("name", names())
def test_every_lesson_is_drawn_with_its_formula(name: str) -> None:
    test = page("learn", lesson=name)
    assert test.header[0].value == lesson(name).title
    assert [latex.value.strip().strip("$").strip() for latex in test.latex] == [f.tex for f in lesson(name).formulas]


def test_another_lesson_is_chosen_and_stands_in_the_address() -> None:
    test = page("learn")
    test.button_group(key="lesson").set_value("pipeline").run()
    assert test.header[0].value == lesson("pipeline").title
    assert test.query_params == {"lesson": "pipeline"}
    assert page("learn", lesson="no such").header[0].value == lesson("why").title


def test_the_slider_steps_through_the_moments() -> None:
    test = page("learn", lesson="data")
    said = [markdown.value for markdown in test.markdown]
    test.slider(key="moment of data").set_value(3).run()
    new = [markdown.value for markdown in test.markdown if markdown.value not in said]
    assert new == ["**Gradients are averaged over the workers; afterwards all workers have the same.**"]


def test_run_starts_the_spec_of_the_lesson_and_shows_what_came_of_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunSpec] = []
    run = pipeline_run(store)

    def submit(spec: RunSpec) -> Any:
        asked.append(spec)
        return SimpleNamespace(id=run.id)

    monkeypatch.setattr("workbench.dashboard.start.submit", submit)
    test = page("learn", lesson="pipeline")
    next(button for button in test.button if button.label == "Run").click().run()
    assert not test.exception
    assert asked == [lesson("pipeline").spec]
    assert "Step" in [metric.label for metric in test.metric]


def test_a_lesson_of_a_run_that_failed_or_is_not_there_says_so(store: Path) -> None:
    failed(store)
    assert "worker 1, step 4" in marked_up(page("learn", lesson="data", run="run-9"))
    assert "is not in the store" in texts(page("learn", lesson="data", run="../../etc"))


def test_the_trace_shows_a_step_its_operations_and_lets_choose_another(store: Path) -> None:
    run = pipeline_run(store)
    test = page("trace", run=run.id)
    operations, listed = (table.value for table in test.dataframe)
    assert set(operations["operation"]) == {"send", "recv", "all_reduce"}
    assert len(listed) == 14
    assert "Worker 0 computes 71 %, waits 5 %; worker 1 computes 71 %, waits 5 %." in marked_up(test)
    steps = test.button_group(key=f"step of {run.id}")
    assert steps.options[0] == "3 · 870 ms"
    assert list(test.table[0].value["position"]) == ["data 0", "data 1"]
    test.multiselect(key=f"workers of {run.id}").set_value([1]).run()
    assert set(test.dataframe[1].value["rank"]) == {1}
    assert steps.value == 3, "both are as typical"
    test.button_group(key=f"step of {run.id}").set_value(4).run()
    assert not test.exception
    assert "during step 4" in marked_up(test)


def test_more_events_than_a_browser_holds_are_refused_with_what_to_do(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pipeline_run(store)
    monkeypatch.setattr("workbench.dashboard.components.lanes.MOST_EVENTS", 20)
    test = page("trace", run=run.id)
    assert "at most 20 are shown; select fewer workers" in marked_up(test)
    test.multiselect(key=f"workers of {run.id}").set_value([1]).run()
    assert "select fewer workers" not in marked_up(test)


def test_the_trace_of_a_run_that_failed_or_is_not_there_says_so(store: Path) -> None:
    two_runs(store)
    failed(store)
    test = page("trace", run="run-9")
    assert "worker 1, step 4" in marked_up(test)
    assert "No trace step was recorded" in marked_up(test)
    unknown = page("trace", run="../../etc")
    assert "../../etc" in texts(unknown)
    assert "Not found in the store" in marked_up(unknown)


def test_runs_are_compared_by_spec_and_figures_and_one_alone_says_little(store: Path) -> None:
    runs = two_runs(store)
    test = page("compare", runs=",".join(run.id for run in runs))
    shown = next(element for element in test.dataframe if "efficiency" in element.value)
    figures = shown.value
    assert len(figures) == 2
    columns = json.loads(shown.proto.columns)
    percent = [float("nan") if (of := runs_table.row(run)["efficiency"]) is None else of * 100 for run in runs]
    assert list(figures["efficiency"]) == pytest.approx(percent, nan_ok=True)
    assert any(value > 0 for value in percent)
    assert columns["efficiency"]["type_config"]["format"] == "%.0f%%", "percent of percent"
    alone = page("compare", runs=runs[0].id)
    assert "Select a second run" in marked_up(alone)


def test_memory_of_each_worker_is_drawn_only_while_it_is_unfolded(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("workbench.dashboard.pages.compare.figure", lambda chart, frame, name: drawn.append(name))
    test = page("compare", runs=",".join(run.id for run in two_runs(store)))
    assert not drawn
    test.session_state["details of memory"] = True
    test.run()
    assert drawn == ["memory-details"]


def test_coming_back_to_a_comparison_finds_it_again(store: Path) -> None:
    runs = [run.id for run in two_runs(store)]
    test = AppTest.from_string("from workbench.dashboard.pages.compare import main\nmain()", default_timeout=240)
    test.query_params["runs"] = ",".join(runs)
    test.session_state["compared runs, asked"] = runs  # Streamlit forgets the field's own value when another page is shown
    assert not test.run().exception
    assert test.multiselect(key="compared runs").value == runs


def test_a_compared_run_that_is_purged_elsewhere_is_said_and_left_out(store: Path) -> None:
    gone, stays = (run.id for run in two_runs(store))
    test = page("compare", runs=f"{gone},{stays}")
    shutil.rmtree(store / "runs" / gone)
    assert not test.run().exception
    assert gone in texts(test)
    assert test.multiselect(key="compared runs").value == [stays]


def test_a_comparison_shows_failed_runs_as_cards_and_says_what_is_not_there(store: Path) -> None:
    runs = two_runs(store)
    failed(store)
    test = page("compare", runs=f"{runs[0].id},run-9,nothing")
    assert "worker 1, step 4" in marked_up(test)
    assert "nothing" in texts(test)
    assert "onerror" not in marked_up(test)
    assert EVIL in texts(test)


def test_choosing_runs_stands_in_the_address(store: Path) -> None:
    runs = two_runs(store)
    test = page("compare")
    assert "Configure a run" not in labels(test)
    test.multiselect(key="compared runs").set_value([run.id for run in runs]).run()
    assert not test.exception
    assert ",".join(run.id for run in runs) in str(test.query_params["runs"])


def test_runs_of_the_same_second_stay_two_when_the_page_is_drawn_again(store: Path) -> None:
    ids = ["20261124-100001-single-aaaaaa", "20261124-100001-single-bbbbbb"]
    for run_id in ids:
        record_run(store, run_id, "finished", 1)
    test = page("compare", runs=",".join(ids)).run()
    assert test.multiselect(key="compared runs").value == ids
    assert test.query_params == {"runs": ",".join(ids)}
    trace = page("trace", run=ids[0]).run()
    assert len(set(trace.selectbox(key="run of the trace").options)) == 2


def test_a_comparison_begins_with_the_best_runs(store: Path) -> None:
    record_run(store, SINGLE, "finished", 1, step_time_s=0.2, speedup=1.0, num_timed_steps=20)
    record_run(store, DATA, "finished", 2, step_time_s=0.1, num_timed_steps=20, baseline=SINGLE)
    test = page("compare", runs=f"{DATA},{SINGLE}")
    assert next((metric.label, metric.value) for metric in test.metric) == ("Fastest", "100.0 ms")
    assert "dp2, 2.00× one worker" in texts(test)
    table = next(frame.value for frame in test.dataframe if "trust" in frame.value)
    assert list(table["run"]) == ["single", "dp2"], "the baseline first"
    assert list(table["speedup"]) == pytest.approx([1.0, 2.0])
    assert "Measure again when quiet" not in labels(test)


def test_disturbed_runs_are_marked_and_measured_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[str] = []

    def measure_again(runs: list[Any]) -> list[Any]:
        again.extend(run.id for run in runs)
        return []

    monkeypatch.setattr("workbench.dashboard.components.measure_again.measure_again", measure_again)
    record_run(store, SINGLE, "finished", 1, step_time_s=0.2, num_timed_steps=20, other_load_cores=1.4)
    record_run(store, DATA, "finished", 2, step_time_s=0.1, num_timed_steps=20, baseline=SINGLE)
    test = page("compare", runs=f"{SINGLE},{DATA}")
    table = next(frame.value for frame in test.dataframe if "trust" in frame.value)
    assert list(table["run"]) == ["single ⚠", "dp2"]
    assert list(table["trust"]) == ["disturbed", "quiet"]
    assert table["speedup"].isna().tolist() == [False, True], "the baseline is disturbed"
    assert "⚠ disturbed: other programs ran at the same time" in texts(test)
    next(button for button in test.button if button.label == "Measure again when quiet").click().run()
    assert again == [SINGLE, DATA]


def test_the_page_of_a_run_shows_its_figures_its_report_and_the_runs_beside_it(store: Path) -> None:
    single, run = two_runs(store)
    test = page("run", run=run.id)
    assert {"Step", "Peak memory", "Parity"} <= {metric.label for metric in test.metric}
    headings = [heading.value for heading in test.header]
    assert {"Results", "Step time", "Communication", "Memory", "Environment"} <= set(headings)
    assert run.id in texts(test)
    assert page("run", run="../../etc").selectbox(key="open run").value in (single.id, run.id)


def test_the_page_of_a_run_that_failed_says_why(store: Path) -> None:
    failed(store)
    test = page("run", run="run-9")
    assert "worker 1, step 4" in marked_up(test)
    assert "onerror" not in marked_up(test)
