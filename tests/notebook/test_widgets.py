"""The notebooks' widgets, without a front end: what is chosen, what is run, what is behind a picture."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest
from PIL import Image

import workbench as wb
from workbench import widgets
from workbench.analysis.side_by_side import side_by_side
from workbench.api import Run
from workbench.charts.measured import measured_chart
from workbench.charts.theme import COLOURS
from workbench.charts.timeline import timeline_chart
from workbench.errors import RunFailedError, SpecError, UsageError
from workbench.notebook import rendering
from workbench.notebook.fields import Fields
from workbench.spec import RunSpec
from workbench.store.directory import RunDirectory

TINY = {"name": "mlp", "num_layers": 2, "hidden_dim": 16, "feedforward_dim": 32}
QUICK = {"num_steps": 3, "num_warmup_steps": 1}


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="module")
def run(_store: None) -> Run:
    return wb.run(tiny(data=2))


def tiny(**split: object) -> wb.RunSpec:
    return wb.RunSpec(model=TINY, train=QUICK, split=split)


def turn(picker: widgets.SplitPicker, path: str, value: object) -> None:
    """As a user does: the field of this path gets a value."""
    boxes = [box for box in (*picker._split.children, *picker._options.children) if isinstance(box, Fields)]
    by_path = {f.path: child for box in boxes for f, child in zip(box.fields, box.children, strict=True)}
    by_path[path].value = value


def test_a_picker_begins_with_what_it_is_given_and_tells_of_each_choice() -> None:
    picker = widgets.SplitPicker(model=TINY, train=QUICK, split={"data": 2})
    seen: list[wb.RunSpec | None] = []
    picker.observe(lambda change: seen.append(change["new"]), "spec")
    assert picker.spec == tiny(data=2)
    turn(picker, "split.data.size", 4)
    turn(picker, "model.num_layers", 3)
    assert [s.split.label for s in seen if s] == ["dp4", "dp4"]
    assert picker.spec == wb.RunSpec(model={**TINY, "num_layers": 3}, train=QUICK, split={"data": 4})


def test_strategies_are_added_and_left_out_by_their_buttons() -> None:
    picker = widgets.SplitPicker(model=TINY, split={"data": 2})
    picker._strategies["tensor"].value = True
    assert picker.spec is not None
    assert picker.spec.split.label == "dp2-tp2"
    picker._strategies["data"].value = picker._strategies["tensor"].value = False
    assert picker.spec.split.label == "single"


def test_a_refused_choice_has_no_spec_and_offers_the_nearest_that_works() -> None:
    picker = widgets.SplitPicker(model=TINY, split={"data": 2})
    panel = widgets.RunPanel(picker)
    turn(picker, "split.data.size", 3)
    assert picker.spec is None
    assert "(remainder 1)" in picker._text.value
    assert panel._start.disabled
    assert picker._remedies.children[0].description == "data.size = 2"
    picker._remedies.children[0].click()
    assert picker.spec is not None
    assert picker.spec.split.label in ("dp2", "dp4")
    assert not panel._start.disabled


def test_what_the_form_does_not_ask_for_stays_as_it_was_given() -> None:
    picker = widgets.SplitPicker(model=TINY, measure={"num_trace_steps": 1}, dataset={"name": "synthetic", "kind": "features"})
    turn(picker, "train.global_batch_size", 32)
    assert picker.spec is not None
    assert picker.spec.measure.num_trace_steps == 1
    assert picker.spec.dataset.name == "synthetic"
    assert picker.spec.train.global_batch_size == 32


def test_a_panel_runs_while_the_kernel_is_free_and_a_second_one_takes_the_run_up() -> None:
    spec = tiny(layer=2)
    panel = widgets.RunPanel(spec)
    assert panel.run is None
    panel.start()
    again = widgets.RunPanel(spec)
    assert again.run is not None
    assert panel.run is not None
    assert again.run.id == panel.run.id
    run = again.wait()
    assert run.state == "finished"
    assert panel.wait().id == run.id
    assert widgets.RunPanel(spec).wait().id == run.id, "the cell executed once more shows the run that it made"
    assert panel._bar.value == panel._bar.max > 1
    assert "parity" in again._figures.value
    assert run.id in set(wb.runs()["run_id"]), "the dashboard reads the same store"


def test_a_panel_takes_up_a_run_that_was_started_elsewhere() -> None:
    spec = tiny(pipeline=2)
    elsewhere = wb.submit(spec)
    assert widgets.RunPanel(spec).wait().id == elsewhere.id


def test_a_panel_shows_the_loss_of_the_last_stage_and_cancel_ends_the_run_and_its_workers() -> None:
    spec = wb.RunSpec(model=TINY, train={"num_steps": 1_000_000}, split={"layer": 2}, baseline={"mode": "none"})
    panel = widgets.RunPanel(spec)
    run = panel.start()
    while "loss" not in panel._figures.value:
        time.sleep(0.05)
    assert "samples/s" in panel._figures.value
    assert "process memory" in panel._figures.value
    pids = [worker.pid for worker in run.directory.status().workers]
    with pytest.raises(UsageError, match="still running"):
        panel.start()
    panel._cancel.click()
    run.wait()
    assert run.state == "cancelled"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    panel._thread.join()
    assert not panel._start.disabled


def test_cancel_ends_the_baselines_that_the_run_waits_for() -> None:
    panel = widgets.RunPanel(tiny(data=2).replace(train={"num_steps": 1_000_000}))
    run = panel.start()
    baselines = [wb.open_run(other) for other in run.record.baseline_ids]
    while not any(baseline.state == "running" for baseline in baselines):
        time.sleep(0.05)
    panel.cancel()
    assert {one.wait().state for one in (run, *baselines)} == {"cancelled"}


def test_waiting_for_a_run_that_is_cancelled_raises() -> None:
    panel = widgets.RunPanel(tiny(data=2).replace(baseline={"mode": "none"}, train={"num_steps": 1_000_000}))
    panel.start()
    panel.cancel()
    with pytest.raises(RunFailedError, match="cancelled"):
        panel.wait()


def test_a_comparison_shares_its_choice_between_table_charts_and_data(run: Run) -> None:
    view = widgets.CompareView([run.row()["baseline_run_id"], run])
    assert list(view.data["runs"]["split"]) == ["single", "dp2"]
    view._buttons[0].value = False
    assert [r.id for r in view.chosen] == [run.id]
    assert list(view.data["runs"]["split"]) == ["dp2"]
    assert set(view.data["step_parts"]["split"]) == {"dp2"}
    assert "single" not in view._table.value
    assert view._charts.outputs[0]["data"][rendering.MIME]


def test_the_run_that_is_picked_stands_out_in_every_chart_and_is_the_one_that_is_traced(run: Run) -> None:
    baseline = wb.open_run(run.row()["baseline_run_id"])
    view = widgets.CompareView([baseline, run])
    traced = widgets.TraceView(view)
    assert traced.run.id == run.id
    everything = len(traced.data["timeline"])
    view.picked = wb.open_run(baseline.id)
    assert view._pick.value is baseline
    assert traced.run.id == baseline.id
    assert 0 < len(traced.data["timeline"]) != everything
    assert len(view._charts.outputs) == len(view._drawn()) > 1
    for drawn in view._charts.outputs:
        assert '"equal": "single"' in json.dumps(drawn["data"][rendering.MIME])
    failed = wb.submit(tiny().replace(measure={"memory_budget_bytes": 100}, baseline={"mode": "none"})).wait()
    other = widgets.CompareView([run, failed])
    traced = widgets.TraceView(other)
    assert traced.run.id == run.id, "the last that was traced"
    other.picked = failed
    assert "No trace step was recorded" in traced._operations.value
    assert traced._charts.outputs == ()
    assert traced.run.id == failed.id
    assert all(frame.empty for frame in traced.data.values())
    other.picked = run
    assert len(traced.data["timeline"]) > 0
    with pytest.raises(UsageError, match="is not among the compared runs"):
        other.picked = baseline
    assert other.picked is run
    other._buttons[0].value = False
    assert other.picked is None, "what is left out does not stand out"


def test_a_label_and_a_colour_stay_when_others_are_left_out(run: Run) -> None:
    again = wb.run(tiny(data=2))
    view = widgets.CompareView([run.row()["baseline_run_id"], run, again])
    assert [button.description for button in view._buttons] == ["single", "dp2 #1", "dp2 #2"]
    assert "no trace step" not in view._table.value
    before = view._charts.outputs[1]["data"][rendering.MIME]
    view._buttons[0].value = False
    assert list(view.data["runs"]["split"]) == ["dp2 #1", "dp2 #2"]
    after = view._charts.outputs[1]["data"][rendering.MIME]
    tones = [look_up(chart) for chart in (before, after)]
    assert {label: tones[0][label] for label in tones[1]} == tones[1]


def look_up(chart: dict[str, Any]) -> dict[str, str]:
    """Label → colour of a Vega-Lite chart."""
    scales = [layer["encoding"]["color"]["scale"] for layer in chart["layer"] if "scale" in layer["encoding"].get("color", {})]
    return {label: tone for scale in scales for label, tone in zip(scale["domain"], scale["range"], strict=True)}


def test_what_is_no_spec_and_no_picker_is_refused_and_one_run_is_a_comparison_of_one(run: Run) -> None:
    with pytest.raises(UsageError, match="takes a RunSpec or a SplitPicker, but got 'dp2'"):
        widgets.RunPanel("dp2")
    assert [one.id for one in widgets.CompareView(run.id).chosen] == [run.id]
    assert [one.id for one in widgets.CompareView(run).chosen] == [run.id]
    with pytest.raises(UsageError, match="is not in the store"):
        widgets.CompareView("nothing")
    for wrong in (3, None, [3]):
        for view in (widgets.CompareView, widgets.TraceView):
            with pytest.raises(UsageError, match="requires a run or a run id, but got"):
                view(wrong)
    with pytest.raises(UsageError, match="no run to trace"):
        widgets.TraceView(widgets.CompareView([]))
    assert list(wb.compare(run.id)["run_id"]) == [run.id]
    with pytest.raises(UsageError, match="requires a run or a run id, but got 3"):
        wb.compare(3)
    with pytest.raises(UsageError, match="requires a RunSpec, but got 'x'"):
        wb.run("x")


def test_a_panel_does_not_show_what_another_spec_came_to(run: Run) -> None:
    picker = widgets.SplitPicker(**tiny(data=2).as_dict())
    panel = widgets.RunPanel(picker)
    panel.wait()
    assert panel._bar.value == panel._bar.max > 1
    turn(picker, "train.num_steps", 4)
    assert (panel._bar.value, panel._figures.value, panel._charts.outputs) == (0, "", ())
    assert panel._message.value == "dp2"
    assert panel.run is None
    assert panel.wait().spec.train.num_steps == 4


def test_a_trace_shares_its_choice_between_timeline_and_communication(run: Run) -> None:
    view = widgets.TraceView(run)
    everything = view.data
    assert set(everything["timeline"]["worker"]) == {"0", "1"}
    view._workers.value = (1,)
    assert set(view.data["communication"]["worker"]) == {"1"}
    end = view._window.max
    view._window.value = (0.0, end / 4)
    assert len(view.data["timeline"]) < len(everything["timeline"])
    for frame in view.data.values():
        assert (frame["begin_ms"] <= end / 4).all()


def test_a_run_is_shown_where_nobody_knows_its_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def spec(directory: object) -> RunSpec:
        raise SpecError("model.name", "unknown model 'of another notebook'")

    monkeypatch.setattr(RunDirectory, "spec", spec)
    assert len(widgets.TraceView(widgets.CompareView(run)).data["timeline"]) > 0


def test_a_trace_shows_each_trace_step_and_what_has_none_is_refused(run: Run) -> None:
    view = widgets.TraceView(run)
    first, *_, last = view._step.options
    assert set(view.data["communication"]["step"]) == {last}
    view._step.value = first
    assert set(view.data["communication"]["step"]) == {first}
    assert view._window.value == (0.0, view._window.max)
    of_first = run.timeline().query(f"step == {first}")
    assert view._window.max == pytest.approx((of_first["end_s"].max() - of_first["start_s"].min()) * 1e3)
    view._workers.value = ()
    assert "image/png" in view._repr_mimebundle_()[0], "no choice is a choice of all"
    failed = wb.submit(tiny().replace(measure={"memory_budget_bytes": 100}, baseline={"mode": "none"})).wait()
    with pytest.raises(UsageError, match=r"\(failed\): No trace step was recorded"):
        widgets.TraceView(failed)


def test_a_widget_has_a_still_image_or_text_beside_its_live_view(run: Run) -> None:
    shown = [widgets.SplitPicker(model=TINY), widgets.CompareView([run]), widgets.TraceView(run), widgets.RunPanel(run.spec)]
    for widget in shown:
        data, _ = widget._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in data
        assert "image/png" in data or "text/html" in data


def test_charts_go_to_the_front_end_as_the_version_that_it_has_with_a_picture_beside() -> None:
    chart = alt.Chart(alt.InlineData([{"a": 1}]), title="One?").mark_bar().encode(x="a:Q")
    data, metadata = rendering.mimebundle(chart)
    assert data[rendering.MIME]["$schema"].endswith("/v5.json")
    assert data["text/plain"] == "<chart: One?>"
    assert rendering.mimebundle(alt.vconcat(chart, chart))[0]["text/plain"] == "<chart: One? One?>"
    assert set(metadata) == {"image/png"}
    assert alt.renderers.active == "workbench"


def test_a_crowded_picture_has_the_colours_of_its_legend() -> None:
    kinds = {"idle": 13.4, "forward": 7.8, "schedule": 0.05, "communication": 0.1, "backward": 11.3, "optimizer": 0.6}
    rows = [
        {"kind": kind, "worker": str(worker), "stage": 0, "microbatch": m, "duration_ms": duration_ms + worker}
        for worker in range(8)
        for m in range(16)
        for kind, duration_ms in kinds.items()
    ]
    frame = pd.DataFrame(rows)
    frame["end_ms"] = frame.groupby("worker")["duration_ms"].cumsum()
    frame["begin_ms"] = frame["end_ms"] - frame["duration_ms"]
    frame.loc[frame["kind"].isin(["schedule", "communication"]), "begin_ms"] = frame["end_ms"] - 0.05
    data, _ = rendering.mimebundle(timeline_chart(frame, "Who does what when?"))
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
    tones = {"#{:02X}{:02X}{:02X}".format(*tone) for _, tone in picture.getcolors(picture.width * picture.height)}
    assert {COLOURS[kind] for kind in kinds} <= tones


def test_runs_specs_and_comparisons_show_themselves(run: Run) -> None:
    assert repr(run).startswith(f"<Run {run.id} finished: dp2 of mlp, ")
    assert "dp2" in run._repr_html_()
    spec = tiny(data=2)
    assert eval(repr(spec), {"RunSpec": wb.RunSpec}) == spec
    assert "--split data=2" in spec._repr_html_()
    comparison = wb.compare([run.row()["baseline_run_id"], run])
    assert "speed-up" in repr(comparison).splitlines()[0]
    assert comparison._repr_html_().count("<tr>") == 3
    assert len(comparison.columns) > 20
    assert "step_time_s" in comparison[["split", "step_time_s"]].to_html()


def test_figures_side_by_side_are_the_runs_own_in_units_that_one_reads(run: Run) -> None:
    frame = side_by_side({"two": run})
    summary, two = run.summary, frame.loc["two"]
    assert summary is not None
    assert two["workers"] == 2
    assert two["communication_mib"] * 2**20 == summary.communication_bytes_per_step == 4 * two["parameters"]
    assert two["ring_mib"] == two["communication_mib"], "an all-reduce between two sends 2·(n − 1)/n = 1 times its payload"
    assert two["step_ms"] == summary.step_time_s * 1e3
    assert 0 < two["compute_share"] + two["idle_share"] + two["exposed_communication_share"] <= 1
    chart = measured_chart(frame, "communication_mib", "How much?", "MiB", expected="ring_mib").to_dict()
    assert len(chart["layer"]) == 2


def test_text_of_a_run_is_shown_as_it_is() -> None:
    assert "<script>" not in wb.RunSpec(name="<script>")._repr_html_()


def test_a_right_answer_passes_a_wrong_one_does_not_and_none_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    widgets.check(4, lambda n: n == 4, "Count.")
    assert capsys.readouterr().out == "Correct.\n"
    widgets.check(..., lambda n: n == 4, "Count.")
    assert "No answer yet" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=r"5 is not correct\. Count\."):
        widgets.check(5, lambda n: n == 4, "Count.")
    with pytest.raises(AssertionError, match=r"'dp2' is not a valid answer\. Name it as in the table\."):
        widgets.check("dp2", lambda name: {"data": True}[name], "Name it as in the table.")
