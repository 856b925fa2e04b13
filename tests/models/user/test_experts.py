"""Expert parallelism of a user's module: its mixtures are recognised or named, decided by a trial, equal to one worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.user import expert_zoo
from workbench.errors import SpecError, SplitError
from workbench.plan import compatibility
from workbench.plan.expert_split import ExpertSplit
from workbench.plan.resolve import plan
from workbench.runtime.expert_split import verify
from workbench.runtime.expert_split.of_model import found_split
from workbench.runtime.expert_split.verify import averaged
from workbench.runtime.tensor_plan.find import Subject
from workbench.spec import RunSpec
from workbench.strategies.expert import gathered_mixture
from workbench.testing.conformance import assert_conforms

MIXTRAL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16,
    "num_local_experts": 4, "vocab_size": 256,
}  # fmt: skip
TRAIN = {**compatibility.TRAIN, "global_batch_size": 64}
"""With samples for each expert."""


def spec_of(split: dict[str, Any], train: dict[str, Any] | None = None, named: tuple[str, ...] = (), **options: Any) -> Any:
    name = f"{Path(expert_zoo.__file__)}:Classifier"
    return {
        "model": {"name": name, "options": options, "mixtures": named},
        "dataset": "digits",
        "split": split,
        "train": {**TRAIN, **(train or {})},
        "measure": compatibility.MEASURE,
        "launch": {"device": "cpu"},
    }


def split_of(root: nn.Module, *named: str) -> ExpertSplit:
    return found_split(Subject(root, lambda count: torch.randn(count, expert_zoo.FEATURES)), named)


@pytest.mark.parametrize(
    ("split", "options"),
    [
        ({"expert": 2}, {}),
        pytest.param({"expert": 2, "data": 4}, {}, marks=pytest.mark.cross),
        pytest.param({"expert": 2, "data": {"size": 2, "num_accumulation_steps": 2}}, {}, marks=pytest.mark.cross),
        pytest.param({"expert": 4}, {"train": {"max_gradient_norm": 0.1}}, marks=pytest.mark.cross),
        pytest.param({"expert": 2, "data": 4}, {"train": {"max_gradient_norm": 0.1}}, marks=pytest.mark.cross),
        pytest.param({"expert": 2}, {"kind": "dense", "named": ("layers.*.moe",)}, marks=pytest.mark.cross),
        pytest.param({"expert": 2}, {"train": {"mixed_precision": "bf16"}}, marks=pytest.mark.cross),
    ],
    ids=str,
)
def test_a_mixture_with_a_part_of_its_experts_is_one_worker_and_its_formulas(split: Any, options: dict[str, Any]) -> None:
    assert_conforms(spec_of(split, **options))


@pytest.mark.cross
@pytest.mark.parametrize("split", [{"expert": 2}, {"expert": 2, "data": 4}], ids=str)
def test_stacked_experts_of_transformers_are_one_worker_and_their_formulas(split: Any) -> None:
    pytest.importorskip("transformers")
    parts = {"model": {"name": "hf:mixtral", "options": MIXTRAL}, "dataset": {"name": "text", "sequence_length": 16}}
    assert_conforms({**spec_of(split), **parts, "train": compatibility.TRAIN})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("capacity", "depends on the other samples of the batch, as with a capacity"),
        ("shared", "is not the sum over its experts, as with a shared expert"),
        ("norm", "is not the sum over its experts"),
        ("noise", "draws random numbers besides its experts"),
        ("dropout", "draws random numbers besides its experts"),
        ("pairs", "is not the sum over its experts"),
        ("counter", "changes its attribute num_tokens in the forward pass"),
        ("unlike", "has no nn.ModuleList of two or more modules with parameters of the same shapes"),
    ],
)
def test_what_is_no_sum_over_experts_is_refused_with_the_reason(kind: str, reason: str) -> None:
    num_experts = 8 if kind == "pairs" else 4  # pairs are together on 2 and on 4 workers
    split = split_of(expert_zoo.Classifier(kind, num_experts, num_layers=1), "layers.*.moe")
    assert not split.mixtures
    assert [mixture.path for mixture in split.rejected] == ["layers.0.moe"]
    assert reason in split.refusal


def test_experts_that_return_zeros_at_first_are_divided() -> None:
    (mixture,) = split_of(expert_zoo.Classifier("zeros", num_layers=1)).mixtures
    assert mixture.num_experts == 4


def test_lists_named_experts_are_recognised_and_others_are_named() -> None:
    (mixture,) = split_of(expert_zoo.Classifier(num_layers=1)).mixtures
    assert (mixture.path, mixture.experts, mixture.num_experts) == ("layers.0.moe", "layers.0.moe.experts", 4)
    dense = expert_zoo.Classifier("dense", num_layers=1)
    assert "no mixture of experts was recognised in it" in split_of(dense).refusal
    (mixture,) = split_of(dense, "layers.*.moe.branches").mixtures
    assert [tensor.is_summed for tensor in mixture.returned] == [True, False]
    with pytest.raises(SpecError, match=r"model\.mixtures: 'layer\.\*\.moe' is the path of no module; modules are stem, layers"):
        split_of(dense, "layer.*.moe")


def _own_part(gradients: Tensor, mesh: Any) -> Tensor:
    return gradients.chunk(mesh.size())[mesh.get_local_rank()]


def _without_router(gradients: dict[str, Tensor], divided: set[str], mesh: Any) -> dict[str, Tensor]:
    return averaged(gradients, divided | {name for name in gradients if "router" in name}, mesh)


@pytest.mark.parametrize(
    ("where", "name", "mutant", "tensor"),
    [
        (verify, "averaged", _without_router, "router"),
        (gathered_mixture._GatherRows, "backward", lambda ctx, g: (_own_part(g, ctx.mesh), None), ""),
        (gathered_mixture, "reduce_scattered", _own_part, ""),
    ],
    ids=["router's gradients are not summed", "gradients of tokens are not summed", "outputs are not summed"],
)
def test_the_trial_catches_mutations(
    where: Any, name: str, mutant: Callable[..., Any], tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify.DividedTrial, "_uncounted", lambda *_: "")
    monkeypatch.setattr(where, name, staticmethod(mutant) if isinstance(where, type) else mutant)
    split = split_of(expert_zoo.Classifier(num_layers=1))
    assert not split.mixtures
    assert tensor in split.refusal and "differs by" in split.refusal, split.refusal


def test_what_is_not_combined_with_it_is_refused_too() -> None:
    with pytest.raises(SplitError, match=r"split\.expert: the experts of .*:Classifier cannot be divided: layers\.0\.moe and"):
        plan(RunSpec(**spec_of({"expert": 2}, kind="capacity")))
    with pytest.raises(SplitError, match="of a model of your own is incompatible with pipeline"):
        plan(RunSpec(**spec_of({"expert": 2, "pipeline": 2})))
    with pytest.raises(SplitError, match=r"4 experts are not divisible by 3 workers .*; use 2 or 4"):
        plan(RunSpec(**spec_of({"expert": 3})))
    with pytest.raises(SplitError, match=r"train\.checkpointing: is not supported with split\.expert"):
        plan(RunSpec(**spec_of({"expert": 2}, {"checkpointing": "full"})))
