"""The plan of one rank: its position in the mesh, its samples and its part of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.plan.mesh import Mesh
from workbench.plan.model_summary import ModelSummary
from workbench.plan.placement import Placement

if TYPE_CHECKING:
    from workbench.spec.run_spec import RunSpec


@dataclass(frozen=True)
class RankView:
    """The plan of worker ``rank``: the input of the formulas for its communication and memory."""

    spec: RunSpec
    mesh: Mesh
    rank: int
    num_samples: int
    """Number of samples per step that pass through this worker."""

    num_microbatches: int
    """Number of microbatches that these samples are divided into."""

    full_model: ModelSummary
    """The unsplit model."""

    placement: Placement
    """What this worker holds, after all strategies."""

    local_model_all_stages: ModelSummary
    """``local_model`` with the blocks of the other stages: the part that the workers at the same position in all stages hold."""

    @property
    def local_model(self) -> ModelSummary:
        """The part of the model that this worker holds."""
        return self.placement.local_model

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of a parameter or gradient."""
        return self.spec.train.element_bytes

    @property
    def compute_bytes(self) -> int:
        """Bytes of one element of an activation, or of a parameter gathered for computation."""
        return self.spec.train.compute_bytes

    @property
    def trains(self) -> bool:
        """Whether there is a backward pass."""
        return self.spec.mode == "train"

    def index(self, axis: str) -> int:
        """Returns the position along an axis; 0 if the mesh has no such axis."""
        return self.mesh.coordinate(self.rank).get(axis, 0)

    def output_shape(self, block: str) -> tuple[int, ...]:
        """Returns the shape per sample of the output of a block on this worker, such as a part of the sequence under context
        parallelism."""
        return next(b.output_shape for b in self.local_model_all_stages.blocks if b.name == block)

    def crossing_shapes(self, block: str) -> tuple[tuple[int, ...], ...]:
        """Returns the shapes per sample of the tensors that cross a cut after a block on this worker."""
        return next(b.crossing_shapes for b in self.local_model_all_stages.blocks if b.name == block)
