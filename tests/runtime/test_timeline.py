"""The timeline has all that a worker computes, once, with stage and microbatch, on one clock for all workers."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from tests.helpers.cases import training
from workbench.plan.resolve import plan
from workbench.registry import SCHEDULES
from workbench.spec import RunSpec
from workbench.strategies.pipeline import PipelineStrategy
from workbench.strategies.pipeline.schedules import action_order
from workbench.strategies.pipeline.schedules.to_csv import rows_of
from workbench.testing.workers import run_in_workers

SMALL = {"name": "transformer", "num_layers": 4, "hidden_dim": 16, "num_heads": 2}
DATA = {"name": "text", "sequence_length": 8}
SHORT = {"train": {"num_steps": 1, "num_warmup_steps": 1}, "measure": {"num_trace_steps": 1}}
KINDS = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}
WITH_ACTIONS = [name for name in SCHEDULES.names() if SCHEDULES.get(name).has_actions]


def timelines(split: dict[str, Any], **spec: Any) -> list[list[dict[str, Any]]]:
    """Each of two workers' rows of its trace step."""
    given = {"model": SMALL, "dataset": DATA, "split": split, **SHORT, **spec}
    return [worker["timeline"] for worker in run_in_workers(2, training, given)]


def computed(rows: list[dict[str, Any]]) -> Counter[tuple[str, int, int]]:
    """How often each action is there; the loss of a microbatch is a part of its forward pass, by name."""
    spans = [row for row in rows if row["kind"] in KINDS.values() and not row.get("name")]
    return Counter((row["kind"], row["stage"], row["microbatch"]) for row in spans)


def test_there_are_seven_schedules_of_torch() -> None:
    assert len(WITH_ACTIONS) == 7


@pytest.mark.parametrize("schedule", WITH_ACTIONS)
def test_every_action_of_a_schedule_is_there_once_with_its_stage_and_microbatch(schedule: str) -> None:
    split = {"pipeline": {"size": 2, "schedule": schedule, "num_microbatches": 4}}
    (strategy,) = plan(RunSpec(model=SMALL, dataset=DATA, split=split)).strategies
    assert isinstance(strategy, PipelineStrategy)
    order = action_order.read(rows_of(strategy.schedule))
    for actions, rows in zip(order, timelines(split), strict=True):
        wanted = Counter((KINDS[a.kind], a.stage, a.microbatch) for a in actions)
        assert computed(rows) == wanted
        assert {"optimizer", "communication"} <= {row["kind"] for row in rows}


@pytest.mark.parametrize(
    ("split", "places"),
    [
        ({"data": 2}, [[(0, 0)]] * 2),
        ({"data": {"size": 2, "num_accumulation_steps": 2}}, [[(0, 0), (0, 1)]] * 2),
        ({"fsdp": 2}, [[(0, 0)]] * 2),
        ({"zero1": 2}, [[(0, 0)]] * 2),
        ({"tensor": 2}, [[(0, 0)]] * 2),
        ({"context": 2}, [[(0, 0)]] * 2),
        ({"layer": 2}, [[(0, 0)], [(1, 0)]]),
    ],
    ids=str,
)
def test_every_strategy_has_its_forward_and_backward_passes(split: dict[str, Any], places: list[list[tuple[int, int]]]) -> None:
    for rows, wanted in zip(timelines(split), places, strict=True):
        assert computed(rows) == Counter((kind, *place) for kind in ("forward", "backward") for place in wanted)


def test_time_chunks_are_its_microbatches() -> None:
    split = {"pipeline": {"size": 2, "schedule": "time_chunks", "num_microbatches": 2}}
    model = {"name": "lstm", "hidden_dim": 16}
    for stage, rows in enumerate(timelines(split, model=model, dataset={"name": "sunspots"})):
        assert computed(rows) == Counter((kind, stage, chunk) for kind in ("forward", "backward") for chunk in range(2))


def test_stages_that_wait_for_one_another_follow_on_the_one_clock() -> None:
    first, second = timelines({"layer": 2})

    def times(rows: list[dict[str, Any]], kind: str) -> tuple[float, float]:
        return next((row["start_s"], row["end_s"]) for row in rows if row["kind"] == kind)

    moments = [times(first, "forward"), times(second, "forward"), times(second, "backward"), times(first, "backward")]
    assert all(before[1] <= after[0] for before, after in pairwise(moments))


def test_the_loss_of_a_microbatch_is_marked_as_its_forward_pass() -> None:
    _, last = timelines({"pipeline": {"size": 2, "schedule": "1f1b", "num_microbatches": 4}})
    losses = [(row["kind"], row["stage"], row["microbatch"]) for row in last if row.get("name") == "loss"]
    assert losses == [("forward", 1, number) for number in range(4)]
