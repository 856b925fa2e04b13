"""A multilayer perceptron with residual layers, for feature vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from workbench.models.base import Dropout, Model, model
from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.model_summary import BlockSummary, ModelSummary, linear_parameters
from workbench.spec.options import Count, ModelOptions

if TYPE_CHECKING:
    from torch import nn

    from workbench.data.base import DatasetSummary


class MLPOptions(ModelOptions):
    name: Literal["mlp"] = "mlp"

    num_layers: Count = 4
    """Number of residual layers between the input and the head."""

    hidden_dim: PositiveInt = 256
    """Number of features of the residual stream."""

    feedforward_dim: PositiveInt = 1024
    """Number of features between the two linear layers of each residual layer."""

    dropout: Dropout = 0.0
    """Dropout probability of the output of each residual layer."""


@model("mlp")
class MLP(Model[MLPOptions]):
    """Linear input, residual layers x + dropout(down(gelu(up(x)))), linear head; classifies feature vectors, or predicts
    numbers from them."""

    Options = MLPOptions
    default_dataset = "digits"
    examples = {
        "": {"model": {"num_layers": 2, "hidden_dim": 16, "feedforward_dim": 32}},
        "dropout": {"model": {"num_layers": 2, "hidden_dim": 16, "feedforward_dim": 32, "dropout": 0.2}},
    }

    def __init__(self, options: MLPOptions, data: DatasetSummary) -> None:
        data.require("mlp", {"features": ("class", "values")}, "digits or synthetic")
        super().__init__(options, data)

    def summary(self) -> ModelSummary:
        o, features, classes = self.options, self.data.input_shape[0], self.data.num_outputs
        hidden, inner = o.hidden_dim, o.feedforward_dim
        blocks = [_linear_block("input", "projection", features, hidden)]
        for i in range(o.num_layers):
            parameters = linear_parameters(f"layer{i}.up", hidden, inner) + linear_parameters(f"layer{i}.down", inner, hidden)
            blocks.append(BlockSummary(f"layer{i}", parameters, (hidden,), 4 * hidden * inner))
        blocks.append(_linear_block("head", "projection", hidden, classes))
        pairs = [
            ColumnRowPair("feedforward", f"layer{i}.up", f"layer{i}.down", inner, "hidden features", (hidden,), (hidden,))
            for i in range(o.num_layers)
        ]
        return ModelSummary(self.name, tuple(blocks), tuple(pairs))

    def build_block(self, block: str) -> nn.Module:
        from workbench.models.mlp_modules import Projection, ResidualLayer

        if block == "input":
            return Projection(self.data.input_shape[0], self.options.hidden_dim)
        if block == "head":
            return Projection(self.options.hidden_dim, self.data.num_outputs)
        return ResidualLayer(self.options.hidden_dim, self.options.feedforward_dim, self.options.dropout)


def _linear_block(block: str, layer: str, in_features: int, out_features: int) -> BlockSummary:
    parameters = linear_parameters(f"{block}.{layer}", in_features, out_features)
    return BlockSummary(block, parameters, (out_features,), 2 * in_features * out_features)
