"""What a model is to the planner: blocks, parameters, shapes and FLOPs by formula, with nothing built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from workbench.plan.layer_groups import LayerGroup


@dataclass(frozen=True)
class ParameterSummary:
    """One parameter of the unsplit model."""

    name: str
    """Full name, beginning with its block's: ``layer0.attention.qkv.weight``."""

    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class BlockSummary:
    """One block: the unit that a model is cut at."""

    name: str
    parameters: tuple[ParameterSummary, ...]
    output_shape: tuple[int, ...]
    """Shape of what the block hands on, per sample."""

    forward_flops: int
    """Floating-point operations of one sample's forward pass, matrix products only (2 per multiply-add)."""

    @property
    def num_parameters(self) -> int:
        """Elements of all its parameters."""
        return sum(p.numel for p in self.parameters)


@dataclass(frozen=True)
class Tie:
    """Two names of one parameter in different blocks, such as a head that shares the token embedding."""

    parameter: str
    source: str
    """The name under which the parameter is counted and initialised."""


@dataclass(frozen=True)
class ModelSummary:
    """A model, or the part of it that one worker holds."""

    name: str
    blocks: tuple[BlockSummary, ...]
    groups: tuple[LayerGroup, ...] = ()
    """Layers that tensor slicing can cut."""

    ties: tuple[Tie, ...] = ()

    sequence_length: int | None = None
    """Positions of a sample, where these are dim 0 of every shape, per sample, and causal attention alone mixes them, so
    that the sequence can be split; None: it cannot."""

    @property
    def parameters(self) -> tuple[ParameterSummary, ...]:
        """All parameters once; a tied one under its source's name, or its own where the source is not held."""
        return tuple(p for block in self.blocks for p in block.parameters)

    @property
    def distinct_parameters(self) -> tuple[ParameterSummary, ...]:
        """The parameters, a tied one under its source's name alone where both its names are held."""
        held = {p.name for p in self.parameters}
        doubled = {t.parameter for t in self.ties if t.source in held}
        return tuple(p for p in self.parameters if p.name not in doubled)

    @property
    def num_parameters(self) -> int:
        """Elements held; a tied parameter counts once where both its names are held."""
        return sum(p.numel for p in self.distinct_parameters)

    def with_blocks(self, names: Iterable[str]) -> ModelSummary:
        """The part made of these blocks."""
        wanted = set(names)
        groups = tuple(g for g in self.groups if g.block in wanted)
        return replace(self, blocks=tuple(b for b in self.blocks if b.name in wanted), groups=groups)


def block_of(path: str) -> str:
    """Name of the block that a layer or parameter belongs to."""
    return path.split(".", 1)[0]


def linear_parameters(layer: str, in_features: int, out_features: int, bias: bool = True) -> tuple[ParameterSummary, ...]:
    """Weight and bias of an ``nn.Linear``."""
    weight = ParameterSummary(f"{layer}.weight", (out_features, in_features))
    return (weight, ParameterSummary(f"{layer}.bias", (out_features,))) if bias else (weight,)
