"""A transformer layer by formula: parameters, FLOPs and what tensor slicing can cut, for every model made of such layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from workbench.errors import SpecError
from workbench.plan.layer_groups import ColumnRowPair, LayerGroup
from workbench.plan.model_summary import BlockSummary, ParameterSummary, linear_parameters


class Part(NamedTuple):
    """A part of a layer, or the whole."""

    parameters: tuple[ParameterSummary, ...]
    forward_flops: int
    """Of one sample, matrix products only, 2 per multiply-add."""
    groups: tuple[LayerGroup, ...]


@dataclass(frozen=True)
class LayerShape:
    """The sizes of a pre-norm layer, x + attention(norm(x)) and then x + feedforward(norm(x))."""

    sequence: int
    hidden_dim: int
    num_heads: int
    num_kv_heads: int
    feedforward_dim: int
    feedforward_kind: Literal["gelu", "gated"] = "gelu"
    norm_kind: Literal["layer", "rms"] = "layer"
    bias: bool = True
    is_rotary: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Of what passes through, per sample."""
        return self.sequence, self.hidden_dim

    @property
    def up_dim(self) -> int:
        """Output features of the feed-forward part's ``up``."""
        return self.feedforward_dim * (2 if self.feedforward_kind == "gated" else 1)

    def check_heads(self) -> None:
        """Raises:
        SpecError: the heads do not divide what they share.
        """
        hidden, heads, kv_heads = self.hidden_dim, self.num_heads, self.num_kv_heads
        if hidden % heads:
            raise SpecError("model.num_heads", f"hidden_dim {hidden} is not divisible by {heads} heads")
        if heads % kv_heads:
            raise SpecError("model.num_kv_heads", f"{heads} heads are not divisible by {kv_heads} key/value heads")

    def norm(self, name: str) -> tuple[ParameterSummary, ...]:
        """Parameters of the norm called ``name``."""
        weight = ParameterSummary(f"{name}.weight", (self.hidden_dim,))
        bias = ParameterSummary(f"{name}.bias", (self.hidden_dim,))
        return (weight, bias) if self.bias and self.norm_kind == "layer" else (weight,)

    def attention(self, name: str) -> Part:
        """The projections, then scores and weighted values over the full square, as computed (Kaplan et al. 2020, table 1)."""
        hidden, kv_dim = self.hidden_dim, self.hidden_dim // self.num_heads * self.num_kv_heads
        parameters = (
            *linear_parameters(f"{name}.qkv", hidden, hidden + 2 * kv_dim, self.bias),
            *linear_parameters(f"{name}.output", hidden, hidden, self.bias),
        )
        flops = 2 * self.sequence * hidden * (2 * hidden + 2 * kv_dim) + 4 * self.sequence**2 * hidden
        width_name = "heads" if self.num_kv_heads == self.num_heads else "key/value heads"
        pair = ColumnRowPair("attention", f"{name}.qkv", f"{name}.output", self.num_kv_heads, width_name, self.shape, self.shape)
        return Part(parameters, flops, (pair,))

    def feedforward(self, name: str) -> Part:
        """Up and down (Kaplan et al. 2020, table 1); a gated one has two ups (Shazeer 2020)."""
        hidden, inner = self.hidden_dim, self.feedforward_dim
        parameters = (
            *linear_parameters(f"{name}.up", hidden, self.up_dim, self.bias),
            *linear_parameters(f"{name}.down", inner, hidden, self.bias),
        )
        pair = ColumnRowPair("feedforward", f"{name}.up", f"{name}.down", inner, "hidden features", self.shape, self.shape)
        return Part(parameters, 2 * self.sequence * hidden * (self.up_dim + inner), (pair,))

    def statistics_bytes(self, element_bytes: int) -> int:
        """What a norm keeps of a position beside its input: mean and deviation; torch's root-mean-square norm for CPU
        (2.13), made of several operations, the latter and what it divided by it."""
        return max(4, element_bytes) * 2 if self.norm_kind == "layer" else max(4, element_bytes) + self.hidden_dim * element_bytes

    def kept_bytes(self, held: BlockSummary, positions: int, element_bytes: int) -> int:
        """What a layer's forward pass of one sample keeps for backward beside its output (Korthikanti et al. 2022, section
        4.1, without masks of dropout, which backward computes again, and with attention that keeps no scores: Dao et al.
        2022): inputs of norms and linear maps, of the activation, and of attention with what it gives. ``held`` tells what is
        cut; ``positions`` are those that the cut layers compute, of norms and residuals it may be fewer."""
        shape = {p.name.removeprefix(f"{held.name}."): p.shape for p in held.parameters}
        qkv, up, inner = (shape[f"{layer}.weight"] for layer in ("attention.qkv", "feedforward.up", "feedforward.down"))
        head_dim, between = self.hidden_dim // self.num_heads, held.output_shape[0]
        heads = self.num_heads * qkv[0] // (head_dim * (self.num_heads + 2 * self.num_kv_heads))
        kv_heads = heads * self.num_kv_heads // self.num_heads
        elements = between * self.hidden_dim  # after attention
        elements += positions * 2 * self.hidden_dim  # what norms give
        elements += positions * (qkv[0] + heads * head_dim)  # q, k and v; what attention gives
        if self.is_rotary:
            elements += positions * (heads + kv_heads) * head_dim  # turned q and k; cosines and sines are of no sample
        elif 1 < kv_heads < heads:
            elements += positions * heads * head_dim  # q, which does not lie together; of one group it does
        elements += positions * (up[0] + inner[1] * (2 if self.feedforward_kind == "gated" else 1))
        statistics = 2 * between * self.statistics_bytes(element_bytes)
        return elements * element_bytes + statistics + positions * heads * max(4, element_bytes)

    def layer(self, name: str, feedforward: Part) -> tuple[BlockSummary, tuple[LayerGroup, ...]]:
        """The layer as a block, and its groups."""
        attention = self.attention(f"{name}.attention")
        parameters = (
            *self.norm(f"{name}.attention_norm"),
            *attention.parameters,
            *self.norm(f"{name}.feedforward_norm"),
            *feedforward.parameters,
        )
        flops = attention.forward_flops + feedforward.forward_flops
        return BlockSummary(name, parameters, self.shape, flops), attention.groups + feedforward.groups
