"""Every page of the dashboard, drawn by Streamlit's own tester: what it shows, what it refuses, what it never lets through."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.helpers.pages import EVIL, failed, labels, marked_up, page, texts
from tests.helpers.run_directory import new_run
from tests.helpers.states import finished, live
from workbench.dashboard.pages.runs import IMPORTED
from workbench.dashboard.shell import PAGES
from workbench.launch.device_queue import Holder, Ticket
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.spec.paths import command, spec_of
from workbench.store import listing, runs_table
from workbench.store.directory import RunDirectory
from workbench.store.events import EventWriter, StepEvent
from workbench.store.records import Labels
from workbench.store.run_status import RunState, RunStatus


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    return tmp_path


def configured(test: AppTest) -> RunSpec:
    return spec_of(test.session_state["configured"])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_an_empty_store_says_what_to_do_next(name: str) -> None:
    assert {"Run the demonstration", "Configure a run", "Run"} & set(labels(page(name)))


@pytest.mark.parametrize("name", PAGES)
def test_texts_of_runs_are_shown_as_text_on_every_page(store: Path, name: str) -> None:
    failed(store)
    new_run(store, "damaged").write_labels(Labels(name=EVIL))
    (store / "runs" / "damaged" / "run.json").write_text("{")
    test = page(name, runs="run-9", run="run-9")
    assert "onerror" not in marked_up(test)
    assert "example.org" not in marked_up(test)
    if name in ("live", "runs"):
        assert EVIL in texts(test)


def test_the_front_page_with_runs_shows_the_latest(store: Path) -> None:
    for number in range(12):
        finished(store, f"run-{number:02d}", float(number), 0.5)
    (table,) = page("front").dataframe
    assert list(table.value["run_id"]) == [f"run?run=run-{number:02d}" for number in range(11, 1, -1)]


def test_threads_are_listed_only_where_runs_differ_in_them(store: Path) -> None:
    finished(store, "run-1", 1.0, 0.5, threads_per_worker=1)
    assert "threads_per_worker" not in page("front").dataframe[0].value
    finished(store, "run-2", 2.0, 0.5, threads_per_worker=2)
    assert list(page("front").dataframe[0].value["threads_per_worker"]) == [2, 1]


def test_a_refused_split_says_why_offers_what_works_and_does_not_run() -> None:
    test = page("configure", **{"split.data.size": "3"})
    assert "(remainder 1)" in texts(test)
    assert next(button for button in test.button if button.label == "Run").disabled
    assert "data.size = 2" in labels(test)
    assert "Preview of the nearest valid setting (data.size = 2)" in marked_up(test), "what is shown is not what was asked for"
    assert [button.key for button in test.button if button.label == "data.size = 2"] == ["use 0 field", "use 0 card"]
    assert "--split data=3" in next(code.value for code in test.code), "it can be shown to somebody"
    next(button for button in test.button if button.label == "data.size = 4").click().run()
    assert configured(test) == RunSpec(split={"data": 4})
    assert not next(button for button in test.button if button.label == "Run").disabled
    assert test.query_params == {"split.data.size": "4"}


@pytest.fixture
def _torch_is_imported() -> None:
    """The schedules are torch's: its import takes seconds, which are not the page's."""
    importlib.import_module("torch.distributed.pipelining")


@pytest.mark.usefixtures("_torch_is_imported")
def test_turning_a_knob_changes_the_command_the_address_and_the_figures() -> None:
    test = page("configure")
    test.number_input(key="field train.num_steps").set_value(7).run()
    test.button_group(key="field split").set_value(["data", "pipeline"]).run()
    assert configured(test) == RunSpec(split={"data": 2, "pipeline": 2}, train={"num_steps": 7})
    assert test.query_params["train.num_steps"] == "7"
    assert command(configured(test)) in [code.value for code in test.code]
    figures = {m.label: m.value for m in test.metric}
    assert figures["Workers"] == "4"
    gradients, border = 875_264 * 4, 16 * 128 * 128 * 4
    assert figures["Communication per step"] == f"{(gradients + 2 * border) / 2**20:.2f} MiB", (
        "there and back across the border of stages"
    )


def test_another_model_brings_its_own_options_and_data() -> None:
    test = page("configure", **{"model.num_layers": "6", "dataset.sequence_length": "64"})
    assert configured(test).dataset.model_dump()["sequence_length"] == 64
    test.selectbox(key="field model.name").set_value("mlp").run()
    assert configured(test) == RunSpec(model="mlp")
    assert not test.exception
    test.selectbox(key="field model.name").set_value("transformer").run()
    test.selectbox(key="field model.preset").set_value("gpt2-tiny").run()
    preset = RunSpec(model={"name": "transformer", "preset": "gpt2-tiny"})
    assert configured(test) == preset
    assert test.number_input(key="field model.num_layers").value == preset.model.model_dump()["num_layers"]


def test_a_link_opens_the_same_configuration_and_says_what_it_left_out() -> None:
    link = {"model.name": "mlp", "model.num_layers": "3", "split.tensor.size": "2", "split.pipeline.schedule_file": "/etc/passwd"}
    test = page("configure", **link)
    assert configured(test) == RunSpec(model={"name": "mlp", "num_layers": 3}, split={"tensor": 2})
    assert "unknown key 'split.pipeline.schedule_file'" in texts(test)


def test_the_address_of_one_worker_opens_one_worker() -> None:
    test = page("configure")
    test.button_group(key="field split").set_value([]).run()
    again = page("configure", **test.query_params)
    assert configured(again) == RunSpec()


def test_a_configuration_begins_with_an_earlier_run(store: Path) -> None:
    finished(store, "run-1", 1.0, 0.5)
    spec = RunSpec(model="mlp", split={"data": 2}, train={"num_steps": 9})
    RunDirectory(store / "runs" / "run-1").spec_path.write_text(dumps(spec))
    test = page("configure")
    test.selectbox(key="from run").set_value("run-1").run()
    next(button for button in test.button if button.label == "Use this spec").click().run()
    assert configured(test) == spec


def test_run_starts_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunSpec] = []

    def submit(spec: RunSpec) -> Any:
        asked.append(spec)
        return SimpleNamespace(id="run-1")

    monkeypatch.setattr("workbench.dashboard.start.submit", submit)
    test = page("configure", **{"split.data.size": "4"})
    next(button for button in test.button if button.label == "Run").click().run()
    assert asked == [RunSpec(split={"data": 4})]
    next(button for button in test.button if button.label == "Add to queue").click().run()
    assert asked[1:] == [RunSpec(split={"data": 4})]
    assert "queued: dp4; 0 in the queue" in texts(test), "and the page stays"


def test_all_splits_are_listed_by_formula_and_queued_as_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunSpec] = []
    groups: list[str] = []

    def submit(spec: RunSpec) -> Any:
        asked.append(spec)
        return SimpleNamespace(id=f"run-{len(asked)}", relabel=lambda group: groups.append(group))

    monkeypatch.setattr("workbench.dashboard.start.submit", submit)
    test = page("configure", **{"split.data.size": "3", "train.num_steps": "7", "model.name": "mlp"})
    test.toggle(key="all splits").set_value(True).run()
    expected = ["tp2", "layer2", "pp2-1f1b-m4", "dp2"]
    (table,) = (frame.value for frame in test.dataframe if "fits" in frame.value)
    assert (sorted(table["split"]), set(table["fits"])) == (sorted(expected), {"yes"})
    assert not asked
    test.button(key="queue all").click().run()
    assert sorted(spec.split.label for spec in asked) == sorted(expected), "none of them is split in three"
    assert {spec.train.num_steps for spec in asked} == {7}
    assert groups == ["all splits of 2, mlp"] * 4
    assert "queued: 4 splits (all splits of 2, mlp); 0 in the queue" in texts(test)


def test_a_selected_split_is_no_longer_selected_in_a_list_without_it() -> None:
    test = page("configure", **{"split.data.size": "2", "train.num_steps": "7", "model.name": "mlp"})
    test.toggle(key="all splits").set_value(True).run()
    test.toggle(key="variants of all splits").set_value(True).run()
    table = next(element for element in test.dataframe if "fits" in element.value)
    key, last = table.proto.id.split("-", 2)[2], len(table.value) - 1
    select = {"selection": {"rows": [last], "columns": [], "cells": []}}
    test.session_state[key] = select
    test.run()
    assert f"Configure {table.value['split'].iloc[last]}" in labels(test)
    test.session_state[key] = select
    test.toggle(key="variants of all splits").set_value(False).run()
    assert not test.exception
    (fewer,) = (frame.value for frame in test.dataframe if "fits" in frame.value)
    assert len(fewer) <= last
    assert not [label for label in labels(test) if label.startswith("Configure ")]


def test_a_run_that_cannot_fit_is_started_only_when_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunSpec] = []
    monkeypatch.setattr("workbench.dashboard.start.submit", lambda spec: asked.append(spec) or SimpleNamespace(id="run-1"))
    test = page("configure", **{"split.data.size": "2", "measure.memory_budget_bytes": "1MiB"})
    assert configured(test).measure.memory_budget_bytes == 2**20
    assert test.selectbox(key="device").value == "memory budget"
    next(button for button in test.button if button.label == "Run").click().run()
    assert "but measure.memory_budget_bytes is 1.00 MiB" in texts(test)
    assert not asked
    test.button(key="do not run").click().run()
    assert "run anyway" not in [button.key for button in test.button]
    next(button for button in test.button if button.label == "Run").click().run()
    test.button(key="run anyway").click().run()
    assert [spec.split.label for spec in asked] == ["dp2"]


def test_memory_is_compared_with_a_device_that_is_picked_or_typed() -> None:
    test = page("configure", device="H200, 141 GB")
    assert test.selectbox(key="device").value == "H200, 141 GB"
    assert "H200, 141 GB" in str(test.query_params["device"])
    test = page("configure", device="1 parsec")
    assert "takes a number of bytes, or one with B, KiB" in texts(test)


def test_quantities_are_written_with_units_and_a_wrong_one_is_refused_at_its_field() -> None:
    test = page("configure", **{"split.data.size": "2", "link.latency_s": "0.0001"})
    field = test.text_input(key="field link.latency_s")
    assert (field.label, field.value) == ("Latency", "100 µs")
    test.text_input(key="field link.bandwidth_bytes_per_s").set_value("1Gbit/s").run()
    assert configured(test).link.numbers == (1e-4, 125e6)
    test.text_input(key="field link.bandwidth_bytes_per_s").set_value("1Gbps").run()
    assert "takes a number of bytes per second" in texts(test)
    assert next(button for button in test.button if button.label == "Run").disabled


def test_changed_sections_are_marked_and_options_without_effect_disabled() -> None:
    test = page("configure", **{"split.data.size": "2", "train.num_steps": "7", "train.seed": "1"})
    titles = [expander.label for expander in test.expander]
    assert "Training :blue-badge[2 changed]" in titles
    assert "Measurement" in titles
    rank = test.number_input(key="field split.data.compression_rank")
    assert rank.disabled
    assert rank.help.startswith("No effect: requires compression = powersgd.")
    test.selectbox(key="field split.data.compression").set_value("powersgd").run()
    assert not test.number_input(key="field split.data.compression_rank").disabled
    test.number_input(key="field split.data.compression_rank").set_value(2).run()
    test.selectbox(key="field split.data.compression").set_value("none").run()
    rank = test.number_input(key="field split.data.compression_rank")
    assert not rank.disabled, "what was changed can be undone"
    assert ":orange-badge[no effect] requires compression = powersgd" in marked_up(test)


def test_a_flag_that_is_left_open_is_neither_yes_nor_no() -> None:
    test = page("configure")
    assert configured(test) == RunSpec(split={"data": 2})
    test.selectbox(key="field split.data.find_unused_parameters").set_value(False).run()
    assert configured(test) == RunSpec(split={"data": {"size": 2, "find_unused_parameters": False}})
    assert test.query_params["split.data.find_unused_parameters"] == "false"
    test.selectbox(key="field split.data.find_unused_parameters").set_value(None).run()
    assert configured(test) == RunSpec(split={"data": 2})


@pytest.mark.usefixtures("_torch_is_imported")
def test_a_pipeline_shows_its_bubble_and_its_schedule() -> None:
    test = page("configure", **{"split.pipeline.size": "2", "split.pipeline.schedule": "gpipe"})
    charts = str([chart.proto.spec for chart in test.get("vega_lite_chart")])
    assert "Bubble: 20.0% of the workers" in charts
    assert "p = 2 stages and m = 4" in charts


def test_the_page_says_how_a_model_of_ones_own_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.dashboard.components.own_model.external_plugins", lambda: ["model mine (mine.py)"])
    test = page("configure")
    assert "workbench dashboard --model my_model.py:build --dataset my_data.py:samples" in marked_up(test)
    assert "Offered now: model mine (mine.py)." in texts(test)


def test_the_queue_is_shown_and_a_run_is_cancelled_with_its_baseline(store: Path) -> None:
    base = live(store, "base-1", 1.0, "running", split="single", dataset="text")
    split = live(store, "split-1", 2.0, split="dp2", dataset="text", baseline_run_id="base-1")
    events = EventWriter(base.events_path(0))
    for step in range(2):
        events.write(StepEvent(rank=0, kind="timed", step=step, num_steps=4, loss=1.0, duration_s=0.5))
    test = page("live")
    assert [s.value for s in test.subheader][:2] == ["single", "Queue"]
    assert "1.  dp2  ·  mlp on text  ·  Queued: waiting for its single-worker baseline" in texts(test)
    charts = str([chart.proto.spec for chart in test.get("vega_lite_chart")])
    assert "How long does each step take?" in charts
    assert "Does the loss fall?" in charts
    test.button(key="cancel split-1").click().run()
    assert (base.cancel_requested(), split.cancel_requested()) == (True, True)


def test_the_queue_is_in_the_order_of_execution_and_says_who_has_the_devices(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DEVICE_QUEUE", str(store / "devices"))
    tickets = [Ticket(["cpu"], Holder("calibration"))]
    for number, name in enumerate(("second", "first")):  # by submission, another order
        live(store, name, float(number), split=name, dataset="text")
    tickets += [Ticket(["cpu"], Holder(f"run {name}", str(store.resolve()))) for name in ("first", "second")]
    lines = [line for line in texts(page("live", run="second")).splitlines() if line]
    queued = "Queued: waiting for free CPU cores"
    assert f"calibration of user {tickets[0].holder.user}" in lines[-3]
    assert "number 3 in the queue" in "\n".join(lines[:-3])
    assert lines[-2].startswith(f"2.  first  ·  mlp on text  ·  {queued} (1 ahead)")
    assert lines[-1].startswith(f"3.  second  ·  mlp on text  ·  {queued} (2 ahead)")
    for ticket in tickets:
        ticket.release()


def test_the_run_that_runs_is_large_while_the_address_names_a_queued_one(store: Path) -> None:
    live(store, "run-1", 1.0, "running", split="dp2", dataset="text")
    live(store, "run-2", 2.0, split="tp2", dataset="text")
    live(store, "run-3", 3.0, split="layer2", dataset="text")
    test = page("live", run="run-3")
    assert [s.value for s in test.subheader] == ["layer2", "dp2", "Queue"]
    assert "number 2 in the queue  ·  mlp on text  ·  Queued" in texts(test)
    (store / "runs" / "run-1" / "log" / "rank-1.log").write_text("was here\n")
    test.session_state["log of run-1"] = True
    test.run()
    test.selectbox(key="worker of the log of run-1").set_value(1).run()
    assert "was here" in [code.value for code in test.code]


def test_a_group_is_one_card_and_at_its_end_one_comparison(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr("workbench.dashboard.components.group_card.has", lambda page: True)
    monkeypatch.setattr("workbench.dashboard.components.group_card.go", lambda page, parameters: asked.append(parameters))
    finished(store, "base-1", 1.0, 0.5)
    for number in (2, 3):
        finished(store, f"run-{number}", number, 0.5, baseline_run_id="base-1").write_labels(Labels(group="all splits"))
    last = live(store, "run-4", 4.0, "running", split="pp2", dataset="text", baseline_run_id="base-1")
    last.write_labels(Labels(group="all splits"))
    test = page("live")
    assert "all splits: 3 of 4 runs finished" in texts(test)
    test.button(key="cancel group all splits").click().run()
    assert last.cancel_requested()
    last.write_status(RunStatus(RunState.CANCELLED))
    test.run()
    assert "all splits: 3 of 4 runs finished and 1 cancelled" in texts(test)
    assert "Its configuration is saved; you can run it again from Configure." in texts(test)
    test.button(key="compare group all splits").click().run()
    assert asked == [{"runs": "base-1,run-2,run-3"}]


def test_a_group_is_cancelled_without_the_baseline_that_another_run_needs(store: Path) -> None:
    for name in ("base-1", "base-2"):
        live(store, name, 1.0, "running", split="single", dataset="text", started_as_baseline=True)
    values = {"split": "pp2", "dataset": "text"}
    named = live(store, "named", 2.0, **values)
    members = [
        live(store, f"member-{n}", 3.0, baseline_run_id=base, **values) for n, base in enumerate(("base-1", "base-2", "named"))
    ]
    for run in (named, *members):
        run.write_labels(Labels(group="all splits"))
    live(store, "other", 5.0, baseline_run_id="base-1", **values)
    page("live").button(key="cancel group all splits").click().run()
    cancelled = {path.name for path in (store / "runs").iterdir() if RunDirectory(path).cancel_requested()}
    assert cancelled == {"base-2", "named", "member-0", "member-1", "member-2"}


def test_a_damaged_run_is_left_out_of_the_queue(store: Path) -> None:
    for number in range(3):
        live(store, f"run-{number}", float(number), split=f"dp{number + 2}", dataset="text")
    test, directory = page("live"), store / "runs" / "run-2"
    (directory / "labels.json").write_text("damaged")
    assert not test.run().exception
    assert "2.  dp3" in texts(test)
    assert "dp4" not in texts(test)


def test_the_demonstration_is_a_group_of_its_own_each_time(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[str] = []
    run = SimpleNamespace(id="run-1", relabel=lambda group: groups.append(group))
    monkeypatch.setattr("workbench.dashboard.start.submit", lambda spec: run)
    next(button for button in page("front").button if button.label == "Run the demonstration").click().run()
    assert groups == ["demonstration"] * 4
    finished(store, "run-1", 1.0, 0.5).write_labels(Labels(group="demonstration"))
    next(button for button in page("front").button if button.label == "Run the demonstration").click().run()
    assert groups[4:] == ["demonstration 2"] * 4


def test_runs_of_different_work_are_not_compared(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.dashboard.components.choose_runs.has", lambda page: True)
    finished(store, "run-1", 1.0, 0.5)
    other = finished(store, "run-2", 2.0, 0.5, threads_per_worker=2)
    assert "Compare these runs" in labels(page("live"))
    other.spec_path.write_text(dumps(RunSpec(train={"global_batch_size": 32})))
    assert "Compare these runs" not in labels(page("live"))


def test_a_group_is_drawn_anew_when_an_older_run_of_it_was_deleted(store: Path) -> None:
    for number in range(12):
        run = finished(store, f"run-{number:02}", number, 0.5)
        run.write_labels(Labels(group="all splits"))
    test = page("live")
    assert "all splits: all 12 runs finished" in texts(test)
    listing.exact(store, "run-00").write_labels(Labels(group="all splits", deleted_at=1.0))
    assert "all splits: all 11 runs finished" in texts(test.run())
    listing.exact(store, "run-01").write_labels(Labels(group="others"))
    assert "all splits: all 10 runs finished" in texts(test.run())


def test_what_ended_last_is_read_again_when_it_was_named_or_purged(store: Path) -> None:
    finished(store, "run-1", 1.0, 0.5), finished(store, "run-2", 2.0, 0.5)
    test = page("live")
    RunDirectory(store / "runs" / "run-1").write_labels(Labels(name="the first"))
    shutil.rmtree(store / "runs" / "run-2")
    assert not test.run().exception
    (table,) = (frame.value for frame in test.dataframe if "run_id" in frame.value)
    assert (list(table["run_id"]), list(table["name"])) == (["run?run=run-1"], ["the first"])


def test_an_earlier_runs_spec_that_cannot_be_used_is_said(store: Path) -> None:
    run = finished(store, "run-1", 1.0, 0.5)
    test = page("configure")
    test.selectbox(key="from run").set_value("run-1").run()
    run.spec_path.write_text("no spec", encoding="utf-8")
    next(button for button in test.button if button.label == "Use this spec").click().run()
    assert "could not be loaded" in "\n".join(str(warning.value) for warning in test.warning)


def test_a_run_that_the_address_names_is_shown_and_no_other_file(store: Path) -> None:
    failed(store)
    test = page("live", run="run-9")
    assert "Last output" in marked_up(test)
    outside = page("live", run="../../etc")
    assert "is not in the store" in texts(outside)


def test_runs_are_filtered_named_deleted_and_brought_back(store: Path) -> None:
    finished(store, "run-1", 1.0, 0.5), finished(store, "run-2", 2.0, 0.4)
    test = page("runs", runs="run-1")
    test.text_input(key="find").set_value("run-2").run()
    assert list(test.dataframe[0].value["run_id"]) == ["run?run=run-2"]
    test.text_input(key="find").set_value("").run()
    next(field for field in test.text_input if field.label == "Name").set_value(EVIL)
    next(button for button in test.button if button.label == "Save").click().run()
    assert listing.exact(store, "run-1").labels().name == EVIL
    next(button for button in test.button if button.label == "Delete").click().run()
    assert [row["run_id"] for row in runs_table.rows(store)] == ["run-2"]
    next(button for button in test.button if button.label == "Undo").click().run()
    assert [row["run_id"] for row in runs_table.rows(store)] == ["run-1", "run-2"]


def test_several_runs_are_tagged_at_once(store: Path) -> None:
    finished(store, "run-1", 1.0, 0.5), finished(store, "run-2", 2.0, 0.4)
    test = page("runs", runs="run-1,run-2")
    test.text_input(key="tags of several").set_value("keep, =1+1").run()
    next(button for button in test.button if button.label == "Add to all").click().run()
    assert [row["tags"] for row in runs_table.rows(store)] == ["keep, =1+1"] * 2
    test.text_input(key="tags of several").set_value("keep").run()
    next(button for button in test.button if button.label == "Remove from all").click().run()
    assert [row["tags"] for row in runs_table.rows(store)] == ["=1+1"] * 2
    test.text_input(key="tags of several").set_value("x" * 60).run()
    next(button for button in test.button if button.label == "Add to all").click().run()
    assert "at most 50 characters" in texts(test)


def test_an_import_is_said_once_the_page_is_drawn_anew(store: Path) -> None:
    finished(store, "run-1", 1.0, 0.5)
    test = page("runs")
    test.session_state[IMPORTED] = "2 imported"
    assert [toast.value for toast in test.run().toast] == ["2 imported"]
    assert not test.run().toast


def test_a_run_that_has_not_ended_is_not_deleted(store: Path) -> None:
    live(store, "run-1", 1.0, split="dp2", dataset="text")
    test = page("runs", runs="run-1")
    next(button for button in test.button if button.label == "Delete").click().run()
    assert "has not ended" in texts(test)
    assert len(runs_table.rows(store)) == 1


def test_a_failed_run_is_a_card(store: Path) -> None:
    failed(store)
    test = page("runs")
    assert "worker 1, step 4" in marked_up(test)
    assert EVIL in [code.value for code in test.code]
