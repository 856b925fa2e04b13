"""Accumulates gradients over the pieces of a batch."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp import FSDPModule

from workbench.plan.batch_modules import pieces
from workbench.strategies.worker_model import StepResult

if TYPE_CHECKING:
    from workbench.strategies.worker_model import WorkerModel


def quieten_views() -> None:
    """Silences the warning of FSDP2 about blocks that return views, as linear layers do: nothing writes to an output in place."""
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(.*\) returned a view tensor")


def accumulate(worker: WorkerModel, num_steps: int) -> None:
    """Makes the worker compute its part in ``num_steps`` pieces, and average gradients over the workers after the last."""
    compute = worker.compute

    def step(inputs: Any, targets: Any) -> StepResult:
        with worker.span("schedule"):  # covers the time between pieces
            return in_pieces(inputs, targets)

    def in_pieces(inputs: Any, targets: Any) -> StepResult:
        results = []
        for worker.microbatch, (x, y) in enumerate(zip(pieces(inputs, num_steps), pieces(targets, num_steps), strict=True)):
            worker.begin_piece(worker.microbatch)
            with _averaging(worker.module, worker.microbatch == num_steps - 1):
                results.append(compute(x, y))
        with worker.span("backward", name="mean of the pieces"):
            for _, parameter in worker.named_parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(num_steps)
        losses = [result.loss for result in results if result.loss is not None]
        outputs = [result.outputs for result in results if result.outputs is not None]
        return StepResult(torch.stack(losses).mean(), torch.cat(outputs) if outputs else None)

    worker.num_microbatches = num_steps
    worker.compute = step


def _averaging(module: Any, is_on: bool) -> AbstractContextManager[None]:
    """Returns a context whose backward passes average gradients over the workers, or not."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(is_on)
        return nullcontext()
    return nullcontext() if is_on else module.no_sync()
