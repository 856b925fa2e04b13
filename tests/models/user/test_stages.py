"""A user's module that is cut computes what it computes whole: outputs and gradients, at every cut."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.models.user.zoo import (
    Aliases,
    DependsOnValues,
    FrozenBackbone,
    FrozenSkip,
    ReadsAttribute,
    ReadsNumbers,
    Recurrent,
    ResidualsOutside,
    ReturnsHidden,
    SecondName,
    Shared,
    TiedTransformer,
    UNet,
    WeightOfAnother,
    WritesInPlace,
)
from workbench.data.base import DatasetSummary
from workbench.errors import SpecError
from workbench.models.user.module_model import ModuleModel
from workbench.models.user.outputs_modules import main_output
from workbench.plan.model_summary import ModelSummary
from workbench.plan.partition import balanced
from workbench.spec.options import ModelOptions

FEATURES = DatasetSummary("features", (64,), 10, 100)
TOKENS = DatasetSummary("tokens", (6,), 20, 100, tokens_per_sample=6)
IMAGES = DatasetSummary("images", (1, 8, 8), 10, 100)


CASES: dict[type[nn.Module], tuple[DatasetSummary, int]] = {
    ResidualsOutside: (FEATURES, 5),
    UNet: (IMAGES, 5),
    TiedTransformer: (TOKENS, 4),
    WeightOfAnother: (TOKENS, 0),
    Recurrent: (TOKENS, 3),
    DependsOnValues: (FEATURES, 0),
    Shared: (FEATURES, 1),
    FrozenBackbone: (FEATURES, 3),
    FrozenSkip: (FEATURES, 1),
    WritesInPlace: (FEATURES, 2),
    Aliases: (FEATURES, 2),
    ReadsAttribute: (FEATURES, 1),
    ReadsNumbers: (FEATURES, 1),
    ReturnsHidden: (FEATURES, 3),
}
"""Module → data, and how many cut points it has."""


class Given(ModuleModel[ModelOptions]):
    """A model that builds a class."""

    Options, default_dataset = ModelOptions, "digits"

    def __init__(self, kind: type[nn.Module], data: DatasetSummary) -> None:
        super().__init__(ModelOptions(name="given"), data)
        self.name, self.kind = kind.__name__, kind

    def build(self) -> nn.Module:
        return self.kind()


def inputs_of(data: DatasetSummary, count: int) -> Tensor:
    torch.manual_seed(1)
    shape = (count, *data.input_shape)
    return torch.randint(data.num_classes, shape) if data.kind == "tokens" else torch.randn(shape, dtype=torch.float64)


def blocks_of(model: Given, names: list[str]) -> Any:
    blocks = model.build_blocks(names, lambda name: 7).double().train()
    for module in blocks.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    return blocks


def assert_equal_gradients(parts: list[Any], summary: ModelSummary, expected: dict[str, Tensor]) -> None:
    """The parts together have these gradients, by the names of the plain module."""
    found: dict[str, Tensor] = {}
    for part in parts:
        for name, parameter in part.named_parameters():
            source = next((tie.source for tie in summary.ties if tie.parameter == name), name)
            plain = source.replace("/", ".").removeprefix("model.").removeprefix("root.")
            if parameter.grad is not None:
                found[plain] = found.get(plain, torch.zeros_like(parameter)) + parameter.grad
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_what_the_code_reads_under_another_name_of_a_units_parameter_is_that_parameter() -> None:
    model, x = Given(SecondName, FEATURES), inputs_of(FEATURES, 4)
    blocks = model.summary().blocks
    assert [(block.name, block.alias) for block in blocks] == [("embed", "bias"), ("layer", ""), ("head", "")]
    assert [block.is_cut_point for block in blocks[:-1]] == [False, True], "the bias is read after the first block"
    whole = blocks_of(model, [block.name for block in blocks])
    torch.manual_seed(7)
    plain = SecondName().double()
    assert torch.equal(whole(x), plain(x))
    whole(x).sum().backward()
    plain(x).sum().backward()
    torch.testing.assert_close(whole[0].bias.grad, plain.bias.grad)


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_every_cut_computes_what_the_whole_module_does(kind: type[nn.Module]) -> None:
    data, num_cuts = CASES[kind]
    model = Given(kind, data)
    summary: ModelSummary = model.summary()
    names = [block.name for block in summary.blocks]
    cuts = [index for index, block in enumerate(summary.blocks[:-1]) if block.is_cut_point]
    assert len(cuts) == num_cuts
    torch.manual_seed(7)
    plain, x = kind().double().train(), inputs_of(data, 4)
    for module in plain.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    expected = main_output(plain(x))
    expected.square().sum().backward()
    gradients = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert summary.num_parameters == sum(p.numel() for p in plain.parameters())
    whole = blocks_of(model, names)
    outputs = whole(x)
    outputs.square().sum().backward()
    assert torch.equal(outputs, expected)
    assert_equal_gradients([whole], summary, gradients)
    for cut in cuts:
        first, second = blocks_of(model, names[: cut + 1]), blocks_of(model, names[cut + 1 :])
        passed = first(x)
        passed = passed if isinstance(passed, tuple) else (passed,)
        assert [tuple(tensor.shape[1:]) for tensor in passed] == list(summary.blocks[cut].crossing_shapes)
        received = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in passed]
        second.samples = x
        outputs = second(*received)
        torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
        outputs.square().sum().backward()
        if received[0].requires_grad:
            torch.autograd.backward(passed, [tensor.grad for tensor in received])
        held = {name for part in (first, second) for name, _ in part.named_parameters()}
        assert held == {name for block in summary.blocks for name in (p.name for p in block.parameters)}
        assert_equal_gradients([first, second], summary, gradients)


def test_a_stage_holds_its_own_blocks_only() -> None:
    model = Given(TiedTransformer, TOKENS)
    names = [block.name for block in model.summary().blocks]
    last = blocks_of(model, names[-1:])
    assert [name for name, _ in last.named_parameters()] == ["head.weight"]
    code = last._code[0]
    held = set(last.parameters())
    others = [p for p in code.parameters() if p not in held]
    assert others
    assert all(p.untyped_storage().nbytes() == p.element_size() for p in others), "the units of other stages have no memory"


def test_a_module_with_another_output_is_refused() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).mean()

    with pytest.raises(
        SpecError, match=r"Constant must return a tensor of outputs with the samples as dim 0, but returns a tensor of \(\)"
    ):
        Given(Constant, FEATURES).summary()


def test_a_module_is_cut_where_the_user_says() -> None:
    class Chosen(Given):
        cut_at = ("layers.1",)

    summary = Chosen(ResidualsOutside, FEATURES).summary()
    assert [block.name for block in summary.blocks[:-1] if block.is_cut_point] == ["layers/1"]

    class Wrong(Given):
        cut_at = ("layers.9",)

    with pytest.raises(
        SpecError, match=r"model.cut_at: .* cannot be cut after 'layers.9'; it can be cut after embed, layers.0, "
    ):
        Wrong(ResidualsOutside, FEATURES).summary()


def test_a_partition_ends_where_the_module_can_be_cut() -> None:
    assert balanced([5, 1, 1, 1], 2) == [1, 3]
    assert balanced([5, 1, 1, 1], 2, [False, True, True, True]) == [2, 2]
    assert balanced([1, 1, 1, 5], 2, [False, True, False, True]) == [2, 2]


def test_initial_values_of_any_generator_are_the_same_in_every_process() -> None:
    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)
            with torch.no_grad():
                self.layer.bias += float(np.random.rand()) + random.random()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    first, second = (Given(Drawn, FEATURES).build_blocks(["model"], lambda name: 7) for _ in range(2))
    assert torch.equal(first[0].layer.bias, second[0].layer.bias)
