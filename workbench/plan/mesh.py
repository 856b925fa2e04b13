"""Arranges workers along named axes, outer to inner: pipeline, data, context, tensor, then the axes of external strategies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

AXES = ("pipeline", "data", "context", "tensor")
"""The built-in axes, outer to inner. The axis of an external strategy lies inside these: its workers are neighbours."""
REPLICA_AXES = ("data", "context")
"""Axes whose workers hold equal parameters and average gradients, over both axes together if a run has both."""
WORLD = "world"
"""Name used for an axis in operations of all workers."""


def uses_ddp(axes: Iterable[str]) -> bool:
    """Whether a run over these axes averages gradients with DDP, which supports neither DTensors nor pipelines."""
    return set(axes) <= set(REPLICA_AXES)


@dataclass(frozen=True)
class Mesh:
    """Sizes of the axes that a split uses; ranks count along the innermost axis first, as in torch's DeviceMesh."""

    axes: dict[str, int]
    """Axis → size, outer to inner; axes of size one are omitted."""

    @property
    def num_workers(self) -> int:
        """Number of workers, the product of the sizes."""
        return prod(self.axes.values())

    @property
    def num_replicas(self) -> int:
        """Number of workers, or groups of workers, that process different samples."""
        return self.axes.get("data", 1)

    @property
    def replica_axes(self) -> tuple[str, ...]:
        """Axes of this run over which gradients are averaged."""
        return tuple(axis for axis in REPLICA_AXES if axis in self.axes)

    @property
    def has_replicas_only(self) -> bool:
        """Whether no axis divides the model, so that DDP averages gradients."""
        return uses_ddp(self.axes)

    @property
    def num_copies(self) -> int:
        """Number of workers that hold equal parameters."""
        return prod(self.axes[axis] for axis in self.replica_axes)

    @property
    def world_axis(self) -> str:
        """Name of the group of all workers: that of the only axis, or of the replica axes, if there are no others."""
        return "+".join(self.axes) if len(self.axes) == 1 or len(self.axes) == len(self.replica_axes) else WORLD

    def groups(self, axis: str) -> list[list[int]]:
        """Returns the ranks of each group along an axis."""
        groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for rank in range(self.num_workers):
            others = tuple((a, i) for a, i in self.coordinate(rank).items() if a != axis)
            groups.setdefault(others, []).append(rank)
        return list(groups.values())

    def coordinate(self, rank: int) -> dict[str, int]:
        """Returns the position of a rank along each axis, outer to inner."""
        position: dict[str, int] = {}
        for axis in reversed(self.axes):
            rank, position[axis] = divmod(rank, self.axes[axis])
        return {axis: position[axis] for axis in self.axes}
