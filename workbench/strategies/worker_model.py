"""Defines the model on one worker and the computation of one step; each strategy modifies its part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer

    from workbench.models.blocks_modules import Blocks
    from workbench.models.dropout_modules import DropoutKeys
    from workbench.plan.loss_weights import LossWeights
    from workbench.plan.model_summary import ModelSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import Inference


class StepResult(NamedTuple):
    """Loss of this worker's part of the batch, such that the mean over the parts is the mean over the batch, and detached
    outputs, if ``keep_outputs``. None on workers that do not compute them."""

    loss: Tensor | None
    outputs: Tensor | None
    tokens: Tensor | None = None
    """Generated tokens, (batch, new) of int64, on workers that have them."""
    first_token_at: float | None = None
    """Time of the monotonic clock when the first token of every sample was selected, on workers that select tokens."""


Compute = Callable[["Any", "Any"], StepResult]
"""Forward and, in training, backward pass of (inputs, targets), tensors or batches of several (``plan/batch_modules.py``);
leaves the gradients of the mean loss in the parameters."""


class StepRecorder(Protocol):
    """Recorder of a worker's steps."""

    axes: dict[str, str]
    """Name of a process group → the mesh axis that it spans. A strategy that creates a group must add it."""

    def announce(self, tensors: Iterable[Tensor], phase: str) -> None:
        """Declares the phase of operations on these tensors that are issued outside the span of that phase."""

    def span(
        self, kind: str, stage: int | None = None, microbatch: int | None = None, name: str | None = None
    ) -> AbstractContextManager[None]:
        """Marks an activity of the worker; recorded on trace steps, otherwise without cost."""


