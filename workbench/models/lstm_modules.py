"""The torch modules of the recurrent network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from workbench.models.dropout_modules import SampleDropout

State = tuple[Tensor, ...]
"""State of a recurrent layer: h for a GRU, h and c for an LSTM, each (batch, hidden)."""


class TokenEmbedding(nn.Module):
    """(batch, sequence) of int64 → (batch, sequence, hidden)."""

    def __init__(self, vocabulary: int, hidden_dim: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, hidden_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token(tokens)


class Projection(nn.Module):
    """Linear projection of each step, (batch, sequence, in_features) → (batch, sequence, out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(x)


class Recurrent(nn.Module):
    """One LSTM or GRU layer, (batch, sequence, input) → (batch, sequence, hidden), with an initial state of zeros.

    It computes the same function as ``nn.LSTM`` and ``nn.GRU``, but the rows of its weights are ordered by (hidden unit, gate):
    row unit × num_gates + gate, with gates in torch's order. A slice of rows thus contains complete hidden units. torch's fused
    kernel expects (gate, hidden unit); each call reorders the rows, which is cheap compared with the products.
    """

    def __init__(self, cell: Literal["lstm", "gru"], input_dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.cell, self.hidden_dim = cell, hidden_dim
        self.dropout = SampleDropout(dropout)
        """Dropout of the outputs; the state has no dropout."""
        self.num_gates = {"lstm": 4, "gru": 3}[cell]
        features, bound = self.num_gates * hidden_dim, 1 / math.sqrt(hidden_dim)
        self.input_weight = nn.Parameter(torch.empty(features, input_dim))
        self.hidden_weight = nn.Parameter(torch.empty(features, hidden_dim))
        self.input_bias = nn.Parameter(torch.empty(features))
        self.hidden_bias = nn.Parameter(torch.empty(features))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)  # nn.LSTM's

    def forward(self, x: Tensor, state: State | None = None) -> Tensor | tuple[Tensor, State]:
        """Returns the outputs and, if a state is given (() at the beginning), also the final state."""
        outputs, after = self.forward_with_state(x, state)
        outputs = self.dropout(outputs)
        return outputs if state is None else (outputs, after)

    def forward_with_state(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns the outputs and the final state, so that a sequence can be processed in chunks."""
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
        # The kernel returns a view of a sequence-first tensor, but only contiguous tensors can be sent to another worker.
        return outputs.contiguous(), tuple(s.squeeze(0) for s in final)

    def _gate_major(self, parameter: Tensor) -> Tensor:
        """Reorders rows from (hidden unit, gate) to (gate, hidden unit)."""
        return parameter.view(self.hidden_dim, self.num_gates, *parameter.shape[1:]).transpose(0, 1).flatten(0, 1)
