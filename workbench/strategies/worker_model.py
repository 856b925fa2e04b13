"""What one worker holds of the model and how it computes one step; each strategy changes its part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from workbench.plan.summary import ModelSummary


class StepResult(NamedTuple):
    """Mean loss over this worker's part of the batch and the outputs, detached; None where another worker has them.
    Outputs only if ``keep_outputs``."""

    loss: Tensor | None
    outputs: Tensor | None


Compute = Callable[["Tensor", "Tensor"], StepResult]
"""Forward and backward of (inputs, targets); leaves the gradients of the mean loss in the parameters."""

Span = Callable[..., AbstractContextManager[None]]
"""``span(kind, stage=…, microbatch=…)`` marks what the worker does; recorded on trace steps, else free."""


@dataclass
class WorkerModel:
    """A worker's share, handed from strategy to strategy."""

    summary: ModelSummary
    """The whole, unsplit model."""

    blocks: nn.Sequential
    """The blocks that this worker holds, by name: parameters keep the names of the unsplit model."""

    loss: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    span: Span
    dtype: torch.dtype
    batch_size: int
    """Samples of a step that reach this worker."""

    module: nn.Module = field(init=False)
    """What is called: the blocks, possibly wrapped."""

    batch_part: tuple[int, int] = (0, 1)
    """This worker computes the i-th of n equal parts of the global batch."""

    num_microbatches: int = 1
    """Pieces that its part is computed in; parity computes the same pieces."""

    keep_outputs: bool = False
    """Whether a step hands back its outputs: parity compares them; a timed step lets go of them before backward."""

    compute: Compute = field(init=False)

    def __post_init__(self) -> None:
        self.module = self.blocks
        self.compute = self._whole_batch

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its parameters under the names of the unsplit model; a tied one once, under its source's name if held."""
        sources = {tie.parameter: tie.source for tie in self.summary.ties}
        for name, parameter in self.blocks.named_parameters():
            yield sources.get(name, name), parameter

    def _whole_batch(self, inputs: Tensor, targets: Tensor) -> StepResult:
        """The plain step: one forward and one backward pass over everything."""
        with self.span("forward", stage=0, microbatch=0):
            outputs = self.module(inputs)
            loss = self.loss(outputs, targets)
            outputs = outputs.detach() if self.keep_outputs else None
        with self.span("backward", stage=0, microbatch=0):
            loss.backward()
        return StepResult(loss.detach(), outputs)