@dataclass
class WorkerModel:
    """The share of one worker, passed from strategy to strategy."""

    rank_view: RankView
    """The plan of this worker."""

    blocks: Blocks
    """Local blocks by name; parameters keep the names of the unsplit model."""

    loss: Callable[[Any, Any], Tensor]
    device: torch.device
    dtype: torch.dtype
    """Dtype of parameters, gradients and optimizer state."""

    compute_dtype: torch.dtype
    """Dtype of activations; differs from ``dtype`` under mixed precision."""

    recorder: StepRecorder

    make_decoder: Callable[[Blocks, Inference], Callable[..., Any]]
    """As ``Model.decoder``."""

    dropout_keys: DropoutKeys
    """Keys of the dropout masks in its blocks."""

    stages: list[Blocks] = field(init=False)
    """Blocks by stage, first to last; one stage unless a pipeline cuts more. Wrap blocks and stages in place."""

    module: nn.Module = field(init=False)
    """Module that the plain step calls: the blocks, possibly wrapped."""

    batch_part: tuple[int, int] = (0, 1)
    """(i, n): this worker computes the i-th of n equal parts of the global batch."""

    sequence_part: tuple[range, ...] | None = None
    """Ranges of positions that it computes of each sample, dim 1 of inputs, targets and outputs; None for all."""

    main_output: Callable[[Any], Tensor] = lambda outputs: outputs
    """Given what the blocks return, returns the outputs that parity compares."""

    classes_part: tuple[int, int] = (0, 1)
    """(i, n): its outputs are the i-th of n equal parts of all classes, the last dim."""

    num_microbatches: int = 1
    """Number of microbatches or accumulation steps in which its part is computed; parity computes the same shards."""

    normalizes_together: bool = False
    """Whether batch norm uses the samples of all workers, so that their corresponding microbatches form one shard."""

    microbatch: int = 0
    """Index of the current piece, if the plain step computes them one after the other."""

    loss_weights: LossWeights | None = None
    """Weights of the pieces of this step's batch; None for equal weights."""

    stored_order: dict[str, tuple[int, tuple[range, ...]]] = field(default_factory=dict)
    """Parameter whose slices are not consecutive → its sliced dim, and the ranges along it in the order in which all workers hold
    them, the first worker's first."""

    num_copies: dict[str, int] = field(default_factory=dict)
    """Parameter held by several stages (tied) → number of stages."""
    num_holders: dict[str, int] = field(default_factory=dict)
    """Parameter that only some of the replicas hold, as a whole → their number."""
    keep_outputs: bool = False
    """Whether a step returns its outputs. Parity compares them; timed steps free them before backward."""

    compute: Compute = field(init=False)

    make_optimizer: Callable[..., Optimizer] = lambda kind, groups, **options: kind(groups, **options)
    """``(class, parameter groups, **options)`` → the optimizer of the local parameters, possibly wrapped."""

    def __post_init__(self) -> None:
        self.stages = [self.blocks]
        self.module = self.blocks
        self.compute = self._whole_batch
        if self.rank_view.spec.generates:
            from workbench.strategies.pipeline.generation import generation

            self.compute = generation(self)

    @property
    def full_model(self) -> ModelSummary:
        """The unsplit model."""
        return self.rank_view.full_model

    @property
    def span(self) -> Callable[..., AbstractContextManager[None]]:
        """``span(kind, stage=…, microbatch=…)`` marks an activity of the worker."""
        return self.recorder.span

    @property
    def axes(self) -> dict[str, str]:
        """Name of a process group → the mesh axis that it spans."""
        return self.recorder.axes

    @property
    def batch_size(self) -> int:
        """Number of samples per step on this worker."""
        return self.rank_view.num_samples

    @property
    def num_shards(self) -> int:
        """Number of shards of the global batch, the microbatches of all replicas, that are computed independently."""
        return self.num_microbatches * (1 if self.normalizes_together else self.batch_part[1])

    @property
    def trains(self) -> bool:
        """Whether there is a backward pass."""
        return self.rank_view.trains

    def begin_step(self, step: int) -> None:
        """Sets the next step and its samples, on which dropout masks depend."""
        import torch

        first = self.batch_part[0] * self.batch_size
        self.dropout_keys.begin_step(step, torch.arange(first, first + self.batch_size))

    def begin_piece(self, index: int) -> None:
        """Sets the microbatch of the next forward pass."""
        self.dropout_keys.begin_piece(index, self.num_microbatches)

    def output_shape(self, block: str) -> tuple[int, ...]:
        """Returns the output shape of a block on this worker, per sample."""
        return self.rank_view.output_shape(block)

    def crossing_shapes(self, block: str) -> tuple[tuple[int, ...], ...]:
        """Returns the shapes per sample of the tensors that cross a cut after a block on this worker."""
        return self.rank_view.crossing_shapes(block)

    def divided(self, mesh: DeviceMesh, size: int) -> DeviceMesh:
        """Returns an axis of the mesh as groups of ``size`` neighbours: a mesh of two dims, such as ``data_outer`` (between
        groups) and ``data_inner`` (within a group), whose communication is recorded under the axis."""
        from workbench.torch_private.distributed import unflattened

        (axis,) = mesh.mesh_dim_names or ()
        dims = f"{axis}_outer", f"{axis}_inner"
        groups = unflattened(mesh, (mesh.size() // size, size), dims)
        self.axes.update({groups[dim].get_group().group_name: axis for dim in dims})
        return groups

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields local parameters under the names of the unsplit model; a tied one once, under the name of its source if held."""
        sources = {tie.parameter: tie.source for tie in self.full_model.ties}
        for name, parameter in self.blocks.named_parameters():
            yield sources.get(name, name), parameter

    def piece_loss(self, outputs: Any, targets: Any) -> Tensor:
        """Returns the loss of one piece of the batch (a microbatch, the samples of a replica, a part of the sequence), weighted
        by its targets that count, so that the mean over equal pieces is the mean over the batch."""
        factor = 1.0 if self.loss_weights is None else self.loss_weights.factor(targets)
        if factor == 0:  # without targets, whose mean is 0 / 0
            import torch

            with torch.no_grad():
                self.loss(outputs, targets)  # a sliced loss communicates, and other workers wait for it
            return zero_of(self.main_output(outputs))
        loss = self.loss(outputs, targets)
        return loss if factor == 1 else loss * factor

    def _whole_batch(self, inputs: Any, targets: Any) -> StepResult:
        """The plain step: one forward and one backward pass over all samples."""
        with self.span("forward", stage=0, microbatch=self.microbatch):
            outputs = self.module(inputs)
            loss = self.piece_loss(outputs, targets) if self.trains else None
            outputs = self.main_output(outputs).detach() if self.keep_outputs else None
        if loss is not None:
            with self.span("backward", stage=0, microbatch=self.microbatch):
                loss.backward()
        return StepResult(loss if loss is None else loss.detach(), outputs)


def zero_of(outputs: Tensor) -> Tensor:
    """Returns the loss of a piece without targets: zero, also of scores that a model masks by infinities."""
    return outputs.nan_to_num(0.0, 0.0, 0.0).sum() * 0
