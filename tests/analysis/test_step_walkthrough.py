"""A step of a plan, moment by moment: what it shows is what the formulas and the schedules say."""

from __future__ import annotations

from collections import Counter

import pytest

from workbench.analysis.step_walkthrough import Moment, Wire, busiest, cells, slots, walk, wires
from workbench.charts.theme import svg
from workbench.charts.walkthrough import walk_chart
from workbench.dashboard.lessons import lesson, names, walkthrough
from workbench.plan.resolve import plan
from workbench.registry import SCHEDULES
from workbench.spec import RunSpec
from workbench.strategies.pipeline.schedules import action_order
from workbench.strategies.pipeline.schedules.to_csv import rows_of

LESSONS = [name for name in names() if lesson(name).spec]


def order(schedule: str, size: int, num_microbatches: int) -> action_order.Order:
    pipeline = {"size": size, "schedule": schedule, "num_microbatches": num_microbatches}
    ((_, options),) = RunSpec(split={"pipeline": pipeline}).split.items()
    return action_order.read(rows_of(SCHEDULES.get(schedule)(options)))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("size", "num_microbatches"), [(2, 4), (3, 5), (4, 8)])
def test_a_worker_waits_for_the_share_of_the_bubble_formula(schedule: str, size: int, num_microbatches: int) -> None:
    times = slots(order(schedule, size, num_microbatches))
    for worker in range(size):
        idle = sum(worker not in now for now in times)
        assert idle / len(times) == pytest.approx((size - 1) / (num_microbatches + size - 1))


@pytest.mark.parametrize("name", LESSONS)
def test_a_walk_has_every_transfer_of_the_plan_once(name: str) -> None:
    planned, all_moments = walkthrough(name).planned, walkthrough(name).moments
    shown = Counter(wire.is_send for moment in all_moments for wire in moment.wires)
    kinds = {(t.operation, t.axis, t.phase) for t in planned.expected_communication}
    if "pipeline" in planned.mesh.axes:
        assert shown[True] == sum(t.count for t in planned.expected_communication if t.operation == "send")
        assert shown[False] == sum(t.count for t in planned.expected_communication if t.operation == "all_reduce")
    else:
        assert sum(bool(moment.wires) for moment in all_moments) == len(kinds)


@pytest.mark.parametrize("name", LESSONS)
def test_every_worker_computes_each_of_its_blocks_forward_and_backward_and_updates(name: str) -> None:
    planned, all_moments = walkthrough(name).planned, walkthrough(name).moments
    done = Counter((w.worker, block, w.kind) for moment in all_moments for w in moment.work for block in w.blocks)
    for rank in range(planned.num_workers):
        num_microbatches = planned.rank_view(rank).num_microbatches
        for block in planned.local_model(rank).blocks:
            for kind in ("forward", "backward"):
                assert done[rank, block.name, kind] == num_microbatches


@pytest.mark.parametrize("name", LESSONS)
def test_communication_of_a_lesson_is_explained(name: str) -> None:
    all_moments = walkthrough(name).moments
    assert not [moment.sentence for moment in all_moments if moment.sentence.startswith("Workers along")]


def test_sharded_parameters_are_gathered_before_a_phase_and_their_gradients_leave_after_it() -> None:
    all_moments = walkthrough("sharded").moments
    words = [moment.sentence.split(".")[0] for moment in all_moments[1:6]]
    assert words == [
        "The parameters of each block are all-gathered just before it computes",
        "All workers run the forward pass",
        "Parameters are all-gathered again for the backward pass",
        "All workers run the backward pass",
        "Gradients are reduce-scattered: each worker receives the average for the parameters it holds",
    ]
    assert [work.is_gathered for moment in all_moments[2:5:2] for work in moment.work] == [True] * 4


@pytest.mark.parametrize("split", [{"tensor": 4}, {"fsdp": 2}])
def test_slices_of_a_block_lie_side_by_side_and_make_a_whole(split: dict[str, int]) -> None:
    planned = plan(RunSpec(split=split, model={"num_heads": 4}))
    frame = cells(planned, Moment(""))
    of_block = frame[frame["block"] == "layer0"].sort_values("begin")
    assert list(of_block["end"][:-1]) == pytest.approx(list(of_block["begin"][1:]), abs=1e-2)
    assert of_block["fraction"].sum() == pytest.approx(1, abs=2e-2), "norms and some biases are whole on every worker"


def test_wires_that_would_cross_lie_in_lanes_of_their_own() -> None:
    frame = wires(Moment("", (), (Wire((0, 2), "a"), Wire((1, 3), "b"), Wire((3, 4), "c"), Wire((5, 6), "d"))))
    lanes = frame.set_index("text")["lane"]
    assert lanes["a"] != lanes["b"]
    assert lanes["b"] != lanes["c"], "both end at worker 3"
    assert lanes["d"] == lanes["a"]


def test_a_worker_that_computes_nothing_is_idle_in_the_picture() -> None:
    planned, all_moments = walkthrough("pipeline").planned, walkthrough("pipeline").moments
    first = cells(planned, all_moments[1])
    assert dict(first.groupby("worker")["kind"].first()) == {0: "forward", 1: "idle"}
    shown = svg(walk_chart(first, wires(all_moments[1]), ["idle", "forward"], 2, all_moments[1].sentence))
    assert ">0</text>" in shown, "the microbatch stands in it"


def test_the_busiest_moment_is_never_all_idle_and_in_a_pipeline_mixes_passes() -> None:
    for name in ("data", "pipeline", "tensor", "layer"):
        all_moments = walkthrough(name).moments
        assert all_moments[busiest(all_moments)].work, name
    of_pipeline = walkthrough("pipeline").moments
    busy = of_pipeline[busiest(of_pipeline)]
    assert {work.kind for work in busy.work} == {"forward", "backward"}
    assert busy.sentence.startswith(f"Moment {busiest(of_pipeline)}: "), "the number is that of the slider"


def test_an_unsplit_step_has_no_communication() -> None:
    assert not any(moment.wires for moment in walk(plan(RunSpec())))
