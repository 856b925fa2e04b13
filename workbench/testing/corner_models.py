"""Small models with properties that splits easily get wrong, for tests: load with
``WORKBENCH_PLUGINS=workbench.testing.corner_models``.

Frozen, adapted (LoRA), unused, shared, scalar and tiny parameters, a block without any, and a running mean.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from workbench.models.base import model
from workbench.models.inferred import OwnModel
from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.model_summary import ModelSummary, Tie
from workbench.spec.options import ModelOptions

Blocks = Mapping[str, Callable[[], nn.Module]]
FEATURES = {"name": "synthetic", "kind": "features", "num_features": 16, "num_classes": 4, "num_samples": 256}


class Adapted(nn.Module):
    """A frozen linear layer plus a trained product of low rank (LoRA, Hu et al. 2021)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.base(x) + self.up(self.down(x)))


class Gated(nn.Module):
    """A linear layer scaled by a parameter without dims or with one row, with a bias of one row."""

    def __init__(self, features: int, has_scalar: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features, bias=False)
        self.gate = nn.Parameter(torch.tensor(0.5) if has_scalar else torch.tensor([0.5]))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate * torch.tanh(self.linear(x)) + self.shift


class Unused(nn.Module):
    """A layer with a part that the forward pass does not use."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.used(x))


def layer(inputs: int = 16, outputs: int = 16) -> nn.Module:
    """Returns a linear layer followed by tanh."""
    return nn.Sequential(OrderedDict(linear=nn.Linear(inputs, outputs, bias=False), tanh=nn.Tanh()))


@model("frozen")
class Frozen(OwnModel[ModelOptions]):
    """A frozen trunk with a trained head (transfer learning)."""

    default_dataset = "digits"

    def blocks(self) -> Blocks:
        return {
            "trunk": lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU()).requires_grad_(False),
            "head": lambda: nn.Linear(32, 10),
        }


class MixedOptions(ModelOptions):
    name: Literal["mixed"] = "mixed"

    frozen: tuple[int, ...] = (0, 2)
    """Indices of the frozen layers."""


@model("mixed")
class Mixed(OwnModel[MixedOptions]):
    """Four layers and a head, some of them frozen."""

    Options = MixedOptions
    default_dataset = FEATURES
    examples = {"": {}, "all but the last": {"model": {"frozen": [0, 1, 2, 3]}}, "last": {"model": {"frozen": [3, 4]}}}

    def blocks(self) -> Blocks:
        def made(i: int) -> nn.Module:
            return (layer() if i < 4 else nn.Linear(16, 4)).requires_grad_(i not in self.options.frozen)

        return {f"layer{i}": (lambda i=i: made(i)) for i in range(5)}  # type: ignore[misc]


class SlicedOptions(ModelOptions):
    name: Literal["sliced"] = "sliced"

    frozen: tuple[str, ...] = ("layer0",)
    """Prefixes of the names of frozen parameters."""


class Residual(nn.Module):
    """x + down(tanh(up(norm(x))))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


@model("sliced")
class Sliced(OwnModel[SlicedOptions]):
    """Three pairs of layers that tensor slicing cuts, some of them frozen."""

    Options = SlicedOptions
    default_dataset = FEATURES

    def blocks(self) -> Blocks:
        def made(block: str) -> nn.Module:
            built = nn.Linear(16, 4) if block == "head" else Residual()
            for name, parameter in built.named_parameters():
                parameter.requires_grad_(not f"{block}.{name}".startswith(self.options.frozen))
            return built

        return {name: (lambda name=name: made(name)) for name in ("layer0", "layer1", "layer2", "head")}  # type: ignore[misc]

    def groups(self) -> tuple[ColumnRowPair, ...]:
        return tuple(
            ColumnRowPair("feedforward", f"layer{i}.up", f"layer{i}.down", 32, "hidden features", (16,), (16,)) for i in range(3)
        )


@model("lora")
class Lora(OwnModel[ModelOptions]):
    """Frozen weights, each with a trained product of low rank (LoRA)."""

    default_dataset = "digits"

    def blocks(self) -> Blocks:
        return {
            "first": lambda: Adapted(64, 32),
            "second": lambda: Adapted(32, 32),
            "third": lambda: Adapted(32, 32),
            "head": lambda: nn.Linear(32, 10),
        }


