"""How long the runs of a list of splits are expected to take."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.analysis.test_durations import ended
from workbench.dashboard.durations import expected_of_run, expected_of_specs
from workbench.spec import RunSpec
from workbench.store.listing import exact


def test_all_splits_take_what_those_of_each_took_else_what_others_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    dp, tp, more = (RunSpec(split={name: {"size": 2}}) for name in ("data", "tensor", "layer"))
    runs = [ended(tmp_path, f"tp-{n}", 50.0, tp) for n in range(12)] + [ended(tmp_path, "dp", 10.0, dp)]
    work = {"model": dp.model.name, "dataset": dp.dataset.name, "mode": "train", "state": "finished"}
    frame = pd.DataFrame([{"run_id": run.id, "split": run.spec().split.label, **work} for run in runs])
    assert expected_of_specs([dp, tp, more], frame) == 10.0 + 50.0 + 50.0
    assert expected_of_specs([dp.replace(train={"num_steps": 999})], frame) is None
    record = exact(tmp_path, "tp-0").record()
    assert expected_of_run(exact(tmp_path, "tp-0"), record, frame) is None, "its record has another dataset"
