"""What a model is to the planner: blocks, parameters, shapes and FLOPs by formula, with nothing built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil, prod

from workbench.errors import SpecError
from workbench.plan.layer_groups import LayerGroup


@dataclass(frozen=True)
class ParameterSummary:
    """One parameter of the unsplit model."""

    name: str
    """Full name, beginning with its block's: ``layer0.attention.qkv.weight``."""

    shape: tuple[int, ...]

    is_replicated: bool = True
    """Whether all replicas hold it and average its gradient; not so of experts that are divided among them."""

    requires_grad: bool = True
    """Whether training updates it; False of a frozen one."""

    is_used: bool = True
    """Whether the loss depends on it; a parameter that the forward pass leaves out has no gradient."""

    @property
    def has_gradient(self) -> bool:
        """Whether a backward pass gives it a gradient, and the optimizer state."""
        return self.requires_grad and self.is_used

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

    backward_flops: int | None = None
    """The same of its backward pass; None: twice the forward pass (Kaplan et al. 2020, section 2.1), without the products
    that frozen parameters spare (``ModelSummary.backward_flops``)."""

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
class Mixture:
    """A layer whose router sends every token to a few of its experts, a ``MixtureOfExperts`` at ``path``."""

    path: str
    num_experts: int
    tokens_per_sample: int
    top_k: int
    """Experts that each token takes, all different."""

    hidden_dim: int
    """Features of a token."""

    capacity_factor: float | None
    """An expert takes at most this times an even share of the assignments of each forward pass; None: all."""

    def num_sent(self, num_samples: int) -> tuple[int, bool]:
        """The most assignments of a token to an expert that a forward pass can serve, and whether it may be fewer: where an
        expert has not room for every token."""
        tokens = num_samples * self.tokens_per_sample
        capacity = tokens
        if self.capacity_factor is not None:
            capacity = ceil(self.capacity_factor * tokens * self.top_k / self.num_experts)
        return min(tokens * self.top_k, capacity * self.num_experts), capacity < tokens


@dataclass(frozen=True)
class BatchNorm:
    """A layer whose statistics are taken over the samples of a batch."""

    path: str
    num_features: int
    """Channels, each with statistics of its own."""


@dataclass(frozen=True)
class ModelSummary:
    """A model, or the part of it that one worker holds."""

    name: str
    blocks: tuple[BlockSummary, ...]
    groups: tuple[LayerGroup, ...] = ()
    """Layers that tensor slicing can cut."""

    ties: tuple[Tie, ...] = ()

    mixtures: tuple[Mixture, ...] = ()
    """Layers made of experts, which can live on different workers."""

    batch_norms: tuple[BatchNorm, ...] = ()
    """Layers whose statistics replicas can compute together."""

    sequence_length: int | None = None
    """Positions of a sample, where these are dim 0 of every shape, per sample, and causal attention alone mixes them, so
    that the sequence can be split; None: it cannot."""

    steps_through_time: bool = False
    """Whether a sequence, dim 0 of every shape, can be worked through in chunks: a block that mixes positions has
    ``forward_with_state(x, state)`` and hands what it carries from one chunk to the next, the others take each position
    by itself."""

    def __post_init__(self) -> None:
        for field in ("blocks", "groups", "ties", "mixtures"):  # a generator would be empty when it is read again
            object.__setattr__(self, field, tuple(getattr(self, field)))

    @property
    def parameters(self) -> tuple[ParameterSummary, ...]:
        """All parameters, a tied one under each of its names."""
        return tuple(p for block in self.blocks for p in block.parameters)

    @property
    def tied_names(self) -> dict[str, tuple[str, ...]]:
        """Of each parameter with several names its source → all of them, the source first."""
        names: dict[str, tuple[str, ...]] = {}
        for tie in self.ties:
            names[tie.source] = (*names.get(tie.source, (tie.source,)), tie.parameter)
        return names

    @property
    def distinct_parameters(self) -> tuple[ParameterSummary, ...]:
        """The parameters, a tied one once: under its source's name, or the first that is held."""
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
        """The distinct parameters that are to be trained, but have no gradient."""
        return tuple(p for p in self.distinct_parameters if p.requires_grad and not p.is_used)

    @property
    def first_trained_block(self) -> int:
        """Index of the first block with a gradient: backward passes end there. The number of blocks if none has one."""
        trains = (i for i, block in enumerate(self.blocks) if any(p.has_gradient for p in block.parameters))
        return next(trains, len(self.blocks))

    @property
    def backward_flops(self) -> int:
        """Floating-point operations of one sample's backward pass: none before the first trained block, and of a block that
        is frozen as a whole the gradients of its inputs alone."""
        total = 0
        for block in self.blocks[self.first_trained_block :]:
            is_frozen = block.parameters and not any(p.has_gradient for p in block.parameters)
            of_block = block.forward_flops * (1 if is_frozen else 2)
            total += of_block if block.backward_flops is None else block.backward_flops
        return total

    @property
    def num_parameters(self) -> int:
        """Elements held; a tied parameter counts once where both its names are held."""
        return sum(p.numel for p in self.distinct_parameters)

    def only_trained(self) -> ModelSummary:
        """The same blocks with the parameters that have a gradient alone."""
        blocks = (replace(b, parameters=tuple(p for p in b.parameters if p.has_gradient)) for b in self.blocks)
        return replace(self, blocks=tuple(blocks))

    def with_blocks(self, names: Iterable[str]) -> ModelSummary:
        """The part made of these blocks."""
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


def block_of(path: str) -> str:
    """Name of the block that a layer or parameter belongs to."""
    return path.split(".", 1)[0]


def linear_parameters(layer: str, in_features: int, out_features: int, bias: bool = True) -> tuple[ParameterSummary, ...]:
    """Weight and bias of an ``nn.Linear``."""
    weight = ParameterSummary(f"{layer}.weight", (out_features, in_features))
    return (weight, ParameterSummary(f"{layer}.bias", (out_features,))) if bias else (weight,)
