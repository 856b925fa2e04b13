"""Slices recurrent layers: complete hidden units per worker, or a part of every sum over the hidden features."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from workbench.plan.communication import ExpectedCommunication
from workbench.plan.layer_groups import RecurrentLayer
from workbench.strategies.tensor.base import Slicing

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

NUM_SUMS = 4
"""Number of sums per hidden unit and step of the dim ``hidden``: for an LSTM its gates; for a GRU the two gates and both parts of
the candidate, from input and hidden state, which the reset gate separates."""


class RecurrentSlicing(Slicing[RecurrentLayer]):
    """One LSTM or GRU layer, computed step by step, since every step communicates:

    - ``gates``: each worker computes all gates of its hidden units from the full x and h. All-gather of h (batch, hidden) after
      each step. In backward a reduce-scatter of the gradient of h before each step except the first, whose initial state is zero,
      and one all-reduce of the gradient of x (batch, sequence, input).
    - ``hidden``: each worker uses a slice of x and h for partial sums of all gates. All-reduce of the partial sums (batch, 4 ×
      hidden) in each step. In backward an all-gather of the gradient of h before each step except the first, and one of the
      gradient of x.
    """

    dims: ClassVar = ("gates", "hidden")

    def check(self) -> None:
        self._must_divide(self.group.hidden_dim, f"hidden units of {self.group.path}")
        if self.dim == "hidden":
            self._must_divide(self.group.input_dim, f"input features of {self.group.path}")

    def cut(self) -> dict[str, int]:
        path = self.group.path
        if self.dim == "hidden":
            return {f"{path}.input_weight": 1, f"{path}.hidden_weight": 1}
        return {f"{path}.{name}": 0 for name in ("input_weight", "hidden_weight", "input_bias", "hidden_bias")}

    def expected(self, num_samples: int, element_bytes: int, axis: str) -> list[ExpectedCommunication]:
        layer, unit = self.group, num_samples * element_bytes
        h, x, steps = unit * layer.hidden_dim, unit * layer.sequence * layer.input_dim, layer.sequence
        if self.dim == "gates":
            return [
                ExpectedCommunication("all_gather", axis, "forward", steps, h),
                ExpectedCommunication("reduce_scatter", axis, "backward", steps - 1, h),
                ExpectedCommunication("all_reduce", axis, "backward", 1, x),
            ]
        return [
            ExpectedCommunication("all_reduce", axis, "forward", steps, NUM_SUMS * h),
            ExpectedCommunication("all_gather", axis, "backward", steps - 1, h),
            ExpectedCommunication("all_gather", axis, "backward", 1, x),
        ]

    def apply(self, blocks: nn.Module, mesh: DeviceMesh) -> None:
        from workbench.strategies.tensor.recurrent_layers import GateSliced, HiddenSliced

        whole = blocks.get_submodule(self.group.path)
        new = (GateSliced if self.dim == "gates" else HiddenSliced)(whole, self.group, mesh)
        blocks.set_submodule(self.group.path, new)
