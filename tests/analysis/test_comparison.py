"""Frames of a comparison: runs have names of their own, and only what differs is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.run_directory import new_run
from workbench.analysis.comparison import labelled, numbers, spec_differences
from workbench.api import Run
from workbench.dashboard.table import Overview, alike
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.columns import RUN_COLUMNS
from workbench.store.directory import RunDirectory


def row(split: str, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(RUN_COLUMNS), "run_id": f"{split}-{len(values)}", "split": split, "num_workers": 2, **values}


def test_runs_of_one_split_are_told_apart_by_name_else_by_number() -> None:
    rows = [row("dp2", name="slow"), row("dp2", name="fast"), row("tp2", name="slow"), row("dp2", name=""), row("dp2", name="")]
    labels = [one["split"] for one in labelled(rows, {})]
    assert labels == ["dp2 (slow)", "dp2 (fast)", "tp2", "dp2 #3", "dp2 #4"]


def test_single_workers_are_told_apart_by_their_threads() -> None:
    rows = [row("single", run_id="a", num_workers=1, name=""), row("single", run_id="b", num_workers=1, name="")]
    labels = [one["split"] for one in labelled(rows, {"a": 1, "b": 2})]
    assert labels == ["single, 1 thread", "single, 2 threads"]


def spec_run(store: Path, run_id: str, **parts: Any) -> RunDirectory:
    run = new_run(store, run_id)
    run.spec_path.write_text(dumps(RunSpec(**parts)))
    return run


def test_of_specs_only_what_was_chosen_differently_is_shown(tmp_path: Path) -> None:
    runs = [
        spec_run(tmp_path, "a", split={"data": 2}, train={"num_steps": 9}, name="one"),
        spec_run(tmp_path, "b", split={"tensor": 2}, name="other"),
    ]
    frame = spec_differences(runs, ["dp2", "tp2"])
    assert frame.to_dict("index") == {
        "split.data.size": {"dp2": "2", "tp2": ""},
        "train.num_steps": {"dp2": "9", "tp2": "20"},
        "split.tensor.size": {"dp2": "", "tp2": "2"},
    }


def test_equal_specs_differ_in_nothing(tmp_path: Path) -> None:
    runs = [spec_run(tmp_path, run_id, split={"data": 2}) for run_id in ("a", "b")]
    assert spec_differences(runs, ["dp2 #1", "dp2 #2"]).empty


def test_only_runs_that_may_be_equal_are_opened_for_the_noise(tmp_path: Path) -> None:
    names = {"a": "dp2", "b": "dp2", "c": "tp2"}
    runs = {run_id: new_run(tmp_path, run_id, split=split, dataset="text") for run_id, split in names.items()}
    assert [run.id for run in alike(Overview(tmp_path).frame, Run(runs["a"]))] == ["a", "b"]


def test_figures_are_numbers_in_the_units_that_people_read() -> None:
    frame = numbers([row("dp2", step_time_s=0.25, peak_memory_bytes=2**20, efficiency=0.5, parity_ok=True, parity_max_error=0.0)])
    (figures,) = frame.to_dict("records")
    assert (figures["step_ms"], figures["peak_mib"], figures["efficiency"]) == pytest.approx((250, 1, 50))
    assert figures["parity"] == "equals one worker"
    assert frame["speedup"].isna().all()
