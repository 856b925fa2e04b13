"""Weights the losses of the pieces of a batch, so that their mean is the loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

LossReduction = Literal["mean", "targets", "next targets", "sum", "batch"]
"""What a loss of one's own is: the mean over samples, over the targets that are not ignored, or over these from the second
position on; the sum over samples; or a function of the whole batch that is none of these."""

IGNORED = -100
"""Target that a loss ignores: the default ``ignore_index`` of ``torch.nn.functional.cross_entropy``."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the pieces of one global batch.

    Replicas, microbatches and parts of a sequence are pieces of equal size, and every strategy averages their gradients
    uniformly. The loss of a piece is the mean over its own targets. If pieces have different numbers of targets that count, each
    loss is multiplied by its share of all targets.
    """

    weigh: Callable[[Any], float]
    """The function ``Model.loss_weight``."""

    total: float
    """Total weight of the global batch."""

    num_targets: int
    """Number of targets of the global batch: of elements of a tensor, or of samples with several."""

    count: Callable[[Any], int] = lambda targets: targets.numel()
    """Returns the number of targets of a piece."""

    def factor(self, targets: Any) -> float:
        """Returns the factor of a piece's loss. With weights w, total W and N equal pieces it is N·w / W, so that the mean over
        the pieces is Σ w·loss / W: 1 for equal weights, 0 for a piece or a batch without weight."""
        num_pieces = self.num_targets // self.count(targets)
        return self.weigh(targets) * num_pieces / self.total if self.total else 0.0
