"""How much each piece of a batch counts in the mean loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The target that a loss leaves out: the default ``ignore_index`` of ``torch.nn.functional.cross_entropy``."""


@dataclass(frozen=True)
class LossWeights:
    """The weights of the pieces of one global batch.

    Replicas, microbatches and parts of a sequence are equal pieces, and every strategy averages their gradients alike. A
    piece's loss is the mean over its own targets, so where the pieces have unequal numbers of targets that count, the loss of
    each is first multiplied by its share of all of them.
    """

    weigh: Callable[[Tensor], float]
    """``Model.loss_weight``."""

    total: float
    """Weight of the global batch."""

    num_targets: int
    """Elements of the global batch's targets."""

    def factor(self, targets: Tensor) -> float:
        """What a piece's loss is multiplied by: with weights w, total W and N equal pieces N·w / W, so that the plain mean
        over the pieces is Σ w·loss / W. 1 for equal weights; 0 for a piece, or a batch, of no weight."""
        num_pieces = self.num_targets // targets.numel()
        return self.weigh(targets) * num_pieces / self.total if self.total else 0.0
