"""One worker's share of a step, as far as arithmetic knows it: where it stands and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.plan.mesh import Mesh
from workbench.plan.model_summary import ModelSummary

if TYPE_CHECKING:
    from workbench.spec.run_spec import RunSpec


@dataclass(frozen=True)
class RankView:
    """The share of worker ``rank``."""

    spec: RunSpec
    mesh: Mesh
    rank: int
    num_samples: int
    """Samples of a step that pass through this worker."""

    num_microbatches: int
    """Equal pieces that they are computed in, one after the other."""

    full_model: ModelSummary
    """The unsplit model."""

    local_model: ModelSummary
    """What it holds once every strategy has made its cut."""

    local_model_all_stages: ModelSummary
    """The same with the blocks of the other stages: what the workers at its place in every stage hold together."""

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of a parameter or gradient."""
        return self.spec.train.element_bytes

    @property
    def compute_bytes(self) -> int:
        """Bytes of one element of an activation, or of a parameter that is gathered to be computed with."""
        return self.spec.train.compute_bytes

    @property
    def trains(self) -> bool:
        """Whether there is a backward pass."""
        return self.spec.mode == "train"

    def index(self, axis: str) -> int:
        """Its position along an axis; 0 where the mesh has no such axis."""
        return self.mesh.coordinate(self.rank).get(axis, 0)

    def output_shape(self, block: str) -> tuple[int, ...]:
        """Shape, per sample, of what a block hands on here: a part of the sequence where that is split."""
        return next(b.output_shape for b in self.local_model_all_stages.blocks if b.name == block)
