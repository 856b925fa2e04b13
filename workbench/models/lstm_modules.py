"""The torch modules of the recurrent network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from workbench.models.dropout_modules import SampleDropout

State = tuple[Tensor, ...]
"""What a recurrent layer carries from step to step: h of a GRU, h and c of an LSTM, each (batch, hidden)."""


class TokenEmbedding(nn.Module):
    """(batch, sequence) of int64 → (batch, sequence, hidden)."""

    def __init__(self, vocabulary: int, hidden_dim: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, hidden_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token(tokens)


class Projection(nn.Module):
    """One linear map of each step, (batch, sequence, in_features) → (batch, sequence, out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x)


class Recurrent(nn.Module):
    """One LSTM or GRU layer, (batch, sequence, input) → (batch, sequence, hidden), from a state of zeros.

    The same function as ``nn.LSTM`` and ``nn.GRU``, but the rows of its weights are ordered (hidden unit, gate): row
    unit × num_gates + gate, gates in torch's order. So a slice of rows holds whole hidden units. torch's fused kernel
    wants (gate, hidden unit); the rows are put in that order on every call, which is cheap beside the products.
    """

    def __init__(self, cell: Literal["lstm", "gru"], input_dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.cell, self.hidden_dim = cell, hidden_dim
        self.dropout = SampleDropout(dropout)
        """Of the outputs; the state that is carried on is whole."""
        self.num_gates = {"lstm": 4, "gru": 3}[cell]
        features, bound = self.num_gates * hidden_dim, 1 / math.sqrt(hidden_dim)
        self.input_weight = nn.Parameter(torch.empty(features, input_dim))
        self.hidden_weight = nn.Parameter(torch.empty(features, hidden_dim))
        self.input_bias = nn.Parameter(torch.empty(features))
        self.hidden_bias = nn.Parameter(torch.empty(features))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)  # nn.LSTM's

    def forward(self, x: Tensor, state: State | None = None) -> Tensor | tuple[Tensor, State]:
        """The outputs; where a state is given, () at the beginning, also the state after the last step."""
        outputs, after = self.forward_with_state(x, state)
        outputs = self.dropout(outputs)
        return outputs if state is None else (outputs, after)

    def forward_with_state(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The outputs and the state after the last step; a sequence may so be worked through in chunks."""
        if not state:
            state = (x.new_zeros(len(x), self.hidden_dim),) * (2 if self.cell == "lstm" else 1)
        names = ("input_weight", "hidden_weight", "input_bias", "hidden_bias")  # the kernels' order
        weights = [self._gate_major(getattr(self, name)) for name in names]
        initial = tuple(s.unsqueeze(0) for s in state)  # (layers, batch, hidden)
        kernel: Callable[..., Any] = torch.lstm if self.cell == "lstm" else torch.gru
        outputs, *final = kernel(
            x,
            initial if self.cell == "lstm" else initial[0],
            weights,
            True,  # has biases
            1,  # layers
            0.0,  # dropout
            self.training,
            False,  # bidirectional
            True,  # batch first
        )
        # The kernel works sequence first and returns a view of that; what is handed on to another worker is contiguous.
        return outputs.contiguous(), tuple(s.squeeze(0) for s in final)

    def _gate_major(self, parameter: Tensor) -> Tensor:
        """Rows ordered (hidden unit, gate) → (gate, hidden unit)."""
        return parameter.view(self.hidden_dim, self.num_gates, *parameter.shape[1:]).transpose(0, 1).flatten(0, 1)
