"""A transformer layer by formula: parameters, FLOPs and what tensor slicing can cut, for every model made of such layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from workbench.errors import SpecError
from workbench.plan.layer_groups import ColumnRowPair, LayerGroup
from workbench.plan.summary import BlockSummary, ParameterSummary, linear_parameters


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
            raise SpecError("model.num_heads", f"hidden_dim {hidden} does not divide into {heads} heads")
        if heads % kv_heads:
            raise SpecError("model.num_kv_heads", f"{heads} heads do not divide into {kv_heads} groups, one a key/value head")

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
