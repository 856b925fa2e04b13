"""A recurrent network, LSTM or GRU: continues token sequences or series of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveInt

from workbench.models.base import Dropout, Model, model
from workbench.plan.layer_groups import ColumnRowPair, LayerGroup, RecurrentLayer
from workbench.plan.model_summary import BlockSummary, ModelSummary, ParameterSummary, linear_parameters
from workbench.spec.options import Count, ModelOptions

if TYPE_CHECKING:
    from torch import nn

    from workbench.data.base import DatasetSummary


class LSTMOptions(ModelOptions):
    name: Literal["lstm"] = "lstm"

    cell: Literal["lstm", "gru"] = "lstm"
    """Recurrent cell: LSTM (Hochreiter and Schmidhuber 1997) or GRU (Cho et al. 2014)."""

    num_layers: Count = 2
    """Number of recurrent layers."""

    hidden_dim: PositiveInt = 128
    """Number of hidden units per layer."""

    dropout: Dropout = 0.0
    """Dropout probability of the outputs of each recurrent layer (Zaremba et al. 2014)."""


@model("lstm")
class LSTM(Model[LSTMOptions]):
    """Recurrent layers (LSTM or GRU) between an embedding and a head; predicts the next token or the next value."""

    Options = LSTMOptions
    default_dataset = "text"
    examples = {
        "": {"model": {"num_layers": 2, "hidden_dim": 16}, "dataset": {"name": "text", "sequence_length": 16}},
        "gru of a series": {
            "model": {"cell": "gru", "num_layers": 2, "hidden_dim": 16, "dropout": 0.2},
            "dataset": {"name": "sunspots", "length": 16},
        },
    }

    def __init__(self, options: LSTMOptions, data: DatasetSummary) -> None:
        data.require("lstm", {"tokens": ("next",), "series": ("next",)}, "text, sunspots or synthetic")
        super().__init__(options, data)

    @property
    def _output_dim(self) -> int:
        return self.data.num_outputs

    def summary(self) -> ModelSummary:
        o, sequence, hidden, outputs = self.options, self.data.input_shape[0], self.options.hidden_dim, self._output_dim
        shape, head = (sequence, hidden), linear_parameters("head.projection", hidden, outputs)
        groups: list[LayerGroup] = []
        if self.data.kind == "tokens":
            token = ParameterSummary("input.token.weight", (outputs, hidden))
            blocks = [BlockSummary("input", (token,), shape, 0)]
            entries = "vocabulary entries"
            groups = [
                ColumnRowPair("embedding", None, "input.token", outputs, entries, (sequence,), shape),
                ColumnRowPair("head", "head.projection", None, outputs, entries, shape, (sequence, outputs)),
            ]
        else:
            projection = linear_parameters("input.projection", outputs, hidden)
            blocks = [BlockSummary("input", projection, shape, 2 * sequence * outputs * hidden)]
        for i in range(o.num_layers):
            layer = RecurrentLayer("recurrent", f"layer{i}", o.cell, sequence, hidden, hidden)
            features = layer.num_gates * hidden
            parameters = (
                ParameterSummary(f"layer{i}.input_weight", (features, hidden)),
                ParameterSummary(f"layer{i}.hidden_weight", (features, hidden)),
                ParameterSummary(f"layer{i}.input_bias", (features,)),
                ParameterSummary(f"layer{i}.hidden_bias", (features,)),
            )
            blocks.append(BlockSummary(f"layer{i}", parameters, shape, 4 * sequence * features * hidden))
            groups.append(layer)
        blocks.append(BlockSummary("head", head, (sequence, outputs), 2 * sequence * hidden * outputs))
        return ModelSummary(self.name, tuple(blocks), tuple(groups), steps_through_time=True)

    def build_block(self, block: str) -> nn.Module:
        from workbench.models.lstm_modules import Projection, Recurrent, TokenEmbedding

        hidden, outputs = self.options.hidden_dim, self._output_dim
        if block == "input":
            return TokenEmbedding(outputs, hidden) if self.data.kind == "tokens" else Projection(outputs, hidden)
        if block == "head":
            return Projection(hidden, outputs)
        return Recurrent(self.options.cell, hidden, hidden, self.options.dropout)
