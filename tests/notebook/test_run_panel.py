"""The widgets that choose a spec and run it, without a front end."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import workbench as wb
from tests.helpers.specs import QUICK, TINY, tiny
from workbench import widgets
from workbench.api import Run
from workbench.errors import RunFailedError, UsageError
from workbench.notebook.fields import Fields
from workbench.spec.form import Field

pytestmark = pytest.mark.usefixtures("store")


def turn(picker: widgets.SplitPicker, path: str, value: object) -> None:
    """As a user does: the field of this path gets a value."""
    boxes = [box for box in (*picker._split.children, *picker._options.children) if isinstance(box, Fields)]
    by_path = {f.path: child for box in boxes for f, child in zip(box.fields, box.children, strict=True)}
    by_path[path].value = value


def test_a_flag_that_is_left_open_is_neither_yes_nor_no() -> None:
    field = Field("split.data.find_unused_parameters", "flag", None, "", is_optional=True)
    form = Fields([field], {}, lambda: None)
    assert form.values == {}
    form.children[0].value = "no"
    assert form.values == {field.path: False}
    assert Fields([field], {field.path: True}, lambda: None).values == {field.path: True}


def test_a_picker_keeps_an_optimizer_of_ones_own() -> None:
    optimizer = {"optimizer": "torch.optim:RMSprop", "optimizer_options": {"alpha": 0.9}}
    spec = widgets.SplitPicker(model=TINY, train={**QUICK, **optimizer}).spec
    assert spec is not None
    assert {name: getattr(spec.train, name) for name in optimizer} == optimizer


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
    assert 'role="alert"' in picker._text.value
    assert picker._remedies.children[0].description == "data.size = 2"
    assert picker._remedies.children[0].icon == ""
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
    while not re.match(r"running, timed steps · step \d+ of 10000\d\d · about .* left$", panel._message.value):
        time.sleep(0.05)
    assert "Panel that runs layer2. running, timed steps · step " in panel.still().description
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
    while not panel._message.value.startswith("baseline single: running, timed steps · step "):
        time.sleep(0.05)
    assert any(baseline.state == "running" for baseline in baselines)
    panel.cancel()
    assert {one.wait().state for one in (run, *baselines)} == {"cancelled"}


def test_waiting_for_a_run_that_is_cancelled_raises() -> None:
    panel = widgets.RunPanel(tiny(data=2).replace(baseline={"mode": "none"}, train={"num_steps": 1_000_000}))
    panel.start()
    panel.cancel()
    with pytest.raises(RunFailedError, match="cancelled"):
        panel.wait()


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
