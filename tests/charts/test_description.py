"""Every chart has a description for screen readers: its title, and the main fact that it shows."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from tests.charts.test_charts import curve, row, speedups
from tests.helpers.recorded import pipeline_run
from workbench import charts
from workbench.analysis.communication import volume_frame
from workbench.analysis.comparison import pareto, step_parts
from workbench.analysis.expected import held, placement
from workbench.analysis.scaling import scaling
from workbench.analysis.schedule import schedule_timeline
from workbench.analysis.step_walkthrough import busiest, cells, walk, wires
from workbench.analysis.trace import overlap_of, timeline
from workbench.analysis.winners import step_times
from workbench.api.plans import order_of_actions, plan
from workbench.api.specs import RunSpec
from workbench.charts.calibration import communication_chart
from workbench.charts.communication import communication_volume_chart, communication_volume_charts, traffic_matrix_chart
from workbench.charts.loss import loss_chart, losses_charts
from workbench.charts.measured import measured_chart
from workbench.charts.memory import memory_at_peak_chart, memory_of_runs_chart, memory_over_time_chart
from workbench.charts.mesh import held_chart, mesh_chart
from workbench.charts.overlap import overlap_chart
from workbench.charts.pareto import pareto_chart
from workbench.charts.progress import memory_chart, step_times_chart
from workbench.charts.scaling import scaling_charts
from workbench.charts.step_parts import step_parts_chart
from workbench.charts.step_time import step_time_chart
from workbench.charts.theme import AnyChart, svg, title_of
from workbench.charts.timeline import schedule_chart, timeline_chart
from workbench.charts.walkthrough import walk_chart

WHAT = "What is this?"


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, list[AnyChart]]:
    """The charts by the name of the function that draws them."""
    run, planned = pipeline_run(tmp_path), plan(RunSpec(split={"pipeline": 2}))
    order = order_of_actions(planned.spec)
    assert order is not None
    moments = walk(planned, order)
    moment = moments[busiest(moments)]
    rows = [row("dp2", peak_memory_bytes=2**20), row("tp2", peak_memory_bytes=2**21)]
    size = {"category": ["activations", "parameters"], "mebibytes": [1.0, 2.0]}
    peak = pd.DataFrame({"split": "dp2", "worker": ["0", "1"], **size, "budget_mebibytes": 4.0})
    flows = pd.DataFrame({"axis": "data", "from": [0, 1], "to": [1, 0], "attribution": "measured", "bytes": [2e6, 1e6]})
    times = {"operation": ["all_reduce"], "payload_bytes": [1024], "group_size": [2], "time_s": [1e-3], "fitted_s": [1e-3]}
    losses = pd.concat([curve("single", 3.0, 2.0), curve("dp2", 3.0, 2.1, difference=0.1)])
    made: dict[object, AnyChart | Sequence[AnyChart]] = {
        communication_chart: communication_chart(pd.DataFrame(times)),
        communication_volume_chart: communication_volume_chart(volume_frame(run), WHAT),
        communication_volume_charts: [chart for chart, _ in communication_volume_charts({"pp2": volume_frame(run)})],
        traffic_matrix_chart: traffic_matrix_chart(flows, 4),
        loss_chart: loss_chart(curve("dp2", 3.0, 2.0)),
        losses_charts: losses_charts(losses),
        measured_chart: measured_chart(pd.DataFrame({"ms": [1.0, 2.0]}, index=["a", "b"]), "ms", WHAT, "time (ms)"),
        memory_at_peak_chart: memory_at_peak_chart(peak),
        memory_of_runs_chart: memory_of_runs_chart(peak),
        memory_over_time_chart: memory_over_time_chart(pd.DataFrame({"time_ms": [0.0, 1.0], "event": "peak", **size})),
        held_chart: held_chart(held(planned)),
        mesh_chart: mesh_chart(placement(planned)),
        overlap_chart: overlap_chart(overlap_of(run), WHAT),
        step_times_chart: step_times_chart(pd.DataFrame({"step": [0, 1], "kind": "timed", "step_ms": [2.0, 1.0]})),
        memory_chart: memory_chart(pd.DataFrame({"worker": ["0"], "time_s": [1.0], "memory_mib": [9.0]})),
        pareto_chart: pareto_chart(pareto(rows)),
        scaling_charts: [*scaling_charts(scaling(speedups())), *scaling_charts(scaling(speedups()[:2]))],
        step_parts_chart: step_parts_chart(step_parts(rows)),
        step_time_chart: step_time_chart(step_times(rows)),
        schedule_chart: schedule_chart(schedule_timeline(order, True), WHAT),
        timeline_chart: [timeline_chart(timeline(run), WHAT), timeline_chart(timeline(run), WHAT, timeline(run))],
        walk_chart: walk_chart(cells(planned, moment), wires(moment), ["idle", "forward", "backward"], 2, moment.sentence),
    }
    return {draw.__name__: list(of) if isinstance(of, Sequence) else [of] for draw, of in made.items()}  # type: ignore[attr-defined]


def test_every_chart_has_a_description(drawn: dict[str, list[AnyChart]]) -> None:
    modules = [importlib.import_module(found.name) for found in pkgutil.iter_modules(charts.__path__, f"{charts.__name__}.")]
    functions = {
        name
        for module in modules
        for name, of in inspect.getmembers(module, inspect.isfunction)
        if of.__module__ == module.__name__ and name.endswith(("_chart", "_charts")) and not name.startswith("_")
    }
    assert set(drawn) == functions
    for name, made in drawn.items():
        for chart in made:
            assert isinstance(chart.description, str), name
            assert chart.description.startswith(title_of(chart)), name
            assert len(chart.description) > len(title_of(chart)), name
            assert chart.description.endswith("."), name


def test_a_screen_reader_finds_the_description(drawn: dict[str, list[AnyChart]]) -> None:
    (chart,) = drawn["pareto_chart"]
    said = chart.to_dict()["description"]
    assert said == "Which splits are fast and need little memory? No other run is better in both than dp2."
    assert "aria-label" in svg(chart)
