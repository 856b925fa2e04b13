"""The dispatch of expert parallelism: experts are divided among workers, and tokens are sent to their experts and back."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from workbench.strategies.tensor.collectives import local, sliced
from workbench.strategies.worker_model import StepResult
from workbench.torch_private.distributed import all_to_all_single_autograd, wait_tensor

if TYPE_CHECKING:
    from workbench.models.moe_modules import Dispatch, Experts, StackedLinear
    from workbench.strategies.worker_model import WorkerModel


def divide(experts: nn.Module, mesh: DeviceMesh) -> None:
    """Replaces all experts by the local part, as DTensors under the same names."""
    for name, layer in list(experts.named_children()):
        setattr(experts, name, DividedLinear(cast("StackedLinear", layer), mesh))


class DividedLinear(nn.Module):
    """The local part of a ``StackedLinear``."""

    def __init__(self, layer: StackedLinear, mesh: DeviceMesh) -> None:
        super().__init__()
        self.product = layer.product
        self.weight = sliced(layer.weight, 0, mesh)
        self.bias = None if layer.bias is None else sliced(layer.bias, 0, mesh)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        return self.product(x, counts, local(self.weight), None if self.bias is None else local(self.bias))


def dispatch_over(group: dist.ProcessGroup) -> Dispatch:
    """Returns a dispatch that sends tokens to the workers of ``group``, which hold equal numbers of consecutive experts."""

    def exchange(x: Tensor, received: list[int] | None = None, sent: list[int] | None = None) -> Tensor:
        """All-to-all of the rows of x, by default in equal parts. Backward is the reverse all-to-all."""
        arrived: Tensor = wait_tensor(all_to_all_single_autograd(x, received, sent, group))
        return arrived

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the numbers of tokens differ between steps
    def dispatch(experts: Experts, tokens: Tensor, counts: list[int]) -> Tensor:
        num_local = len(counts) // group.size()
        # (workers × local experts): the number of tokens of each worker for each local expert.
        received_counts = exchange(torch.tensor(counts, device=tokens.device)).tolist()
        sent, received = _sums(counts, num_local), _sums(received_counts, num_local)
        arrived = exchange(tokens, received, sent)
        # Received tokens are ordered by worker, then expert; the experts need them by expert, then worker.
        by_expert = _transposed(list(arrived.split(received_counts)), num_local)
        lengths = _transposed(received_counts, num_local)
        outputs = experts(torch.cat(by_expert), _sums(lengths, group.size()))
        by_worker = _transposed(list(outputs.split(lengths)), group.size())
        return exchange(torch.cat(by_worker), sent, received)

    return dispatch


def _sums(numbers: list[int], length: int) -> list[int]:
    """Returns the sums of consecutive groups of ``length`` numbers."""
    return [sum(numbers[start : start + length]) for start in range(0, len(numbers), length)]


def _transposed(items: list[Any], num_columns: int) -> list[Any]:
    """Returns the items of a matrix with ``num_columns`` columns in column-major order."""
    return list(chain.from_iterable(items[column::num_columns] for column in range(num_columns)))


def average(worker: WorkerModel, num_replicas: int, same_experts: dist.ProcessGroup | None) -> None:
    """Averages the gradients of experts over all replicas. Backward has summed them over the workers that share the experts.

    Args:
        same_experts: Workers of other groups that hold the same experts, if any.
    """
    compute, may_miss = worker.compute, worker.full_model.reads_values
    expert_names = {p.name for p in worker.rank_view.local_model.parameters if not p.is_replicated}
    parameters = [p for name, p in worker.named_parameters() if name in expert_names]

    def step(inputs: Tensor, targets: Tensor) -> StepResult:
        result = compute(inputs, targets)
        with worker.span("backward", name="mean of the experts' gradients"):
            if same_experts is not None and may_miss:
                _complete(parameters, same_experts, worker.device)
            gradients = [_local(p.grad).div_(num_replicas) for p in parameters if p.grad is not None]
            if same_experts is not None:
                for work in [dist.all_reduce(gradient, group=same_experts, async_op=True) for gradient in gradients]:
                    work.wait()
        return result

    worker.compute = step


def _complete(parameters: list[nn.Parameter], same_experts: dist.ProcessGroup, device: torch.device) -> None:
    """Gives zeros to the parameters without a gradient that have one in another group: tokens chose this expert there alone."""
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device)
    dist.all_reduce(used, group=same_experts)
    for parameter, count in zip(parameters, used.tolist(), strict=True):
        if count and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
