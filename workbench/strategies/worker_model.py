"""What one worker holds of the model and how it computes one step; each strategy changes its part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer

    from workbench.models.dropout_modules import DropoutKeys
    from workbench.plan.loss_weights import LossWeights
    from workbench.plan.model_summary import ModelSummary
    from workbench.plan.rank_view import RankView


class StepResult(NamedTuple):
    """The loss of this worker's part of the batch, such that the mean over the parts is the mean over the batch, and the
    outputs, detached; None where another worker has them. Outputs only if ``keep_outputs``."""

    loss: Tensor | None
    outputs: Tensor | None
    tokens: Tensor | None = None
    """Generated ones, (batch, new) of int64, on workers that know them."""
    first_token_at: float | None = None
    """When the first token of every sample was chosen, on workers that choose them; on the machine's monotonic clock."""


Compute = Callable[["Tensor", "Tensor"], StepResult]
"""Forward and, in training, backward of (inputs, targets); leaves the gradients of the mean loss in the parameters."""


class Records(Protocol):
    """What records a worker's steps."""

    axes: dict[str, str]
    """Name of a process group → the mesh axis that it spans. A strategy that makes a group of its own adds it."""

    def announce(self, tensors: Iterable[Tensor], phase: str) -> None:
        """Says of what phase the operation on each of these tensors will be, where it is issued outside the phase's span."""

    def span(
        self, kind: str, stage: int | None = None, microbatch: int | None = None, name: str | None = None
    ) -> AbstractContextManager[None]:
        """Marks what the worker does; recorded on trace steps, else free."""


@dataclass
class WorkerModel:
    """A worker's share, handed from strategy to strategy."""

    summary: ModelSummary
    """The whole, unsplit model."""

    rank_view: RankView
    """What the plan says of this worker."""

    blocks: nn.Sequential
    """The blocks that this worker holds, by name: parameters keep the names of the unsplit model."""

    loss: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    dtype: torch.dtype
    """Of parameters, gradients and the optimizer's state."""

    compute_dtype: torch.dtype
    """Of activations: another than ``dtype`` under mixed precision."""

    recorder: Records

    make_decoder: Callable[[nn.Module, int], Callable[[Tensor], Tensor]]
    """``(blocks, most positions)`` → the blocks as they are called while generating: each call's input holds the positions
    after those before it, and a head gives its outputs at the last of them alone."""

    dropout_keys: DropoutKeys
    """What decides the masks of the dropouts in its blocks."""

    stages: list[nn.Sequential] = field(init=False)
    """The blocks by stage, first to last; one stage unless a pipeline cuts more. Wrap blocks and stages in place."""

    module: nn.Module = field(init=False)
    """What the plain step calls: the blocks, possibly wrapped."""

    batch_part: tuple[int, int] = (0, 1)
    """This worker computes the i-th of n equal parts of the global batch."""

    sequence_part: tuple[range, ...] | None = None
    """The runs of positions that it computes of each sample, dim 1 of inputs, targets and outputs; None: all."""

    classes_part: tuple[int, int] = (0, 1)
    """Its outputs are the i-th of n equal parts of all classes, their last dim."""

    num_microbatches: int = 1
    """Pieces that its part is computed in; parity computes the same pieces."""

    normalizes_together: bool = False
    """Whether batch norm uses the samples of all workers, so that corresponding pieces of theirs are one."""

    microbatch: int = 0
    """The piece that is computed now, where they are computed one after the other by the plain step."""

    loss_weights: LossWeights | None = None
    """The weights of the pieces of this step's batch; None: all weigh the same."""

    num_copies: dict[str, int] = field(default_factory=dict)
    """Parameters that several stages hold (tied ones) → how many."""
    keep_outputs: bool = False
    """Whether a step hands back its outputs: parity compares them; a timed step lets go of them before backward."""

    compute: Compute = field(init=False)

    make_optimizer: Callable[..., Optimizer] = lambda kind, groups, **options: kind(groups, **options)
    """``(class, parameter groups, **options)`` → the optimizer of what this worker holds, possibly wrapped."""

    def __post_init__(self) -> None:
        self.stages = [self.blocks]
        self.module = self.blocks
        self.compute = self._whole_batch
        if self.rank_view.spec.generates:
            from workbench.strategies.pipeline.generation import generation

            self.compute = generation(self)

    @property
    def span(self) -> Callable[..., AbstractContextManager[None]]:
        """``span(kind, stage=…, microbatch=…)`` marks what the worker does."""
        return self.recorder.span

    @property
    def axes(self) -> dict[str, str]:
        """Name of a process group → the mesh axis that it spans."""
        return self.recorder.axes

    @property
    def batch_size(self) -> int:
        """Samples of a step that reach this worker."""
        return self.rank_view.num_samples

    @property
    def num_pieces(self) -> int:
        """Pieces of the global batch that are computed without regard to one another."""
        return self.num_microbatches * (1 if self.normalizes_together else self.batch_part[1])

    @property
    def trains(self) -> bool:
        """Whether there is a backward pass."""
        return self.rank_view.trains

    def begin_step(self, step: int) -> None:
        """Says which step it computes next: dropout masks depend on it, and on the samples of the step."""
        import torch

        first = self.batch_part[0] * self.batch_size
        self.dropout_keys.begin_step(step, torch.arange(first, first + self.batch_size))

    def begin_piece(self, index: int) -> None:
        """Says which microbatch goes forward next."""
        self.dropout_keys.begin_piece(index, self.num_microbatches)

    def output_shape(self, block: str) -> tuple[int, ...]:
        """Shape, per sample, of what a block hands on here."""
        return self.rank_view.output_shape(block)

    def divided(self, mesh: DeviceMesh, size: int) -> DeviceMesh:
        """An axis of the mesh as groups of ``size`` neighbours: a mesh of two dims, such as ``data_outer`` (between groups)
        and ``data_inner`` (within one), whose communication is recorded as the axis's."""
        from workbench.torch_private.distributed import unflattened

        (axis,) = mesh.mesh_dim_names or ()
        dims = f"{axis}_outer", f"{axis}_inner"
        groups = unflattened(mesh, (mesh.size() // size, size), dims)
        self.axes.update({groups[dim].get_group().group_name: axis for dim in dims})
        return groups

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its parameters under the names of the unsplit model; a tied one once, under its source's name if held."""
        sources = {tie.parameter: tie.source for tie in self.summary.ties}
        for name, parameter in self.blocks.named_parameters():
            yield sources.get(name, name), parameter

    def piece_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of one piece of the batch (a microbatch, a replica's samples, a part of the sequence), weighted by the
        targets that count in it, so that the plain mean over equal pieces is the mean over the batch."""
        factor = 1.0 if self.loss_weights is None else self.loss_weights.factor(targets)
        if factor == 0:  # of no targets: the mean over them is 0 / 0
            import torch

            with torch.no_grad():
                self.loss(outputs, targets)  # what a sliced loss communicates, others wait for
            return outputs.sum() * 0
        loss = self.loss(outputs, targets)
        return loss if factor == 1 else loss * factor

    def _whole_batch(self, inputs: Tensor, targets: Tensor) -> StepResult:
        """The plain step: one forward and one backward pass over everything."""
        with self.span("forward", stage=0, microbatch=self.microbatch):
            outputs = self.module(inputs)
            loss = self.piece_loss(outputs, targets) if self.trains else None
            outputs = outputs.detach() if self.keep_outputs else None
        if loss is not None:
            with self.span("backward", stage=0, microbatch=self.microbatch):
                loss.backward()
        return StepResult(loss if loss is None else loss.detach(), outputs)
