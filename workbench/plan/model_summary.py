"""Describes a model to the planner: blocks, parameters, shapes and FLOPs by formula, without building it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil, prod

from workbench.errors import SpecError
from workbench.plan.call_state import CallState
from workbench.plan.expert_split import ExpertSplit
from workbench.plan.generation import CACHED, Generation
from workbench.plan.kept_tensors import KeptTensors
from workbench.plan.layer_groups import ColumnRowPair, LayerGroup
from workbench.plan.loss_weights import LossReduction
from workbench.plan.sequence_split import SequenceSplit


@dataclass(frozen=True)
class ParameterSummary:
    """A parameter of the unsplit model."""

    name: str
    """Full name, which starts with that of its block: ``layer0.attention.qkv.weight``."""

    shape: tuple[int, ...]

    is_replicated: bool = True
    """Whether all replicas hold it and average its gradient; false for experts that are divided among replicas."""

    requires_grad: bool = True
    """Whether training updates it; false for a frozen parameter."""

    is_used: bool = True
    """Whether the loss depends on it; a parameter that the forward pass does not use has no gradient."""

    @property
    def has_gradient(self) -> bool:
        """Whether it has a gradient and optimizer state."""
        return self.requires_grad and self.is_used

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class BlockSummary:
    """A block: the unit at which a model is cut into stages."""

    name: str
    parameters: tuple[ParameterSummary, ...]
    output_shape: tuple[int, ...]
    """Shape of the output, per sample."""

    forward_flops: int
    """FLOPs of the forward pass of one sample, matrix products only (2 per multiply-add)."""

    backward_flops: int | None = None
    """FLOPs of the backward pass of one sample; None for twice the forward pass (Kaplan et al. 2020, section 2.1), less the
    products that frozen parameters save (``ModelSummary.backward_flops``)."""

    crossing: tuple[tuple[int, ...], ...] | None = None
    """Shapes per sample of the tensors that cross a cut after the block; None for its output alone, empty if the model cannot be
    cut there."""

    is_called: bool = True
    """Whether its parameters are read only when it is called, and not by the code between the blocks."""

    alias: str = ""
    """Name under which the code between the blocks reads one of its parameters; empty for that in the block."""

    @property
    def num_parameters(self) -> int:
        """Number of elements of all parameters."""
        return sum(p.numel for p in self.parameters)

    @property
    def is_cut_point(self) -> bool:
        """Whether the model can be cut after it."""
        return self.crossing != ()

    @property
    def crossing_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes per sample of the tensors that cross a cut after the block."""
        return (self.output_shape,) if self.crossing is None else self.crossing


@dataclass(frozen=True)
class Tie:
    """Two names of one parameter in different blocks, such as a head tied to the token embedding."""

    parameter: str
    source: str
    """Name under which the parameter is counted and initialized."""


@dataclass(frozen=True)
class Mixture:
    """A layer whose router sends every token to some of its experts, a ``MixtureOfExperts`` at ``path``."""

    path: str
    num_experts: int
    tokens_per_sample: int
    top_k: int
    """Number of distinct experts per token."""

    hidden_dim: int
    """Number of features of a token."""

    capacity_factor: float | None
    """Capacity of an expert, as a multiple of an even share of the assignments of a forward pass; None for unlimited."""

    def num_sent(self, num_samples: int) -> tuple[int, bool]:
        """Returns the maximum number of assignments of tokens to experts in a forward pass, and whether there may be fewer, as
        when experts lack capacity."""
        tokens = num_samples * self.tokens_per_sample
        capacity = tokens
        if self.capacity_factor is not None:
            capacity = ceil(self.capacity_factor * tokens * self.top_k / self.num_experts)
        return min(tokens * self.top_k, capacity * self.num_experts), capacity < tokens


@dataclass(frozen=True)
class BatchNorm:
    """A layer with statistics over the samples of a batch."""

    path: str
    num_features: int
    """Number of channels, each with its own statistics."""


