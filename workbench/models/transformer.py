"""A decoder-only transformer in the manner of GPT-2: token and position embeddings, pre-norm layers, a linear head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from workbench.errors import SpecError
from workbench.models.base import Model, model
from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.summary import (
    BlockSummary,
    ModelSummary,
    ParameterSummary,
    Tie,
    linear_parameters,
)
from workbench.spec.options import ModelOptions

if TYPE_CHECKING:
    from torch import nn

    from workbench.data.base import DatasetSummary


class TransformerOptions(ModelOptions):
    name: Literal["transformer"] = "transformer"

    num_layers: PositiveInt = 4
    """Decoder layers."""

    hidden_dim: PositiveInt = 128
    """Features of each position."""

    num_heads: PositiveInt = 4
    """Attention heads; divides hidden_dim."""

    feedforward_dim: PositiveInt = 512
    """Features inside each layer's feed-forward part."""

    tied_head: bool = False
    """Whether the head uses the token embedding's weight."""


@model("transformer")
class Transformer(Model[TransformerOptions]):
    """Decoder-only transformer (GPT-2's layout) that predicts the next token."""

    Options = TransformerOptions
    default_dataset = "text"

    def __init__(self, options: TransformerOptions, data: DatasetSummary) -> None:
        if data.kind != "tokens":
            raise SpecError("dataset.name", f"gives {data.kind}, but transformer takes tokens; use text or synthetic")
        if options.hidden_dim % options.num_heads:
            raise SpecError(
                "model.num_heads",
                f"hidden_dim {options.hidden_dim} does not divide into {options.num_heads} heads",
            )
        super().__init__(options, data)

    def summary(self) -> ModelSummary:
        o, (sequence,), vocabulary = self.options, self.data.input_shape, self.data.num_classes
        hidden, inner, shape = o.hidden_dim, o.feedforward_dim, (sequence, o.hidden_dim)
        token = ParameterSummary("embedding.token.weight", (vocabulary, hidden))
        position = ParameterSummary("embedding.position", (sequence, hidden))
        blocks = [BlockSummary("embedding", (token, position), shape, 0)]
        pairs = [ColumnRowPair("embedding", None, "embedding.token", vocabulary, "vocabulary entries", (sequence,), shape)]
        for i in range(o.num_layers):
            layer = f"layer{i}"
            parameters = (
                *_norm_parameters(f"{layer}.attention_norm", hidden),
                *linear_parameters(f"{layer}.attention.qkv", hidden, 3 * hidden),
                *linear_parameters(f"{layer}.attention.output", hidden, hidden),
                *_norm_parameters(f"{layer}.feedforward_norm", hidden),
                *linear_parameters(f"{layer}.feedforward.up", hidden, inner),
                *linear_parameters(f"{layer}.feedforward.down", inner, hidden),
            )
            # Kaplan et al. 2020, table 1: projections, then scores and weighted values (the full square, as computed).
            flops = 2 * sequence * hidden * (4 * hidden + 2 * inner) + 4 * sequence * sequence * hidden
            blocks.append(BlockSummary(layer, parameters, shape, flops))
            pairs += [
                ColumnRowPair(
                    "attention", f"{layer}.attention.qkv", f"{layer}.attention.output", o.num_heads, "heads", shape, shape
                ),
                ColumnRowPair(
                    "feedforward",
                    f"{layer}.feedforward.up",
                    f"{layer}.feedforward.down",
                    inner,
                    "hidden features",
                    shape,
                    shape,
                ),
            ]
        head = (
            *_norm_parameters("head.norm", hidden),
            ParameterSummary("head.projection.weight", (vocabulary, hidden)),
        )
        output = (sequence, vocabulary)
        blocks.append(BlockSummary("head", head, output, 2 * sequence * hidden * vocabulary))
        pairs.append(ColumnRowPair("head", "head.projection", None, vocabulary, "vocabulary entries", shape, output))
        ties = (Tie("head.projection.weight", "embedding.token.weight"),) if o.tied_head else ()
        return ModelSummary(self.name, tuple(blocks), tuple(pairs), ties)

    def build_block(self, block: str) -> nn.Module:
        from workbench.models.transformer_modules import DecoderLayer, Embedding, Head

        o, (sequence,), vocabulary = self.options, self.data.input_shape, self.data.num_classes
        if block == "embedding":
            return Embedding(vocabulary, sequence, o.hidden_dim)
        if block == "head":
            return Head(o.hidden_dim, vocabulary)
        return DecoderLayer(o.hidden_dim, o.num_heads, o.feedforward_dim)


def _norm_parameters(layer: str, features: int) -> tuple[ParameterSummary, ...]:
    return (ParameterSummary(f"{layer}.weight", (features,)), ParameterSummary(f"{layer}.bias", (features,)))
