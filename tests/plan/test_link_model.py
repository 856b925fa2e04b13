"""The links of a mesh: which one an operation takes, what it costs by formula, and which cannot be emulated."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.errors import SpecError
from workbench.plan.link_model import route
from workbench.plan.mesh import Mesh
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.spec.files import dumps, load
from workbench.spec.link import PRESETS, Link

SLOW = {"latency_s": 5e-3, "bandwidth_bytes_per_s": 5e7}


def test_costs_are_those_of_the_ring() -> None:
    way = route(Link(latency_s=1.0, bandwidth_bytes_per_s=10.0), Mesh({"data": 4}), "data", range(4))
    assert way.duration_s("all_reduce", 4, 80) == 6 * (1 + 80 / 4 / 10)
    for operation in ("all_gather", "reduce_scatter", "all_to_all"):
        assert way.duration_s(operation, 4, 80) == 3 * (1 + 80 / 4 / 10)
    assert way.duration_s("broadcast", 4, 80) == 2 * (1 + 80 / 10)
    assert way.duration_s("barrier", 4, 0) == 2
    assert way.duration_s("send", 4, 80) == 1 + 80 / 10


def test_each_axis_and_each_node_has_its_link_and_the_slowest_decides() -> None:
    link = Link(preset="ethernet-1g", workers_per_node=2, within={"preset": "nvlink"}, axes={"tensor": {"preset": "wan"}})
    mesh = Mesh({"pipeline": 2, "data": 2, "tensor": 2})
    found = {
        ranks: route(link, mesh, axis, ranks) for axis, ranks in (("data", (0, 2)), ("pipeline", (0, 1)), ("tensor", (0, 1)))
    }
    assert {ranks: way.names for ranks, way in found.items()} == {(0, 2): ("",), (0, 1): ("axes.tensor",)}
    assert route(link, mesh, "data", (0, 1)).names == ("within",)
    everywhere = route(link, mesh, "world", range(8))
    assert (everywhere.latency_s, everywhere.bandwidth_bytes_per_s) == PRESETS["wan"]
    assert not route(Link(axes={"tensor": SLOW}), mesh, "data", (0, 2)).is_emulated


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ({"preset": "ethernet"}, "link.preset: .*'ethernet-1g'.* but got 'ethernet'"),
        ({"latency_s": -1}, "link.latency_s: .*must be at least 0, but got -1"),
        ({"bandwidth_bytes_per_s": 0}, "link.bandwidth_bytes_per_s: .*greater than 0"),
        ({"speed": 1}, "link.speed: unknown key"),
        ({"axes": {"tensor": {"preset": "wan"}}}, "link.axes.tensor: unknown axis 'tensor'. Allowed: data"),
        ({"workers_per_node": 3, "preset": "wan"}, "link.workers_per_node: 4 workers cannot be divided into nodes of 3"),
        ({"within": {"preset": "wan"}}, "link: within requires workers_per_node"),
        ({"workers_per_node": 4, "preset": "wan"}, "link.workers_per_node: all 4 workers are in one node of 4"),
    ],
)
def test_what_cannot_be_emulated_is_refused_before_anything_starts(link: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan(RunSpec(split={"data": 4}, link=link))


def test_powersgd_whose_hook_waits_inside_a_completion_is_refused() -> None:
    with pytest.raises(SpecError, match=r"split.data.compression: powersgd is incompatible with an emulated link"):
        plan(RunSpec(split={"data": {"size": 2, "compression": "powersgd"}}, link={"preset": "wan"}))


def test_experts_may_have_a_link_of_their_own() -> None:
    plan(RunSpec(model="moe", split={"expert": 2}, link={"axes": {"expert": {"preset": "wan"}}}))


@pytest.mark.parametrize(
    ("link", "label"),
    [
        ({}, "none"),
        ({"preset": "wan"}, "wan"),
        ({"preset": "wan", "latency_s": 0.01}, "10 ms 12.5 MB/s"),
        ({"bandwidth_bytes_per_s": 125e6}, "125 MB/s"),
        ({"latency_s": 0}, "0 ns"),
        ({"axes": {"tensor": SLOW}}, "tensor: 5 ms 50 MB/s"),
        (
            {"preset": "ethernet-1g", "workers_per_node": 2, "within": {"preset": "pcie4"}},
            "ethernet-1g between nodes of 2, pcie4 within",
        ),
        ({"workers_per_node": 2, "within": {"preset": "pcie4"}}, "pcie4 within nodes of 2"),
    ],
)
def test_a_link_is_told_by_its_label_and_survives_the_file(link: dict[str, Any], label: str, tmp_path: Any) -> None:
    spec = RunSpec(split={"tensor": 2}, link=link)
    assert spec.link.label == label
    path = tmp_path / "spec.toml"
    path.write_text(dumps(spec))
    assert load(path) == spec