@model("unused")
class SpareLayer(OwnModel[ModelOptions]):
    """A layer that the forward pass does not use."""

    default_dataset = "digits"

    def blocks(self) -> Blocks:
        return {"body": lambda: Unused(64, 32), "head": lambda: nn.Linear(32, 10)}


@model("flat")
class Flat(OwnModel[ModelOptions]):
    """A perceptron on images, of which the first block and one in the middle have no parameters."""

    default_dataset = "digit_images"

    def blocks(self) -> Blocks:
        return {
            "flatten": nn.Flatten,
            "body": lambda: nn.Linear(64, 32),
            "relu": nn.ReLU,
            "head": lambda: nn.Linear(32, 10),
        }


class GatedOptions(ModelOptions):
    name: Literal["gated"] = "gated"

    scalar: bool = True
    """Whether the gates have no dims instead of one row."""


@model("gated")
class GatedLayers(OwnModel[GatedOptions]):
    """Parameters without dims and with one row."""

    Options = GatedOptions
    default_dataset = FEATURES

    def blocks(self) -> Blocks:
        scalar = self.options.scalar
        return {"first": lambda: Gated(16, scalar), "second": lambda: Gated(16, scalar), "head": lambda: nn.Linear(16, 4)}


class AlbertOptions(ModelOptions):
    name: Literal["albert"] = "albert"

    ties: Literal["source", "chain", "module", "parameter"] = "source"
    """How sharing is declared: each tied to the first, each to the previous one, one module object, or one parameter."""


@model("albert")
class Albert(OwnModel[AlbertOptions]):
    """Three blocks share one weight (ALBERT, Universal Transformer)."""

    Options = AlbertOptions
    default_dataset = FEATURES
    examples = {how: {"model": {"ties": how}} for how in ("source", "chain", "module", "parameter")}

    def blocks(self) -> Blocks:
        shared = layer() if self.options.ties in ("module", "parameter") else None

        def block() -> nn.Module:
            built = layer()
            if shared is not None:
                built.get_submodule("linear").weight = shared.get_parameter("linear.weight")
            return built

        make = (lambda: shared) if self.options.ties == "module" else block
        return {"b0": make, "b1": make, "b2": make, "head": lambda: nn.Linear(16, 4)}  # type: ignore[dict-item]

    def summary(self) -> ModelSummary:
        if self.options.ties in ("module", "parameter"):
            return super().summary()
        sources = ("b0", "b0") if self.options.ties == "source" else ("b0", "b1")
        ties = [Tie(f"b{i}.linear.weight", f"{source}.linear.weight") for i, source in enumerate(sources, 1)]
        return replace(super().summary(), ties=tuple(ties))


class Viewed(nn.Module):
    """A linear layer that returns a view."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x))[:, :]


@model("views")
class Views(OwnModel[ModelOptions]):
    """Every block returns a view."""

    default_dataset = FEATURES

    def blocks(self) -> Blocks:
        return {**{f"b{i}": (lambda: Viewed(16, 16)) for i in range(4)}, "head": lambda: Viewed(16, 4)}


class Centered(nn.Module):
    """A linear layer that subtracts a running mean of its outputs, as codebooks and streaming normalization do."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.tanh(self.linear(x)) - self.mean
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return x + y


@model("running")
class Running(OwnModel[ModelOptions]):
    """A model whose result for a batch depends on previous batches."""

    default_dataset = FEATURES

    def blocks(self) -> Blocks:
        return {"first": Centered, "second": Centered, "head": lambda: nn.Linear(16, 4)}


@model("spectral")
class Spectral(OwnModel[ModelOptions]):
    """A layer whose weight is divided by its largest singular value, whose estimate each forward pass improves."""

    default_dataset = FEATURES

    def blocks(self) -> Blocks:
        return {
            "body": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(16, 16)), nn.Tanh()),
            "head": lambda: nn.Linear(16, 4),
        }
