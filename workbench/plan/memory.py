"""Computes the expected memory of a worker, by formula."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from workbench.plan.optimizer import optimizer_state_bytes

if TYPE_CHECKING:
    from workbench.plan.plan import Plan
    from workbench.plan.rank_view import RankView

_SMALLER_PIECES = "smaller microbatches (split.data.num_accumulation_steps, or more microbatches with 1f1b)"
REMEDIES = {
    "parameters": "split the model (pipeline, tensor) or shard its parameters (fsdp)",
    "gradients": "split the model (pipeline, tensor) or shard its gradients (zero2, fsdp)",
    "optimizer_state": "shard the optimizer state (zero1, zero2, fsdp), or use train.optimizer = momentum or sgd",
    "activations": "use train.checkpointing = full in training, tensor slicing, a smaller train.global_batch_size or"
    f" {_SMALLER_PIECES}",
    "communication": "use more stages or smaller microbatches",
    "workspace": f"use {_SMALLER_PIECES} or tensor slicing: kernels allocate memory in proportion to the size of their inputs",
    "other": "use a smaller train.global_batch_size, or split it over more workers",
}
"""Category of memory → how to reduce it."""


@dataclass(frozen=True)
class ExpectedMemory:
    """Expected bytes by category."""

    parameters: int
    gradients: int
    """Held from the end of the backward pass until the update."""
    optimizer_state: int | None
    """Held from the first update on; None for an optimizer of the user's own whose state is no multiple of the parameters."""
    activations: int | None
    """Maximum at the beginning of a backward pass; None without a formula."""

    @property
    def total_bytes(self) -> int:
        """Sum of the categories that have a formula."""
        return self.parameters + self.gradients + (self.optimizer_state or 0) + (self.activations or 0)


def expected_memory(plan: Plan, rank: int) -> ExpectedMemory:
    """Returns the expected memory of worker ``rank``, including rows that a strategy pads, as they are allocated."""
    rank_view, size = plan.rank_view(rank), plan.spec.train.element_bytes
    allocated, updated = rank_view.placement.allocated, rank_view.placement.updated
    parameters = allocated.num_parameters * size
    if not rank_view.trains:
        return ExpectedMemory(parameters, 0, 0, None)
    state = optimizer_state_bytes(plan, updated)
    with_gradient = allocated.trained_parameters
    if rank_view.placement.allocates_unused and rank_view.mesh.has_replicas_only:
        with_gradient += allocated.unused_parameters
    gradients = sum(p.numel for p in with_gradient) * size
    return ExpectedMemory(parameters, gradients, state, _activations(plan, rank_view))


def _activations(plan: Plan, rank_view: RankView) -> int | None:
    """Returns the saved activations of all samples in flight; a sharded block is gathered while it computes."""
    placement = rank_view.placement
    if placement.in_flight is None or not all(p.has_gradient for p in plan.full_model.parameters):
        return None  # a schedule without a formula; frozen layers save less than the formulas of the models
    sequence = plan.full_model.sequence_length
    positions = sequence // plan.mesh.axes.get("context", 1) if sequence else None
    blocks = placement.gathered.blocks
    total = plan.model.kept_bytes_of_stage(blocks, positions, rank_view.compute_bytes, plan.spec.train.checkpointing)
    if total is None:
        return None
    for block in blocks:
        if block.name == plan.full_model.blocks[-1].name:  # the loss saves its intermediate results at full precision
            elements = positions * prod(block.output_shape[1:]) if positions else prod(block.output_shape)
            total += elements * (rank_view.element_bytes - rank_view.compute_bytes)
    output = prod(placement.gathered.blocks[-1].output_shape) * rank_view.compute_bytes
    total = total * placement.in_flight + placement.outputs_kept * output
    return total * (rank_view.num_samples // rank_view.num_microbatches) + _copies(plan, rank_view)


def _copies(plan: Plan, rank_view: RankView) -> int:
    """Returns the bytes of the copies of the parameters in the compute dtype under mixed precision; with FSDP these are the
    gathered parameters."""
    is_mixed = plan.spec.train.mixed_precision != "none"
    makes_copies = is_mixed and not any(strategy.casts_parameters for strategy in plan.strategies)
    return rank_view.local_model.num_parameters * plan.spec.train.compute_bytes if makes_copies else 0
