"""Recurrent layers cut between workers, as loops of plain torch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import linear

from workbench.plan.layer_groups import RecurrentLayer
from workbench.strategies.tensor.collectives import all_gathered, copy_to_slices, local, reduce_parts, sliced, take_slice

State = tuple[Tensor, ...]


def lstm_step(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Returns h and c after a step.

    Args:
        gates: (batch, units, 4) before the nonlinearities: input, forget, candidate, output.
    """
    i, f, g, o = gates.unbind(-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(reset: Tensor, update: Tensor, from_input: Tensor, from_hidden: Tensor, h: Tensor) -> Tensor:
    """Returns h after a step, from the gates and both parts of the candidate (batch, units) before the nonlinearities."""
    candidate = (from_input + reset.sigmoid() * from_hidden).tanh()
    z = update.sigmoid()
    return (1 - z) * candidate + z * h


class SlicedRecurrent(nn.Module):
    """Base of both cuts. They replace the four parameters of the full layer under their names."""

    dims: ClassVar[dict[str, int]]
    """Parameter → dim along which it is cut."""

    input_weight: nn.Parameter
    hidden_weight: nn.Parameter
    input_bias: nn.Parameter
    hidden_bias: nn.Parameter

    def __init__(self, whole: nn.Module, layer: RecurrentLayer, mesh: DeviceMesh) -> None:
        super().__init__()
        self.layer, self.mesh = layer, mesh
        self.dropout = whole.get_submodule("dropout")
        for name, parameter in whole.named_parameters():
            self.register_parameter(name, sliced(parameter, self.dims[name], mesh) if name in self.dims else parameter)

    def forward(self, x: Tensor, state: State | None = None) -> Tensor | tuple[Tensor, State]:
        """Returns the outputs and, if a state is given (() at the beginning), also the final state."""
        outputs, after = self.forward_with_state(x, state)
        outputs = self.dropout(outputs)
        return outputs if state is None else (outputs, after)

    def forward_with_state(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Returns the outputs (batch, sequence, hidden) and the final state."""
        raise NotImplementedError

    def _by_unit(self, x: Tensor) -> Tensor:
        """Reshapes (…, units × gates) to (…, units, gates)."""
        return x.view(*x.shape[:-1], -1, self.layer.num_gates)


class GateSliced(SlicedRecurrent):
    """Each worker computes a slice of the hidden units: rows of the weights and biases. Its state is the full h and a slice of
    c."""

    dims: ClassVar = {"input_weight": 0, "hidden_weight": 0, "input_bias": 0, "hidden_bias": 0}

    def forward_with_state(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        units, rank = self.layer.hidden_dim // self.mesh.size(), self.mesh.get_local_rank()
        h, *cs = state or (x.new_zeros(len(x), self.layer.hidden_dim), x.new_zeros(len(x), units))
        hidden_weight, hidden_bias = local(self.hidden_weight), local(self.hidden_bias)
        from_inputs = linear(copy_to_slices(x, self.mesh), local(self.input_weight), local(self.input_bias))
        outputs = []
        for from_input in self._by_unit(from_inputs).unbind(1):  # each (batch, local units, gates)
            from_hidden = self._by_unit(linear(h, hidden_weight, hidden_bias))
            if self.layer.cell == "lstm":
                local_output, cs[0] = lstm_step(from_input + from_hidden, cs[0])
            else:
                reset, update = (from_input + from_hidden)[..., :2].unbind(-1)
                local_hidden = h[:, rank * units : (rank + 1) * units]
                local_output = gru_step(reset, update, from_input[..., 2], from_hidden[..., 2], local_hidden)
            output, h = _JoinUnits.apply(local_output, self.mesh)
            outputs.append(output)
        return torch.stack(outputs, 1), (h, *cs) if self.layer.cell == "lstm" else (h,)


class _JoinUnits(Function):
    """All-gathers the hidden units of the workers and returns them twice, because the gradients differ: that of the output is
    replicated, that of the next step is partial and is reduce-scattered."""

    @staticmethod
    def forward(ctx: Any, units: Tensor, mesh: DeviceMesh) -> tuple[Tensor, Tensor]:
        ctx.mesh = mesh
        ctx.set_materialize_grads(False)
        h = all_gathered(units, 1, mesh)
        return h, h.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        (whole, part), mesh = gradients, ctx.mesh
        gradient = None if whole is None else whole.chunk(mesh.size(), 1)[mesh.get_local_rank()]
        if part is not None:
            slices = [s.contiguous() for s in part.chunk(mesh.size(), 1)]  # each (batch, units of a worker)
            reduced = torch.empty_like(slices[0])
            dist.reduce_scatter(reduced, slices, group=mesh.get_group())
            gradient = reduced if gradient is None else gradient + reduced
        return gradient, None


class HiddenSliced(SlicedRecurrent):
    """Each worker uses a slice of the input and hidden features: columns of the weights. Its state is the full one."""

    dims: ClassVar = {"input_weight": 1, "hidden_weight": 1}

    def forward_with_state(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        h, *cs = state or (x.new_zeros(len(x), self.layer.hidden_dim),) * 2
        hidden_weight = local(self.hidden_weight)
        input_bias, hidden_bias = self._by_unit(self.input_bias), self._by_unit(self.hidden_bias)
        from_inputs = self._by_unit(linear(take_slice(x, 2, self.mesh), local(self.input_weight)))
        outputs = []
        for from_input in from_inputs.unbind(1):  # partial sums, each (batch, hidden, gates)
            from_hidden = self._by_unit(linear(take_slice(h, 1, self.mesh), hidden_weight))
            if self.layer.cell == "lstm":
                gates = reduce_parts(from_input + from_hidden, self.mesh) + input_bias + hidden_bias
                h, cs[0] = lstm_step(gates, cs[0])
            else:
                parts = [(from_input + from_hidden)[..., :2], from_input[..., 2:], from_hidden[..., 2:]]
                biases = [(input_bias + hidden_bias)[..., :2], input_bias[..., 2:], hidden_bias[..., 2:]]
                sums = reduce_parts(torch.cat(parts, -1), self.mesh) + torch.cat(biases, -1)
                reset, update, candidate_input, candidate_hidden = sums.unbind(-1)
                h = gru_step(reset, update, candidate_input, candidate_hidden, h)
            outputs.append(h)
        return torch.stack(outputs, 1), (h, *cs) if self.layer.cell == "lstm" else (h,)
