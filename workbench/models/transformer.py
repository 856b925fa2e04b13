"""A decoder-only transformer: token embedding, pre-norm layers, linear head. GPT-2's layout by default, Llama's by options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import PositiveFloat, PositiveInt

from workbench.errors import SpecError
from workbench.models.base import Dropout, Model, model
from workbench.models.layer_formulas import LayerShape, Part
from workbench.models.presets import TRANSFORMER
from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.model_summary import BlockSummary, ModelSummary, ParameterSummary, Tie
from workbench.spec.options import AppliesIf, Count, ModelOptions, NoCost

if TYPE_CHECKING:
    from torch import nn

    from workbench.data.base import DatasetSummary


class TransformerOptions(ModelOptions):
    presets: ClassVar = TRANSFORMER

    name: Literal["transformer"] = "transformer"

    num_layers: Count = 4
    """Number of decoder layers."""

    hidden_dim: PositiveInt = 128
    """Number of features per position."""

    num_heads: PositiveInt = 4
    """Number of attention heads; must divide hidden_dim."""

    num_kv_heads: PositiveInt | None = None
    """Number of key/value heads (grouped-query attention); must divide num_heads, which is the default."""

    feedforward_dim: PositiveInt = 512
    """Number of features inside the feed-forward network of each layer."""

    feedforward: Literal["gelu", "gated"] = "gelu"
    """Feed-forward network: two linear layers with GELU or SwiGLU (silu(gate) × value) between them."""

    positions: Literal["learned", "rotary"] = "learned"
    """Position encoding: learned embeddings, or rotary embeddings of queries and keys."""

    rotary_base: Annotated[PositiveFloat, NoCost, AppliesIf("positions", ("rotary",))] = 10_000.0
    """Base of the rotary embedding frequencies (rotary)."""

    norm: Literal["layer", "rms"] = "layer"
    """Layer norm or RMS norm."""

    bias: bool = True
    """Whether linear layers and layer norms have biases."""

    tied_head: bool = False
    """Whether the head and the token embedding share their weight."""

    dropout: Dropout = 0.0
    """Dropout probability of the embedding and of the outputs of attention and the feed-forward network; attention weights have
    no dropout."""


SMALL = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "feedforward_dim": 32}
SHORT_TEXT = {"name": "text", "sequence_length": 16}

O = TypeVar("O", bound=TransformerOptions)


@model("transformer")
class Transformer(Model[O]):
    """Decoder-only transformer that predicts the next token; GPT-2's layout by default."""

    Options = TransformerOptions
    default_dataset = "text"
    examples = {
        "": {"model": SMALL, "dataset": SHORT_TEXT},
        "tied": {"model": {**SMALL, "tied_head": True}, "dataset": SHORT_TEXT},
        "llama-like": {
            "model": {**SMALL, "num_heads": 4, "num_kv_heads": 2, "feedforward_dim": 24, "feedforward": "gated",
                      "positions": "rotary", "norm": "rms", "bias": False, "dropout": 0.1},
            "dataset": SHORT_TEXT,
        },
        "deep": {"model": {**SMALL, "num_layers": 6}, "dataset": SHORT_TEXT},
    }  # fmt: skip

    def __init__(self, options: O, data: DatasetSummary) -> None:
        data.require(self.name, {"tokens": ("next",)}, "text or synthetic")
        o = options
        self.shape = LayerShape(
            sequence=data.input_shape[0],
            hidden_dim=o.hidden_dim,
            num_heads=o.num_heads,
            num_kv_heads=o.num_kv_heads or o.num_heads,
            feedforward_dim=o.feedforward_dim,
            feedforward_kind=o.feedforward,
            norm_kind=o.norm,
            bias=o.bias,
            is_rotary=o.positions == "rotary",
        )
        self.shape.check_heads()
        head_dim = o.hidden_dim // o.num_heads
        if o.positions == "rotary" and head_dim % 2:
            raise SpecError("model.positions", f"rotary requires an even number of features per head, but got {head_dim}")
        super().__init__(options, data)

    @property
    def has_cache(self) -> bool:
        return True

    def summary(self) -> ModelSummary:
        o, (sequence,), vocabulary = self.options, self.data.input_shape, self.data.num_classes
        hidden, shape, output = o.hidden_dim, self.shape.shape, (sequence, vocabulary)
        token = ParameterSummary("embedding.token.weight", (vocabulary, hidden))
        position = (ParameterSummary("embedding.position", shape),) if o.positions == "learned" else ()
        head = (*self.shape.norm("head.norm"), ParameterSummary("head.projection.weight", (vocabulary, hidden)))
        names = [f"layer{i}" for i in range(o.num_layers)]
        layers = [self.shape.layer(name, self.feedforward(f"{name}.feedforward")) for name in names]
        blocks = (
            BlockSummary("embedding", (token, *position), shape, 0),
            *(block for block, _ in layers),
            BlockSummary("head", head, output, 2 * sequence * hidden * vocabulary),
        )
        groups = (
            ColumnRowPair("embedding", None, "embedding.token", vocabulary, "vocabulary entries", (sequence,), shape),
            *(group for _, groups in layers for group in groups),
            ColumnRowPair("head", "head.projection", None, vocabulary, "vocabulary entries", shape, output),
        )
        ties = (Tie("head.projection.weight", "embedding.token.weight"),) if o.tied_head else ()
        return ModelSummary(self.name, blocks, groups, ties, sequence_length=sequence)

    def kept_bytes(self, held: BlockSummary, positions: int | None, element_bytes: int, checkpointing: str) -> int | None:
        """Returns the saved bytes as derived in docs/memory.md. Token table and head are whole or cut by vocabulary."""
        assert positions is not None
        hidden, shapes = self.options.hidden_dim, {p.name: p.shape for p in held.parameters}
        if checkpointing == "selective":
            return None
        if held.name == "head":
            vocabulary = held.output_shape[-1]
            if vocabulary != self.data.num_classes or shapes["head.projection.weight"][1] != hidden:
                return None  # the loss is computed from slices, or every worker has partial sums of all scores
            inputs = 0 if checkpointing == "full" else hidden * element_bytes + self.shape.statistics_bytes(element_bytes)
            return positions * (inputs + vocabulary * element_bytes)  # the loss saves the log-probabilities
        outputs = held.output_shape[0] * hidden * element_bytes
        if held.name == "embedding":
            return outputs if shapes["embedding.token.weight"][1] == hidden else None
        return outputs if checkpointing == "full" else outputs + self.shape.kept_bytes(held, positions, element_bytes)

    def build_block(self, block: str) -> nn.Module:
        from workbench.models import transformer_modules as modules

        o, (sequence,), vocabulary = self.options, self.data.input_shape, self.data.num_classes

        def norm() -> nn.Module:
            return modules.make_norm(o.norm, o.hidden_dim, o.bias)

        if block == "embedding":
            return modules.Embedding(vocabulary, o.hidden_dim, sequence if o.positions == "learned" else None, o.dropout)
        if block == "head":
            return modules.Head(norm(), o.hidden_dim, vocabulary)
        attention = modules.Attention(
            o.hidden_dim,
            o.num_heads,
            self.shape.num_kv_heads,
            modules.causal_attention,
            bias=o.bias,
            rotary=modules.Rotary(o.rotary_base) if o.positions == "rotary" else None,
        )
        return modules.Layer(attention, self.build_feedforward(), norm, o.dropout)

    def feedforward(self, name: str) -> Part:
        """Returns the feed-forward network of a layer by formula."""
        return self.shape.feedforward(name)

    def build_feedforward(self) -> nn.Module:
        """Returns the feed-forward network of a layer."""
        from workbench.models.transformer_modules import FeedForward

        o = self.options
        return FeedForward(o.hidden_dim, o.feedforward_dim, o.feedforward, bias=o.bias)
