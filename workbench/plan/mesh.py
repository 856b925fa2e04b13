"""Workers arranged along named axes, outer to inner: pipeline, data, context, tensor, then those of strategies from outside."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

AXES = ("pipeline", "data", "context", "tensor")
"""The built-in axes. One that a strategy from outside names stands inside these: its workers are neighbours."""
REPLICA_AXES = ("data", "context")
"""Axes whose workers hold equal parameters and average their gradients: over both together where a run has both."""
WORLD = "world"
"""What stands in an axis' place where all workers take part."""


@dataclass(frozen=True)
class Mesh:
    """Sizes of the axes that a split uses; ranks count along the innermost axis first, as in torch's DeviceMesh."""

    axes: dict[str, int]
    """Axis → size, outer to inner; an axis of one worker is left out."""

    @property
    def num_workers(self) -> int:
        """Product of the sizes."""
        return prod(self.axes.values())

    @property
    def num_replicas(self) -> int:
        """Workers, or groups of workers, that compute different samples."""
        return self.axes.get("data", 1)

    @property
    def replica_axes(self) -> tuple[str, ...]:
        """The axes of this run that gradients are averaged over."""
        return tuple(axis for axis in REPLICA_AXES if axis in self.axes)

    @property
    def num_copies(self) -> int:
        """Workers that hold equal parameters."""
        return prod(self.axes[axis] for axis in self.replica_axes)

    @property
    def world_axis(self) -> str:
        """What a group of all workers is called: as the axis, or the axes of replicas, where there are no others."""
        return "+".join(self.axes) if len(self.axes) == 1 or len(self.axes) == len(self.replica_axes) else WORLD

    def groups(self, axis: str) -> list[list[int]]:
        """Ranks that talk to one another along an axis, a list a group."""
        groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for rank in range(self.num_workers):
            others = tuple((a, i) for a, i in self.coordinate(rank).items() if a != axis)
            groups.setdefault(others, []).append(rank)
        return list(groups.values())

    def coordinate(self, rank: int) -> dict[str, int]:
        """Position of a rank along each axis, outer to inner."""
        position: dict[str, int] = {}
        for axis in reversed(self.axes):
            rank, position[axis] = divmod(rank, self.axes[axis])
        return {axis: position[axis] for axis in self.axes}
