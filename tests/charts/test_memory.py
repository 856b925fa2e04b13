"""Frames of memory say what the table says; charts stack their categories and draw the budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.run_directory import run_record
from workbench.analysis.comparison import peaks
from workbench.analysis.memory import memory_at_peak, memory_over_time
from workbench.charts.memory import memory_at_peak_chart, memory_of_runs_chart, memory_over_time_chart
from workbench.charts.theme import svg
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory
from workbench.store.records import Environment
from workbench.store.tables import write_table

MIB = 2**20


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Two workers, two memory steps; the peak is in the first of worker 0 and the second of worker 1."""
    record = {"run_id": "a", "name": "", "mode": "train", "num_workers": 2, "device": "cpu", "mesh": {"data": 2}}
    run = RunDirectory.create(tmp_path, "a", dumps(RunSpec()), run_record(**record), Environment())
    for rank, sizes in enumerate([(9, 5), (4, 6)]):
        rows = [
            {
                "run_id": "a",
                "rank": rank,
                "step": step,
                "time_s": 10 * step + moment,
                "event": event,
                "category": c,
                "bytes": b * MIB,
            }
            for step, peak in enumerate(sizes)
            for moment, event, activations in [(1.0, "begin of step", 0), (1.5, "peak", peak), (2.0, "end of step", 1)]
            for c, b in [("optimizer_state", 2), ("activations", activations), ("buffers", 0)]
        ]
        write_table(run.table_path("memory", rank), "memory", rows)
    return run


def test_memory_over_time_is_of_the_last_step_and_leaves_out_what_is_empty(run: RunDirectory) -> None:
    frame = memory_over_time(run, 0)
    assert set(frame["category"]) == {"optimizer state", "activations"}
    activations = frame[frame["category"] == "activations"]
    assert list(activations["mebibytes"]) == [0, 5, 1]
    assert list(activations["time_ms"]) == pytest.approx([0, 500, 1000])
    assert list(activations["event"]) == ["begin of step", "peak", "end of step"]


def test_memory_at_the_peak_is_of_the_step_with_the_most(run: RunDirectory) -> None:
    frame = memory_at_peak(run)
    assert frame.groupby("worker")["mebibytes"].sum().to_dict() == {"0": 11, "1": 8}


def test_charts_stack_categories_under_a_title_and_draw_the_budget(run: RunDirectory) -> None:
    over_time = memory_over_time_chart(memory_over_time(run, 0)).to_dict()
    assert over_time["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["optimizer state", "activations"]
    assert over_time["title"].endswith("?")
    bars = memory_at_peak_chart(memory_at_peak(run), budget_bytes=10 * MIB).to_dict()
    assert [layer["mark"]["type"] for layer in bars["layer"]] == ["bar", "text", "rule", "text"]
    assert bars["title"]["subtitle"] == "Memory budget: 10.00 MiB per worker."
    far = memory_at_peak_chart(memory_at_peak(run), budget_bytes=100 * MIB).to_dict()
    assert [layer["mark"]["type"] for layer in far["layer"]] == ["bar", "text"], "the bars would vanish beside the line"


def test_the_peak_is_marked_with_its_size(run: RunDirectory) -> None:
    frame = memory_over_time(run, 0)
    most = frame.groupby("time_ms")["mebibytes"].sum().max()
    assert f"peak {most:.2f} MiB" in svg(memory_over_time_chart(frame))


def test_runs_show_their_largest_worker_and_the_range(run: RunDirectory) -> None:
    chart = memory_of_runs_chart(peaks([run], ["dp2"]))
    shown = svg(chart)
    assert ">11.0</text>" in shown
    assert ">8.0</text>" not in shown
    assert [shown.count(f'aria-roledescription="{mark}"') for mark in ("rule mark", "tick")] == [1, 1]
    assert "Least: dp2, 11.00 MiB" in str(chart.description)
