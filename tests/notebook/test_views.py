"""The widgets that compare and trace runs, without a front end, and what is behind a picture."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import altair as alt
import pandas as pd
import pytest
from PIL import Image
from torch import nn

import workbench as wb
from tests.helpers.specs import TINY, tiny
from workbench import widgets
from workbench.analysis.findings import findings_on
from workbench.analysis.formatting import names
from workbench.analysis.side_by_side import side_by_side
from workbench.analysis.trace import typical_step
from workbench.api import Run
from workbench.charts.measured import measured_chart
from workbench.charts.theme import COLOURS
from workbench.charts.timeline import timeline_chart
from workbench.errors import SpecError, UsageError
from workbench.notebook import rendering
from workbench.notebook.fields import Fields
from workbench.spec import RunSpec
from workbench.store.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("store")


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
    assert traced._lanes.layout.display == "none"
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


def test_a_trace_shares_its_choice_between_timeline_and_communication(run: Run) -> None:
    view = widgets.TraceView(run)
    everything = view.data
    assert set(everything["timeline"]["worker"]) == {"0", "1"}
    view._workers.value = (1,)
    assert set(view.data["communication"]["worker"]) == {"1"}
    end = float(everything["timeline"]["end_ms"].max())
    view._lanes.region = [0.0, end / 4]  # as the browser does when a region is selected
    assert len(view.data["timeline"]) < len(everything["timeline"])
    for frame in view.data.values():
        assert (frame["begin_ms"] <= end / 4).all()
    before = view._lanes.packed
    view._workers.value = (0, 1)
    assert view._lanes.region == [], "of the new lanes nothing is selected"
    assert view._lanes.packed != before
    assert "computes" in view._sentence.value


def test_a_run_is_shown_where_nobody_knows_its_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def spec(directory: object) -> RunSpec:
        raise SpecError("model.name", "unknown model 'of another notebook'")

    monkeypatch.setattr(RunDirectory, "spec", spec)
    assert len(widgets.TraceView(widgets.CompareView(run)).data["timeline"]) > 0


def test_a_trace_shows_each_trace_step_and_what_has_none_is_refused(run: Run) -> None:
    view = widgets.TraceView(run)
    steps = [step for _, step in view._step.options]
    assert view._step.value == typical_step(run)
    assert all(label.startswith(f"{step} · ") for label, step in view._step.options)
    for step in steps:
        view._step.value = step
        assert set(view.data["communication"]["step"]) == {step}
        of_step = run.timeline().query(f"step == {step}")
        assert view.data["timeline"]["end_ms"].max() == pytest.approx((of_step["end_s"].max() - of_step["start_s"].min()) * 1e3)
    view._workers.value = ()
    assert "image/png" in view._repr_mimebundle_()[0], "no choice is a choice of all"
    failed = wb.submit(tiny().replace(measure={"memory_budget_bytes": 100}, baseline={"mode": "none"})).wait()
    with pytest.raises(UsageError, match=r"\(failed\): No trace step was recorded"):
        widgets.TraceView(failed)


def test_a_widget_has_a_still_picture_in_words_too_beside_its_live_view(run: Run) -> None:
    baseline = wb.open_run(run.row()["baseline_run_id"])
    refused = widgets.SplitPicker(model=TINY, split={"data": 2})
    refused._split.children[1].children[0].value = 3
    attached = widgets.RunPanel(run.spec)
    assert attached.run is not None
    cases = {
        widgets.SplitPicker(model=TINY, split={"data": 2}): ["Strategies: data.", "dp2 · 2 workers", "Expected communication"],
        refused: ["This configuration is invalid", "remainder 1"],
        widgets.CompareView([baseline, run]): ["Comparison of 2 runs.", "single: ", "dp2: step ms "],
        widgets.CompareView([]): ["Comparison without runs."],
        widgets.TraceView(run): ["Trace of dp2, step", "Worker 0 computes", "all_reduce along data in backward"],
        attached: ["Panel that runs dp2.", f"Run {attached.run.id} finished"],
        widgets.RunPanel(tiny(tensor=2)): ["Panel that runs tp2.", "Nothing runs yet"],
    }
    for widget, texts in cases.items():
        data, metadata = widget._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in data
        assert "text/html" not in data, "which code hosts would show in place of the picture"
        assert data["text/plain"] == metadata["image/png"]["alt"]
        assert all(text in data["text/plain"] for text in texts), data["text/plain"]
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        assert picture.width / 1.5 == pytest.approx(metadata["image/png"]["width"], abs=1)


def test_a_comparison_is_still_with_its_table_and_sentences(run: Run) -> None:
    view = widgets.CompareView([run.row()["baseline_run_id"], run])
    figures, sentences, *charts = view.still().parts
    texts = json.dumps(figures.to_dict())
    assert all(f'"{text}"' in texts for text in ("split", "single", "dp2", "parity"))
    assert len(charts) == len(view._drawn())
    assert all(sentence[:40] in json.dumps(sentences.to_dict(), ensure_ascii=False) for sentence in findings_on(*own(view)))


def own(view: widgets.CompareView) -> tuple[list[Run], list[dict[str, Any]]]:
    return view._selection.runs, view._selection.rows


def test_a_name_does_not_get_its_link_or_model_again() -> None:
    row = {"run_id": "a", "split": "dp2", "num_workers": 2, "link": "ethernet-1g", "model": "mlp", "mode": "train", "name": ""}
    rows = [{**row, "split": name} for name in names([row, row], {})]
    assert names(rows, {}) == [one["split"] for one in rows] == ["dp2 over ethernet-1g #1", "dp2 over ethernet-1g #2"]
    rows = [row, {**row, "model": "cnn"}]
    rows = [{**one, "split": name} for one, name in zip(rows, names(rows, {}), strict=True)]
    assert names(rows, {}) == [one["split"] for one in rows] == ["dp2, mlp over ethernet-1g", "dp2, cnn over ethernet-1g"]


def test_buttons_show_which_is_on(run: Run) -> None:
    button = widgets.CompareView([run])._buttons[0]
    assert (button.button_style, button.icon) == ("primary", "check")
    button.value = False
    assert (button.button_style, button.icon) == ("", "")


def test_charts_go_to_the_front_end_as_the_version_that_it_has_with_a_picture_beside() -> None:
    chart = alt.Chart(alt.InlineData([{"a": 1}]), title="One?").mark_bar().encode(x="a:Q")
    data, metadata = rendering.mimebundle(chart)
    assert data[rendering.MIME]["$schema"].endswith("/v5.json")
    assert data["text/plain"] == "<chart: One?>"
    assert rendering.mimebundle(alt.vconcat(chart, chart))[0]["text/plain"] == "<chart: One? One?>"
    assert metadata["image/png"]["alt"] == "One?"
    described = chart.properties(description="One bar, of height 1.")
    assert rendering.mimebundle(described)[1]["image/png"]["alt"] == "One bar, of height 1."
    assert rendering.mimebundle(alt.hconcat(described, chart))[1]["image/png"]["alt"] == "One bar, of height 1. One?"
    assert alt.renderers.active == "workbench"


def test_a_chart_is_as_wide_as_its_cell_and_its_picture_as_it_was_drawn() -> None:
    chart = alt.Chart(alt.InlineData([{"a": 1}]), width=300).mark_bar().encode(x="a:Q")
    data, metadata = rendering.mimebundle(chart)
    assert data[rendering.MIME]["width"] > 800
    assert 300 < metadata["image/png"]["width"] < 360
    assert rendering.output(chart, is_wide=False)["data"][rendering.MIME]["width"] == 300
    below = rendering.mimebundle(alt.vconcat(chart, chart))[0][rendering.MIME]
    assert all(part["width"] > 700 for part in below["vconcat"])
    beside = rendering.mimebundle(alt.hconcat(chart, chart))[0][rendering.MIME]
    assert [part["width"] for part in beside["hconcat"]] == [300, 300]


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


def test_the_form_of_a_model_of_ones_own_has_its_arguments_alone() -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.Linear(width, 10))

    spec = wb.RunSpec(model=wb.UserModel(build, width=12, cut_at=["0"]), dataset="digits", split={"data": 2})
    picker = widgets.SplitPicker(model=spec.model, dataset="digits", split={"data": 2})
    paths = [field.path for box in picker._options.children if isinstance(box, Fields) for field in box.fields]
    assert [path for path in paths if path.startswith("model.")] == ["model.options"]
    assert picker.spec == spec
