"""Mixtures of a user's own module with a part of the experts on each worker (the all-gather dispatcher of Megatron-LM).

The workers of a group gather the tokens of all of them, each runs the module's own code with its experts alone, and the outputs,
which are sums over experts, are reduce-scattered. Each worker computes a part of the gradient of what the code reads besides its
experts, such as the router; the average over replicas adds these parts up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.tensor import DTensor

from workbench.errors import SplitError
from workbench.plan.expert_split import ExpertMixture
from workbench.strategies.tensor.collectives import AnyMesh, all_gathered, sliced
from workbench.strategies.tensor.simulated import SimulatedMesh
from workbench.torch_private.dispatch import tree_flatten, tree_unflatten
from workbench.torch_private.modules import parameters_of


def divide_mixtures(
    root: nn.Module, mixtures: Iterable[ExpertMixture], mesh: AnyMesh, holder: nn.Module, num_samples: int
) -> None:
    """Leaves each worker its experts, the i-th of equal parts, and gathers the tokens of all workers where they compute.

    Args:
        root: The user's module.
        mesh: The workers that the experts are divided over, one dim.
        holder: What holds all parameters of the module, perhaps in other modules, too.
        num_samples: Number of samples of a worker in a forward pass.
    """
    new: dict[Tensor, nn.Parameter | None] = {}
    for mixture in mixtures:
        module, experts = root.get_submodule(mixture.path), root.get_submodule(mixture.experts)
        if mixture.slots is None:
            for expert in foreign_experts(experts, mesh):
                new |= dict.fromkeys(expert.parameters())
                for part in expert.modules():
                    for name, _ in list(part.named_buffers(recurse=False)):
                        setattr(part, name, None)
                expert.forward = StandIn(mixture.output_features)
            forward: Any = module.forward
        else:
            new |= {parameter: sliced(parameter, 0, mesh) for parameter in module.parameters(recurse=False)}
            forward = _OwnSlots(module, mixture, mesh)
        module.forward = _Gathered(forward, mixture, mesh, num_samples)
    for part in holder.modules():
        held = parameters_of(part)
        held.update({name: new[parameter] for name, parameter in held.items() if parameter is not None and parameter in new})


def foreign_experts(experts: nn.Module, mesh: AnyMesh) -> list[nn.Module]:
    """Returns the experts of a list that other workers hold."""
    every = list(experts.children())
    count = len(every) // mesh.size()
    first = mesh.get_local_rank() * count
    return every[:first] + every[first + count :]


class StandIn:
    """The forward pass of an expert of another worker: it adds nothing."""

    def __init__(self, features: int) -> None:
        self.features = features

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        x: Tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        return x.new_zeros(*x.shape[:-1], self.features)


class _OwnSlots:
    """The forward pass of stacked experts with those of this worker: for each token that one of them was chosen for."""

    def __init__(self, module: nn.Module, mixture: ExpertMixture, mesh: AnyMesh) -> None:
        assert mixture.slots is not None
        self.module, self.forward, self.slots = module, module.forward, mixture.slots
        self.count = mixture.num_experts // mesh.size()
        self.first = mesh.get_local_rank() * self.count

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        leaves, structure = tree_flatten((args, kwargs))
        tokens, indices, weights = (leaves[leaf] for leaf in self.slots)
        token, slot = ((indices >= self.first) & (indices < self.first + self.count)).nonzero(as_tuple=True)
        own = tokens[token], (indices[token, slot] - self.first)[:, None], weights[token, slot][:, None]
        for leaf, value in zip(self.slots, own, strict=True):
            leaves[leaf] = value
        args, kwargs = tree_unflatten(leaves, structure)
        held = parameters_of(self.module)
        whole = dict(held)
        try:
            held.update({name: p.to_local() if isinstance(p, DTensor) else p for name, p in whole.items()})
            output: Tensor = self.forward(*args, **kwargs)
        finally:
            held.update(whole)
        return output.new_zeros(len(tokens), *output.shape[1:]).index_add(0, token, output)


class _Gathered:
    """The forward pass of a mixture over the tokens of all workers."""

    def __init__(self, forward: Any, mixture: ExpertMixture, mesh: AnyMesh, num_samples: int) -> None:
        self.forward, self.mixture, self.mesh, self.num_samples = forward, mixture, mesh, num_samples

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = tree_flatten((args, kwargs))
        for tensor in self.mixture.taken:
            x = leaves[tensor.leaf]
            if x.numel() != self.num_samples * tensor.elements:
                text = (
                    f"{self.mixture.path} takes {tuple(x.shape)}, other than {tensor.elements} elements of each sample, as before"
                )
                raise SplitError("split.expert", text)
            leaves[tensor.leaf] = gather_rows(x, self.mesh)
        gathered = [leaves[tensor.leaf] for tensor in self.mixture.taken]
        args, kwargs = tree_unflatten(leaves, structure)
        outputs, structure = tree_flatten(self.forward(*args, **kwargs))
        for tensor in self.mixture.returned:
            whole = outputs[tensor.leaf]
            rank, size = self.mesh.get_local_rank(), self.mesh.size()
            outputs[tensor.leaf] = sum_rows(whole, self.mesh, gathered) if tensor.is_summed else whole.chunk(size)[rank]
        return tree_unflatten(outputs, structure)


def gather_rows(x: Tensor, mesh: AnyMesh) -> Tensor:
    """All-gather along dim 0 forward, reduce-scatter of the partial gradients backward."""
    return _GatherRows.apply(x, mesh)


def sum_rows(x: Tensor, mesh: AnyMesh, inputs: Sequence[Tensor]) -> Tensor:
    """Reduce-scatter of the partial results along dim 0 forward, all-gather backward.

    Args:
        inputs: What x was computed of. Each gets a gradient on every worker, since the other workers wait for it, also if no
            token chose an expert of this one.
    """
    own = torch.zeros((), device=x.device, requires_grad=torch.is_grad_enabled())
    return _SumRows.apply(x, mesh, own, *inputs)


def reduce_scattered(x: Tensor, mesh: AnyMesh) -> Tensor:
    """Returns this worker's part along dim 0 of the sum over the workers."""
    if isinstance(mesh, SimulatedMesh):
        return mesh.all_reduced(x).chunk(mesh.size())[mesh.get_local_rank()]
    part = x.new_empty(len(x) // mesh.size(), *x.shape[1:])
    # The form of a single tensor, since with a list gloo starts an all-reduce for each worker at once; renamed in torch 2.13.
    reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    reduce_scatter(part, x.contiguous(), group=mesh.get_group())
    return part


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: AnyMesh) -> Tensor:
        ctx.mesh = mesh
        if x.dtype == torch.bool:
            return all_gathered(x.to(torch.uint8), 0, mesh).bool()
        return all_gathered(x, 0, mesh)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return reduce_scattered(gradients[0], ctx.mesh), None


class _SumRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mesh: AnyMesh, *inputs: Tensor) -> Tensor:
        ctx.mesh, ctx.shapes = mesh, [each.shape for each in inputs]
        return reduce_scattered(x, mesh)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        zero = gradients[0].new_zeros(())
        inputs = [zero.expand(s) if n else None for s, n in zip(ctx.shapes, ctx.needs_input_grad[2:], strict=True)]
        return all_gathered(gradients[0], 0, ctx.mesh), None, *inputs
