"""What each worker holds: the parts of the workers make up the model, and the placements of several strategies combine."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from workbench.errors import PluginError
from workbench.plan.model_summary import ModelSummary
from workbench.plan.placement import Placement
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.registry import STRATEGIES
from workbench.spec import RunSpec

MODEL = {"name": "transformer", "num_layers": 2, "hidden_dim": 12, "num_heads": 2, "feedforward_dim": 24}


def planned(**split: Any) -> Plan:
    dataset, train = {"name": "text", "sequence_length": 6}, {"global_batch_size": 120}
    return plan(RunSpec(model=MODEL, dataset=dataset, split=split, train=train))


def placements(**split: Any) -> list[Placement]:
    result = planned(**split)
    return [result.placement(rank) for rank in range(result.num_workers)]


def test_one_worker_holds_gathers_allocates_and_updates_the_model() -> None:
    single = planned()
    assert single.placement(0) == Placement(single.full_model)


def test_shards_add_up_to_the_model_which_every_worker_gathers() -> None:
    full_model, shards = planned().full_model, placements(data={"size": 5, "shard": "parameters"})
    assert sum(p.local_model.num_parameters for p in shards) == full_model.num_parameters
    assert all(p.gathered == full_model and p.updated == p.local_model for p in shards)
    assert len({p.allocated for p in shards}) == 1
    assert shards[0].allocated == shards[0].local_model  # the first shard is the largest, to which the others are padded
    assert shards[-1].local_model.num_parameters < shards[-1].allocated.num_parameters


def test_workers_of_zero1_hold_everything_and_update_each_parameter_once() -> None:
    full_model, replicas = planned().full_model, placements(data={"size": 3, "shard": "optimizer"})
    assert all(p.local_model == p.allocated == full_model for p in replicas)
    updated = [parameter.name for p in replicas for parameter in p.updated.parameters]
    assert sorted(updated) == sorted(p.name for p in full_model.parameters)


def test_stages_of_slices_of_shards_add_up_to_the_model_and_its_replicated_parameters() -> None:
    stages = {"size": 2, "num_microbatches": 4}
    sliced = placements(tensor=2)[0].local_model.num_parameters
    combined = placements(pipeline=stages, tensor=2, data={"size": 2, "shard": "parameters"})
    assert sum(p.local_model.num_parameters for p in combined) == 2 * sliced
    assert [(p.in_flight, p.outputs_kept) for p in combined[::4]] == [(2, 1), (1, 1)]  # 1F1B: p − r microbatches on worker r


def test_microbatches_in_flight_multiply_and_none_stays_none() -> None:
    model = planned().full_model

    def place(in_flight: int | None) -> Any:
        return lambda model, index: Placement(model, in_flight=in_flight, outputs_kept=1)

    twice = Placement(model).then(place(2), 0).then(place(3), 0)
    assert (twice.in_flight, twice.outputs_kept) == (6, 2)
    assert Placement(model).then(place(None), 0).then(place(3), 0).in_flight is None


def test_a_plan_whose_workers_were_planned_can_be_sent_to_another_process() -> None:
    sent = planned(data=2)
    assert sent.rank_view(1) is sent.rank_view(1)
    received = pickle.loads(pickle.dumps(sent))
    assert received.rank_view(1).placement.local_model == sent.rank_view(1).placement.local_model


def test_a_place_that_returns_a_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def place(self: object, model: ModelSummary, index: int) -> ModelSummary:
        return model

    monkeypatch.setattr(STRATEGIES.get("data"), "place", place)
    with pytest.raises(PluginError, match=r"place must return Placement\(local_model\), but returned a ModelSummary$"):
        planned(data=2).rank_view(0)
