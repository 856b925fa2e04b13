"""The calibration: a link is found again in the times that it gives, and stands beside what a run asks for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.helpers.run_directory import new_run, run_record
from workbench.analysis.calibration import achieved, communication
from workbench.api import Run
from workbench.charts.calibration import communication_chart
from workbench.cli import calibrate
from workbench.cli.show import _bandwidths
from workbench.errors import UsageError
from workbench.hardware import calibrate as calibration_module
from workbench.hardware.fit import fit, link_notes
from workbench.hardware.staleness import staleness
from workbench.hardware.store import read_calibration, write_calibration
from workbench.plan.link_model import Route
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.store.directory import RunDirectory
from workbench.store.figures import CpuLoad
from workbench.store.json_record import plain
from workbench.store.records import Environment
from workbench.store.tables import write_table

SIZES = [2**exponent for exponent in range(10, 25, 2)]
HERE = Environment(machine="m", cpu="c", num_cores=2, torch_version="2")
COMMAND = [sys.executable, "-m", "workbench.cli.main"]


def calibration(latency_s: float, bandwidth: float) -> dict[str, Any]:
    """As it would be measured over a perfect link."""
    way = Route(("",), latency_s, bandwidth)
    rows = [
        {"operation": operation, "group_size": 2, "payload_bytes": size, "time_s": way.duration_s(operation, 2, size)}
        for operation in ("all_reduce", "send")
        for size in SIZES
    ]
    links = [
        fit(operation, 2, [(row["payload_bytes"], row["time_s"]) for row in rows if row["operation"] == operation])
        for operation in ("all_reduce", "send")
    ]
    return {"created_at": 0.0, "environment": plain(HERE), "matmul": [], "memory": [], "communication": rows, "links": links}


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"])
@pytest.mark.parametrize("n", [2, 4])
def test_the_fit_finds_the_link_that_gave_the_times(operation: str, n: int) -> None:
    way = Route(("",), 1e-4, 1e9)
    found = fit(operation, n, [(size, way.duration_s(operation, n, size)) for size in SIZES])
    assert found["latency_s"] == pytest.approx(1e-4)
    assert found["bandwidth_bytes_per_s"] == pytest.approx(1e9)
    assert found["residual"] == pytest.approx(0, abs=1e-9)


def test_the_fit_says_how_far_it_is_from_the_times() -> None:
    way = Route(("",), 1e-4, 1e9)
    points = [(size, way.duration_s("send", 2, size) * (1.1 if i % 2 else 0.9)) for i, size in enumerate(SIZES)]
    assert 0.05 < fit("send", 2, points)["residual"] < 0.11


def test_neither_latency_nor_bandwidth_is_fitted_below_nothing() -> None:
    faster_when_larger = fit("send", 2, [(1000, 2.0), (2000, 1.0)])
    assert faster_when_larger["bandwidth_bytes_per_s"] is None
    assert faster_when_larger["latency_s"] > 0
    more_than_in_proportion = fit("send", 2, [(1000, 1.0), (2000, 4.0)])
    assert more_than_in_proportion["latency_s"] == 0


@pytest.mark.parametrize(
    ("link", "notes"),
    [
        ({"preset": "ethernet-1g", "latency_s": 2e-4}, ["slower than the machine's own link"]),
        ({"preset": "ethernet-1g"}, ["link: .*a latency of 150 µs, requested 100 µs"]),
        ({"bandwidth_bytes_per_s": 2e9}, ["link: .*bandwidth of 1 GB/s, requested 2 GB/s"]),
        (
            {"axes": {"data": {"preset": "nvlink"}}},
            ["link.axes.data: .*all_reduce has a latency of 150 µs.*; all_reduce has a bandwidth of 1 GB/s"],
        ),
        ({"workers_per_node": 1, "within": {"preset": "nvlink"}, "preset": "wan"}, ["link.within: "]),
        ({}, []),
    ],
)
def test_a_link_faster_than_the_machines_own_is_said(link: dict[str, Any], notes: list[str]) -> None:
    found = link_notes(plan(RunSpec(model="mlp", split={"data": 2}, link=link)), calibration(1.5e-4, 1e9))
    assert len(found) == len(notes)
    for note, pattern in zip(found, notes, strict=True):
        assert re.match(pattern, note), note


def test_without_a_calibration_it_is_said_that_nothing_was_checked() -> None:
    (note,) = link_notes(plan(RunSpec(model="mlp", split={"data": 2}, link={"preset": "wan"})), None)
    assert "not compared" in note
    assert not link_notes(plan(RunSpec(model="mlp", link={"preset": "wan"})), None), "one worker has no link"


def test_a_calibration_of_another_machine_is_none(tmp_path: Path) -> None:
    assert read_calibration(tmp_path, HERE) is None
    write_calibration(tmp_path, calibration(1e-4, 1e9))
    assert read_calibration(tmp_path, HERE) == calibration(1e-4, 1e9)
    assert read_calibration(tmp_path, replace(HERE, num_cores=64)) is None
    write_calibration(tmp_path, {**calibration(1e-4, 1e9), "schema_version": 2})
    with pytest.raises(UsageError, match=r"calibration\.json has schema_version 2"):
        read_calibration(tmp_path, HERE)
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        read_calibration(tmp_path, HERE)


DAY_S = 86400.0


@pytest.mark.parametrize(
    ("calibrated", "environment", "record", "reason"),
    [
        ({}, HERE, {}, ""),
        ({}, HERE, {"created_at": 29 * DAY_S}, ""),
        ({}, HERE, {"created_at": 31 * DAY_S}, "the calibration was 31 days old"),
        ({}, HERE, {"created_at": 31 * DAY_S, "max_calibration_age_days": 60.0}, ""),
        ({"other_load_cores": 1.3}, HERE, {}, "other programs used 1.3 cores during the calibration"),
        ({"other_load_cores": 1.3}, HERE, {"max_other_load_cores": 2.0}, ""),
        (
            {"environment": {**plain(HERE), "platform": "Linux 5"}},
            replace(HERE, platform="Linux 6"),
            {},
            "the calibration was made under Linux 5, the run under Linux 6",
        ),
        ({"environment": {**plain(HERE), "platform": "Linux 5"}}, HERE, {}, ""),
    ],
)
def test_a_calibration_is_stale_for_a_reason(
    calibrated: dict[str, Any], environment: Environment, record: dict[str, Any], reason: str
) -> None:
    of_run = run_record(**{"created_at": 0.0, **record})
    assert staleness({**calibration(0.0, 1e9), **calibrated}, environment, of_run) == reason


def test_the_frame_has_the_fit_and_the_bandwidth_beside_each_time() -> None:
    frame = communication(calibration(0.0, 1e9))
    assert frame["fitted_s"].tolist() == pytest.approx(frame["time_s"].tolist())
    assert frame["bandwidth_bytes_per_s"].tolist() == pytest.approx([1e9] * len(frame))
    assert communication_chart(frame).to_dict()["facet"]["sort"] == ["all-reduce", "send"]


def test_a_runs_bandwidth_stands_beside_the_calibrated_one(tmp_path: Path) -> None:
    run = new_run(tmp_path, "run", "")
    for rank, entered_s in enumerate((0.0, 1.0)):
        row = {"step": 0, "rank": rank, "group": "g", "axis": "data", "sequence": 1, "operation": "all_reduce"}
        rows = [{**row, "payload_bytes": 100, "ring_bytes": 100, "start_s": entered_s, "completed_s": 3.0}]
        write_table(run.table_path("communication", rank), "communication", rows)
    found = achieved(run, calibration(1e-4, 1e9))
    assert found["ring_bytes_per_s"].tolist() == [100 / 2]
    assert found["calibrated_bytes_per_s"].tolist() == pytest.approx([1e9])
    assert achieved(run, None)["calibrated_bytes_per_s"].isna().all()
    assert achieved(new_run(tmp_path, "silent", ""), None).empty


@pytest.mark.parametrize(
    ("machine", "age_days", "calibrated"),
    [
        ("m", 1, "1.0 GB/s"),
        ("m", 40, "⚠ stale calibration: the calibration was 40 days old; run `workbench calibrate`"),
        ("another", 40, "–"),
    ],
)
def test_show_lays_a_calibration_beside_runs_of_its_own_machine_alone(
    machine: str, age_days: int, calibrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    write_calibration(tmp_path, {**calibration(0.0, 1e9), "environment": plain(HERE)})
    run = RunDirectory.create(tmp_path, "run", "", run_record(created_at=age_days * DAY_S), replace(HERE, machine=machine))
    for rank in range(2):
        row = {"step": 0, "rank": rank, "group": "g", "axis": "data", "sequence": 1, "operation": "all_reduce"}
        rows = [{**row, "payload_bytes": 100, "ring_bytes": 100, "start_s": 0.0, "completed_s": 3.0}]
        write_table(run.table_path("communication", rank), "communication", rows)
    console = Console(width=200, record=True)
    _bandwidths(console, Run(run))
    assert console.export_text().rstrip().endswith(calibrated)


@pytest.mark.parametrize(("own_cores", "others"), [(0.0, 0.5), (0.2, 0.3), (0.7, 0.0)])
def test_the_load_beside_a_calibration_is_neither_of_its_workers_nor_of_the_process_that_waits(
    own_cores: float, others: float
) -> None:
    loads = [CpuLoad(elapsed_s=10.0, machine_s=20.0, process_s=own_s) for own_s in (9.0, 6.0)]
    assert calibration_module.load_beside(loads, own_cores) == pytest.approx(others)


def test_a_calibration_says_when_its_fits_are_poor(capsys: pytest.CaptureFixture[str]) -> None:
    found = calibration(1e-4, 1e9)
    calibrate._report(found)
    assert "rely on the times" not in capsys.readouterr().out
    found["links"][1]["residual"] = 0.42
    calibrate._report(found)
    assert "1 of 2 fits have an error of more than 30%; the largest is 42%, for send of 2 workers" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.slow
def test_calibrate_measures_keeps_and_prints_and_runs_are_checked_against_it(tmp_path: Path) -> None:
    environment = {**os.environ, "WORKBENCH_HOME": str(tmp_path)}

    def workbench(*args: str) -> str:
        done = subprocess.run([*COMMAND, *args], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(workbench("calibrate", "--json"))
    assert isinstance(found["other_load_cores"], float)
    assert json.loads((tmp_path / "calibration.json").read_text()) == found
    assert {row["precision"] for row in found["matmul"]} == {"fp32", "bf16", "fp64"}
    assert {row["kind"] for row in found["memory"]} == {"copy", "triad"}
    assert {fit["operation"] for fit in found["links"]} == {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"}
    assert all(0 < row["time_s"] < inf for row in found["communication"])
    run = ("run", "--model", "mlp", "--split", "data=2", "--set", "train.num_steps=2", "--json", "--set")
    slow = json.loads(workbench(*run, "link.preset=wan"))["runs"]
    fast = json.loads(workbench(*run, "link.preset=nvlink"))["runs"]
    assert [row["link"] for row in slow] == [None, None, "wan"]
    assert [row["run_id"] for row in fast[:2]] == [row["run_id"] for row in slow[:2]], "baselines depend on no link"
    assert slow[-1]["step_time_s"] > fast[-1]["step_time_s"]
    assert "the machine's own link is slower" in workbench("show", fast[-1]["run_id"])
