"""Formulas of a transformer layer: parameters, FLOPs and layer groups for tensor slicing, for every model with such layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from workbench.errors import SpecError
from workbench.plan.layer_groups import ColumnRowPair, LayerGroup
from workbench.plan.model_summary import BlockSummary, ParameterSummary, linear_parameters


class Part(NamedTuple):
    """A part of a layer, or the whole layer."""

    parameters: tuple[ParameterSummary, ...]
    forward_flops: int
    """FLOPs of the forward pass of one sample, matrix products only (2 per multiply-add)."""
    groups: tuple[LayerGroup, ...]


@dataclass(frozen=True)
class LayerShape:
    """Sizes of a pre-norm layer: x + attention(norm(x)), then x + feedforward(norm(x))."""

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
        """Shape of the activation, per sample."""
        return self.sequence, self.hidden_dim

    @property
    def up_dim(self) -> int:
        """Number of output features of ``up`` in the feed-forward network."""
        return self.feedforward_dim * (2 if self.feedforward_kind == "gated" else 1)

    def check_heads(self) -> None:
        """Checks that the numbers of heads are divisible.

        Raises:
            SpecError: they are not.
        """
        hidden, heads, kv_heads = self.hidden_dim, self.num_heads, self.num_kv_heads
        if hidden % heads:
            raise SpecError("model.num_heads", f"hidden_dim {hidden} is not divisible by {heads} heads")
        if heads % kv_heads:
            raise SpecError("model.num_kv_heads", f"{heads} heads are not divisible by {kv_heads} key/value heads")

    def norm(self, name: str) -> tuple[ParameterSummary, ...]:
        """Returns the parameters of the norm ``name``."""
        weight = ParameterSummary(f"{name}.weight", (self.hidden_dim,))
        bias = ParameterSummary(f"{name}.bias", (self.hidden_dim,))
        return (weight, bias) if self.bias and self.norm_kind == "layer" else (weight,)

    def attention(self, name: str) -> Part:
        """Returns the attention: projections, scores and weighted values over the full square, as computed (Kaplan et al. 2020,
        table 1)."""
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
        """Returns the feed-forward network: up and down (Kaplan et al. 2020, table 1); a gated one has two up projections
        (Shazeer 2020)."""
        hidden, inner = self.hidden_dim, self.feedforward_dim
        parameters = (
            *linear_parameters(f"{name}.up", hidden, self.up_dim, self.bias),
            *linear_parameters(f"{name}.down", inner, hidden, self.bias),
        )
        pair = ColumnRowPair("feedforward", f"{name}.up", f"{name}.down", inner, "hidden features", self.shape, self.shape)
        return Part(parameters, 2 * self.sequence * hidden * (self.up_dim + inner), (pair,))

    def statistics_bytes(self, element_bytes: int) -> int:
        """Returns the bytes that a norm saves per position besides its input: mean and deviation in layer norm; in torch's RMS
        norm for CPU (2.13), which consists of several operations, the deviation and the normalized input."""
        return max(4, element_bytes) * 2 if self.norm_kind == "layer" else max(4, element_bytes) + self.hidden_dim * element_bytes

    def kept_bytes(self, held: BlockSummary, positions: int, element_bytes: int) -> int:
        """Returns the bytes that the forward pass of a layer saves for backward besides its output, per sample: inputs of norms,
        linear layers and the activation, and inputs and output of attention (Korthikanti et al. 2022, section 4.1, without
        dropout masks, which backward recomputes, and with attention that saves no scores: Dao et al. 2022).

        Args:
            held: The layer on a worker, with its parameters cut.
            positions: Number of positions that the cut layers compute; norms and residual connections may have fewer.
        """
        shape = {p.name.removeprefix(f"{held.name}."): p.shape for p in held.parameters}
        qkv, up, inner = (shape[f"{layer}.weight"] for layer in ("attention.qkv", "feedforward.up", "feedforward.down"))
        head_dim, between = self.hidden_dim // self.num_heads, held.output_shape[0]
        heads = self.num_heads * qkv[0] // (head_dim * (self.num_heads + 2 * self.num_kv_heads))
        kv_heads = heads * self.num_kv_heads // self.num_heads
        elements = between * self.hidden_dim  # after attention
        elements += positions * 2 * self.hidden_dim  # outputs of norms
        elements += positions * (qkv[0] + heads * head_dim)  # q, k, v and the output of attention
        if self.is_rotary:
            elements += positions * (heads + kv_heads) * head_dim  # rotated q and k; cosines and sines are shared by all samples
        elif 1 < kv_heads < heads:
            elements += positions * heads * head_dim  # a contiguous copy of q; with one group it is contiguous already
        elements += positions * (up[0] + inner[1] * (2 if self.feedforward_kind == "gated" else 1))
        statistics = 2 * between * self.statistics_bytes(element_bytes)
        return elements * element_bytes + statistics + positions * heads * max(4, element_bytes)

    def layer(self, name: str, feedforward: Part) -> tuple[BlockSummary, tuple[LayerGroup, ...]]:
        """Returns the layer as a block, and its layer groups."""
        attention = self.attention(f"{name}.attention")
        parameters = (
            *self.norm(f"{name}.attention_norm"),
            *attention.parameters,
            *self.norm(f"{name}.feedforward_norm"),
            *feedforward.parameters,
        )
        flops = attention.forward_flops + feedforward.forward_flops
        return BlockSummary(name, parameters, self.shape, flops), attention.groups + feedforward.groups
