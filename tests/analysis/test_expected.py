"""What the formulas say before a run: every element is somewhere, bytes are torch's, and refusals come with what works."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.analysis.expected import expected_communication, held, placement
from workbench.charts.loss import loss_chart
from workbench.charts.mesh import held_chart, mesh_chart
from workbench.errors import SpecError
from workbench.plan.nearest_valid import nearest_valid, with_change
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.spec.paths import spec_of

EIGHT = {"data": 2, "pipeline": 2, "tensor": 2}


def test_each_block_is_held_by_the_workers_of_its_stage_and_by_no_other() -> None:
    planned = plan(RunSpec(split=EIGHT))
    frame = placement(planned)
    assert set(frame["worker"]) == set(range(8))
    assert set(frame["block"]) == {block.name for block in planned.full_model.blocks}
    assert (frame.groupby("block")["worker"].nunique() == 4).all(), "two replicas of two slices"
    first = frame[frame["worker"] == 0]
    assert first["place"].unique().tolist() == ["pipeline 0, data 0, tensor 0"]


def test_replicas_compute_consecutive_parts_of_the_batch() -> None:
    frame = placement(plan(RunSpec(split={"data": 4})))
    assert frame.groupby("worker")["samples"].first().tolist() == ["1–4", "5–8", "9–12", "13–16"]


def test_sharded_parameters_add_up_to_the_model() -> None:
    planned = plan(RunSpec(split={"fsdp": 2}))
    assert placement(planned)["parameters"].sum() == planned.full_model.num_parameters
    assert placement(planned)["fraction"].between(0.4, 0.6).all()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_held_bytes_are_those_of_torch_on_one_worker(optimizer: str) -> None:
    spec = RunSpec(model={"name": "mlp", "num_layers": 2}, train={"optimizer": optimizer})
    planned = plan(spec)
    model = torch.nn.Sequential(*(planned.model.build_block(block.name) for block in planned.full_model.blocks))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(optimizer, torch.optim.SGD)
    options: Any = {"momentum": 0.9} if optimizer == "momentum" else {}
    torch_optimizer = kind(model.parameters(), lr=0.1, **options)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch_optimizer.step()
    kept = [t for state in torch_optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    bytes_of = held(planned).set_index("category")["bytes"]
    assert bytes_of["parameters"] == bytes_of["gradients"] == sum(p.nbytes for p in model.parameters())
    assert bytes_of["optimizer_state"] == sum(t.nbytes for t in kept)


def test_inference_holds_parameters_alone_and_zero1_a_part_of_the_optimizer() -> None:
    assert set(held(plan(RunSpec(mode="inference", split={"data": 2})))["category"]) == {"parameters"}
    whole = held(plan(RunSpec())).set_index("category")["bytes"]["optimizer_state"]
    parts = held(plan(RunSpec(split={"zero1": 2}))).query("category == 'optimizer_state'")["bytes"]
    assert parts.sum() == whole
    assert parts.max() < 0.7 * whole


def test_expected_communication_is_the_sum_over_the_strategies() -> None:
    planned = plan(RunSpec(split=EIGHT))
    assert expected_communication(planned)["bytes"].sum() == sum(
        t.count * t.payload_bytes for t in planned.expected_communication
    )
    assert expected_communication(plan(RunSpec())).empty


def test_the_pictures_name_every_worker() -> None:
    planned = plan(RunSpec(split=EIGHT))
    for chart in (mesh_chart(placement(planned)), held_chart(held(planned))):
        text = chart.to_json()
        assert all(f"worker {rank}: pipeline" in text for rank in range(8))
    assert "Does the loss fall?" in loss_chart(placement(planned).assign(step=0, loss=1.0)).to_json()


@pytest.mark.parametrize(
    ("paths", "first"),
    [
        ({"split.data.size": 3}, {"split.data.size": 2}),
        ({"split.pipeline.size": 2, "split.pipeline.num_microbatches": 5}, {"split.pipeline.num_microbatches": 4}),
        ({"split.layer.size": 2, "split.pipeline.size": 2}, {"split.layer.size": None}),
        ({"split.expert.size": 2}, {"split.expert.size": None}),
        ({"model.name": "mlp", "split.data.size": 2, "split.context.size": 2}, {"split.context.size": None}),
        ({"split.data.size": 2, "train.global_batch_size": 10**6}, {"train.global_batch_size": 10**6 // 2**7}),
    ],
)
def test_the_nearest_values_work(paths: dict[str, Any], first: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as refused:
        plan(spec_of(paths))
    changes = nearest_valid(paths, refused.value, limit_s=20)
    assert changes[0] == first
    for change in changes:
        plan(spec_of(with_change(paths, change)))


def test_the_search_for_values_that_work_ends_in_time() -> None:
    paths = {"split.data.size": 3}
    with pytest.raises(SpecError) as refused:
        plan(spec_of(paths))
    assert nearest_valid(paths, refused.value, limit_s=0.0) == []
