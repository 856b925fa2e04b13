"""What is expected of a plan before it runs: folded workers, the memory of devices, and the bubble of its schedule."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from workbench.analysis import device_memory as device_memory_module
from workbench.analysis.byte_units import in_bytes
from workbench.analysis.device_memory import BUDGET, MACHINE, DeviceMemory, device_memory, devices, exceeded
from workbench.analysis.expected import held, placement
from workbench.analysis.folding import folded
from workbench.analysis.schedule import bubble_fraction, schedule_timeline
from workbench.api.plans import order_of_actions
from workbench.charts.mesh import held_chart, mesh_chart
from workbench.errors import SpecError
from workbench.plan.resolve import plan
from workbench.spec import RunSpec

GIB = 2**30


def test_alike_workers_are_one_row_with_their_number() -> None:
    planned = plan(RunSpec(model="mlp", split={"data": 16}))
    frame = folded(held(planned), ("category", "bytes"))
    assert set(frame["who"]) == {"workers 0–15 × 16"}
    assert len(frame) == held(planned)["category"].nunique()
    for chart in (held_chart(held(planned)), mesh_chart(placement(planned))):
        assert "workers 0–15 × 16" in chart.to_json()


def test_unlike_workers_are_apart_with_the_coordinates_that_they_share() -> None:
    planned = plan(RunSpec(model="mlp", split={"data": 8, "pipeline": {"size": 2, "num_microbatches": 2}}))
    frame = folded(placement(planned), ("block", "parameters", "fraction"))
    assert list(frame.drop_duplicates("row")["who"]) == ["workers 0–7 × 8: pipeline 0", "workers 8–15 × 8: pipeline 1"]
    assert list(frame.drop_duplicates("row")["row"]) == [0, 1]


def test_few_workers_are_drawn_one_by_one() -> None:
    frame = folded(held(plan(RunSpec(model="mlp", split={"data": 2}))), ("category", "bytes"))
    assert list(dict.fromkeys(frame["who"])) == ["worker 0: data 0", "worker 1: data 1"]


def test_folding_keeps_the_sum_over_workers() -> None:
    planned = plan(RunSpec(model="mlp", split={"zero1": 4, "tensor": 4}))
    frame = folded(held(planned), ("category", "bytes"))
    count = frame["who"].str.extract(r"× (\d+)")[0].fillna("1").astype(int)
    assert (frame["bytes"] * count).sum() == held(planned)["bytes"].sum()


@pytest.mark.parametrize(
    ("name", "size"),
    [(MACHINE, psutil.virtual_memory().total // 2), (BUDGET, 2**20), ("A100, 80 GB", 80 * 10**9), ("1.5 GiB", 3 * 2**29)],
)
def test_a_device_is_this_machine_the_budget_a_known_one_or_a_size(name: str, size: int) -> None:
    planned = plan(RunSpec(split={"data": 2}, measure={"memory_budget_bytes": 2**20}))
    assert device_memory(name, planned).bytes_per_worker == size
    assert devices(planned)[:2] == [BUDGET, MACHINE]


@pytest.mark.parametrize("name", ["a big one", "80 G", BUDGET])
def test_another_device_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(SpecError, match=r"takes a number of bytes, or one with B, KiB, .* TB, such as 80GB"):
        device_memory(name, plan(RunSpec()))


def test_what_does_not_fit_is_said_with_the_numbers() -> None:
    planned = plan(RunSpec(split={"data": 2}, measure={"memory_budget_bytes": 2**20}))
    total = psutil.virtual_memory().total
    assert exceeded(planned, {0: 2**20, 1: 2**20}) == []
    assert exceeded(planned, {0: 2**19, 1: 2**21}) == ["Worker 1 needs 2.00 MiB, but measure.memory_budget_bytes is 1.00 MiB."]
    unlimited = plan(RunSpec(split={"data": 2}))
    assert exceeded(unlimited, {0: total, 1: total}) == [
        f"2 workers need {in_bytes(2 * total)} together, but this machine has {in_bytes(total)}."
    ]


def test_workers_on_gpus_have_the_memory_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(RunSpec(split={"data": 2}, launch={"device": "cuda"}))
    monkeypatch.setattr(device_memory_module, "gpu_memory_bytes", lambda: (2 * GIB, GIB, GIB // 2))
    assert device_memory(devices(planned)[0], planned) == DeviceMemory(MACHINE, GIB)
    assert exceeded(planned, {0: 2 * GIB, 1: GIB}) == []
    assert exceeded(planned, {0: GIB, 1: 2 * GIB}) == ["Worker 1 needs 2.00 GiB, but GPU 1 has 1.00 GiB."]
    monkeypatch.setattr(device_memory_module, "gpu_memory_bytes", lambda: (GIB,))
    assert MACHINE not in devices(planned)
    with pytest.raises(SpecError, match="the memory of a worker on this machine is not known: it has 1 GPU for 2 workers"):
        device_memory(MACHINE, planned)


@pytest.mark.parametrize(("limit", "has_line"), [(2 * GIB, True), (10**4 * GIB, False)])
def test_a_limit_is_a_line_unless_the_bars_would_vanish_beside_it(limit: int, has_line: bool) -> None:
    frame = held(plan(RunSpec(split={"data": 2}))).assign(bytes=GIB)
    drawn = held_chart(frame, limit, "a device").to_dict()
    assert (len(drawn["layer"]) == 2) == has_line
    verdict = " ".join(drawn["title"]["subtitle"])
    assert "A device:" in verdict
    assert "expected memory (GiB)" in str(drawn)
    assert ("(does not fit)" in verdict) == (frame.groupby("worker")["bytes"].sum().max() > limit)


@pytest.mark.parametrize(
    ("split", "bubble"),
    [
        ({"pipeline": {"size": 2, "num_microbatches": 4}}, 1 / 5),
        ({"pipeline": {"size": 4, "num_microbatches": 8, "schedule": "gpipe"}}, 3 / 11),
        ({"layer": 4}, 3 / 4),
    ],
)
@pytest.mark.parametrize("trains", [True, False])
def test_the_bubble_of_a_schedule_with_equal_stages_is_that_of_its_formula(
    split: dict[str, Any], bubble: float, trains: bool
) -> None:
    order = order_of_actions(RunSpec(split=split))
    assert order is not None
    frame = schedule_timeline(order, trains)
    assert bubble_fraction(frame) == pytest.approx(bubble)
    assert set(frame["kind"]) == ({"forward", "backward"} if trains else {"forward"})