@dataclass(frozen=True)
class ModelSummary:
    """A model, or the part of it on one worker."""

    name: str
    blocks: tuple[BlockSummary, ...]
    groups: tuple[LayerGroup, ...] = ()
    """Groups of layers that tensor slicing can cut."""

    ties: tuple[Tie, ...] = ()

    mixtures: tuple[Mixture, ...] = ()
    """Layers of experts, which can be placed on different workers."""

    batch_norms: tuple[BatchNorm, ...] = ()
    """Layers whose statistics replicas can compute together."""

    sequence_length: int | None = None
    """Number of positions of a sample, if they are dim 0 of every shape per sample and only causal attention mixes them, so that
    the sequence can be split; else None."""

    kept: tuple[KeptTensors, ...] | None = None
    """What a forward pass of all blocks keeps for backward, if it was measured."""

    copied_at: frozenset[int] = frozenset()
    """Indices of the blocks after which a cut lets a copy cross, since the code between the blocks writes in place."""

    steps_through_time: bool = False
    """Whether a sequence, dim 0 of every shape, can be processed in chunks: a block that mixes positions has
    ``forward_with_state(x, state)`` and passes its state from chunk to chunk, and other blocks process each position
    separately."""

    loss_reduction: LossReduction | None = None
    """How the loss that the last block returns beside its output is reduced; None if the loss is computed of the output."""

    sequence: SequenceSplit | None = None
    """How the sequence of a user's module can be split; None unless that was tried, and of built-in models."""

    experts: ExpertSplit | None = None
    """Which mixtures of a user's module can be divided; None unless they were looked for, and of built-in models."""

    why_whole: str = ""
    """Why a user's module cannot be cut anywhere, a clause; empty if it can."""

    reads_values: bool = False
    """Whether its code reads values that depend on samples or parameters, as for a branch: a step may leave parameters out."""

    state: CallState | None = None
    """What a user's module keeps between calls besides buffers; None if nothing."""

    generation: Generation = CACHED
    """How it generates tokens, if it was asked."""

    def __post_init__(self) -> None:
        for field in ("blocks", "groups", "ties", "mixtures"):  # a generator would be empty when read again
            object.__setattr__(self, field, tuple(getattr(self, field)))

    @property
    def parameters(self) -> tuple[ParameterSummary, ...]:
        """All parameters; a tied one under each of its names."""
        return tuple(p for block in self.blocks for p in block.parameters)

    @property
    def tied_names(self) -> dict[str, tuple[str, ...]]:
        """Source of each tied parameter → all its names, the source first."""
        names: dict[str, tuple[str, ...]] = {}
        for tie in self.ties:
            names[tie.source] = (*names.get(tie.source, (tie.source,)), tie.parameter)
        return names

    @property
    def distinct_parameters(self) -> tuple[ParameterSummary, ...]:
        """The parameters, with a tied one once: under the name of its source, or the first one held."""
        held = {p.name for p in self.parameters}
        doubled = {name for names in self.tied_names.values() for name in [n for n in names if n in held][1:]}
        return tuple(p for p in self.parameters if p.name not in doubled)

    @property
    def trained_parameters(self) -> tuple[ParameterSummary, ...]:
        """The distinct parameters that have a gradient and are updated."""
        return tuple(p for p in self.distinct_parameters if p.has_gradient)

    @property
    def averaged_parameters(self) -> tuple[ParameterSummary, ...]:
        """The distinct parameters whose gradients all replicas average."""
        return tuple(p for p in self.trained_parameters if p.is_replicated)

    @property
    def unused_parameters(self) -> tuple[ParameterSummary, ...]:
        """The distinct parameters that require a gradient but have none, because they are not used."""
        return tuple(p for p in self.distinct_parameters if p.requires_grad and not p.is_used)

    @property
    def first_trained_block(self) -> int:
        """Index of the first block with a gradient, where backward passes end; the number of blocks if none has one."""
        trains = (i for i, block in enumerate(self.blocks) if any(p.has_gradient for p in block.parameters))
        return next(trains, len(self.blocks))

    @property
    def backward_flops(self) -> int:
        """FLOPs of the backward pass of one sample: none before the first trained block, and only the gradients of inputs in a
        block that is entirely frozen."""
        total = 0
        for block in self.blocks[self.first_trained_block :]:
            is_frozen = block.parameters and not any(p.has_gradient for p in block.parameters)
            of_block = block.forward_flops * (1 if is_frozen else 2)
            total += of_block if block.backward_flops is None else block.backward_flops
        return total

    @property
    def num_parameters(self) -> int:
        """Number of elements; a tied parameter counts once if both names are held."""
        return sum(p.numel for p in self.distinct_parameters)

    def only_trained(self) -> ModelSummary:
        """Returns the same blocks with only the parameters that have a gradient."""
        blocks = (replace(b, parameters=tuple(p for p in b.parameters if p.has_gradient)) for b in self.blocks)
        return replace(self, blocks=tuple(blocks))

    def with_blocks(self, names: Iterable[str]) -> ModelSummary:
        """Returns the part of the model that consists of these blocks."""
        selected = set(names)
        groups = tuple(g for g in self.groups if g.block in selected)
        mixtures = tuple(m for m in self.mixtures if block_of(m.path) in selected)
        norms = tuple(n for n in self.batch_norms if block_of(n.path) in selected)
        blocks = tuple(b for b in self.blocks if b.name in selected)
        return replace(self, blocks=blocks, groups=groups, mixtures=mixtures, batch_norms=norms)


