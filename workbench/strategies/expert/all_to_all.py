"""Torch code of expert parallelism: experts divided among workers, tokens sent to theirs and back."""

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
    """Leaves this worker its part of the experts, as DTensors under the same names."""
    for name, layer in list(experts.named_children()):
        setattr(experts, name, DividedLinear(cast("StackedLinear", layer), mesh))


class DividedLinear(nn.Module):
    """This worker's part of a ``StackedLinear``."""

    def __init__(self, layer: StackedLinear, mesh: DeviceMesh) -> None:
        super().__init__()
        self.product = layer.product
        self.weight = sliced(layer.weight, 0, mesh)
        self.bias = None if layer.bias is None else sliced(layer.bias, 0, mesh)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        return self.product(x, counts, local(self.weight), None if self.bias is None else local(self.bias))


def dispatch_over(group: dist.ProcessGroup) -> Dispatch:
    """A dispatch that sends tokens to the workers of ``group``, each of which holds equally many consecutive experts."""

    def exchange(x: Tensor, received: list[int] | None = None, sent: list[int] | None = None) -> Tensor:
        """Rows of x to each worker and from each; of both equally many if no numbers are given. Backward the same way
        back."""
        arrived: Tensor = wait_tensor(all_to_all_single_autograd(x, received, sent, group))
        return arrived

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # numbers of tokens differ from step to step
    def dispatch(experts: Experts, tokens: Tensor, counts: list[int]) -> Tensor:
        num_held = len(counts) // group.size()
        # (workers × experts held here): how many tokens each worker has for each of this worker's experts.
        arriving = exchange(torch.tensor(counts, device=tokens.device)).tolist()
        sent, received = _sums(counts, num_held), _sums(arriving, num_held)
        arrived = exchange(tokens, received, sent)
        # They lie by worker and then expert, and are computed by expert and then worker.
        by_expert = _transposed(list(arrived.split(arriving)), num_held)
        lengths = _transposed(arriving, num_held)
        outputs = experts(torch.cat(by_expert), _sums(lengths, group.size()))
        by_worker = _transposed(list(outputs.split(lengths)), group.size())
        return exchange(torch.cat(by_worker), sent, received)

    return dispatch


def _sums(numbers: list[int], length: int) -> list[int]:
    """Of each run of ``length`` numbers."""
    return [sum(numbers[start : start + length]) for start in range(0, len(numbers), length)]


def _transposed(items: list[Any], num_columns: int) -> list[Any]:
    """The rows of ``num_columns`` that the items make, read column by column."""
    return list(chain.from_iterable(items[column::num_columns] for column in range(num_columns)))


def average(worker: WorkerModel, num_replicas: int, same: dist.ProcessGroup | None) -> None:
    """Makes the experts' gradients means over all replicas. Backward has summed them over the workers that share the
    experts; ``same``: the workers of other groups that hold the same experts, if there are any."""
    compute = worker.compute
    apart = {p.name for p in worker.rank_view.local_model.parameters if not p.is_replicated}
    parameters = [p for name, p in worker.named_parameters() if name in apart]

    def step(inputs: Tensor, targets: Tensor) -> StepResult:
        result = compute(inputs, targets)
        with worker.span("backward", name="mean of the experts' gradients"):
            gradients = [p.grad.to_local().div_(num_replicas) for p in parameters if isinstance(p.grad, DTensor)]
            if same is not None:
                for work in [dist.all_reduce(gradient, group=same, async_op=True) for gradient in gradients]:
                    work.wait()
        return result

    worker.compute = step