def with_resolved_ties(model: ModelSummary) -> ModelSummary:
    """Returns the model with every tie pointing to the first name of its parameter: ``c → b`` and ``b → a`` become ``c → a``.

    Raises:
        SpecError: a tie names an unknown parameter, forms a circle, or joins parameters of different shape or ``requires_grad``.
    """
    parameters = {p.name: p for p in model.parameters}
    sources = {tie.parameter: tie.source for tie in model.ties}
    ties = []
    for tie in model.ties:
        source, visited = tie.source, {tie.parameter}
        while source in sources and source not in visited:
            visited.add(source)
            source = sources[source]
        for name in (tie.parameter, source):
            if name not in parameters:
                raise SpecError("model.name", f"{model.name} ties {tie.parameter} to {tie.source}, but has no parameter {name}")
        if source in visited:
            raise SpecError("model.name", f"{model.name} ties {tie.parameter} to itself; use another source")
        tied, first = parameters[tie.parameter], parameters[source]
        if tied.shape != first.shape or tied.requires_grad != first.requires_grad:
            attribute = "shape" if tied.shape != first.shape else "requires_grad"
            values = getattr(tied, attribute), getattr(first, attribute)
            raise SpecError(
                "model.name",
                f"{model.name} ties {tie.parameter} to {source}, but their {attribute} differs: {values[0]} and {values[1]}",
            )
        ties.append(Tie(tie.parameter, source))
    return replace(model, ties=tuple(dict.fromkeys(ties)))


def with_ends_of_backward(model: ModelSummary) -> ModelSummary:
    """Returns the model with the first pairs of layers marked like those that take samples, if nothing before them is trained:
    their inputs have no gradient. Parameters are taken in the order of the model."""
    names = [p.name for p in model.parameters]
    first = next((i for i, p in enumerate(model.parameters) if p.has_gradient), len(names))
    if all(p.has_gradient for p in model.parameters):
        return model

    def marked(group: LayerGroup) -> LayerGroup:
        if not isinstance(group, ColumnRowPair) or group.column is None:
            return group
        reached = any(name.rpartition(".")[0] != group.column for name in names[first : names.index(f"{group.column}.weight")])
        return group if reached else replace(group, takes_samples=True)

    return replace(model, groups=tuple(map(marked, model.groups)))


def with_experts(model: ModelSummary, split: ExpertSplit) -> ModelSummary:
    """Returns a user's model with the mixtures that can be divided. Of an expert that no token of a few samples chose, the
    parameters are used as those of the others."""
    alike = [names for mixture in split.mixtures for names in zip(*mixture.parameters, strict=True)]
    used = {p.name for p in model.parameters if p.is_used}
    used |= {name for names in alike if used.intersection(names) for name in names}

    def marked(block: BlockSummary) -> BlockSummary:
        return replace(block, parameters=tuple(replace(p, is_used=p.name in used) for p in block.parameters))

    return replace(model, blocks=tuple(map(marked, model.blocks)), experts=split, kept=None)


def block_of(path: str) -> str:
    """Returns the name of the block that a layer or parameter belongs to."""
    return path.split(".", 1)[0]


def linear_parameters(layer: str, in_features: int, out_features: int, bias: bool = True) -> tuple[ParameterSummary, ...]:
    """Returns the weight and bias of an ``nn.Linear``."""
    weight = ParameterSummary(f"{layer}.weight", (out_features, in_features))
    return (weight, ParameterSummary(f"{layer}.bias", (out_features,))) if bias else (weight,)
