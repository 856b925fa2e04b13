"""The errors of a parity check against one reference, and what they tell of a model that does not declare their cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workbench.plan.parity import BatchDependence


@dataclass
class Errors:
    """Errors against one reference over all steps."""

    worst: tuple[float, str] = (0.0, "none")
    """The largest, and of which tensor."""

    wrong: set[str] = field(default_factory=set)
    """Names of tensors whose error was ever larger than rounding."""

    def add(self, errors: Mapping[str, float], rounding: float) -> bool:
        """Adds those of a step; whether all of them are rounding."""
        self.worst = max([self.worst, *((error, name) for name, error in errors.items())])
        wrong = {name for name, error in errors.items() if not error <= rounding}
        self.wrong |= wrong
        return not wrong


def undeclared(wrong: set[str]) -> BatchDependence:
    """What the tensors that the whole batch gives otherwise tell of a model that does not declare why."""
    if "outputs" in wrong:
        return BatchDependence(
            "the outputs of a sample depend on other samples, which the model does not declare (Model.batch_dependence)",
            "use group or layer normalization, SyncBatchNorm or frozen statistics",
        )
    if "loss" in wrong:
        return BatchDependence(
            "the loss of the batch is not the mean of the losses of its shards, weighted by Model.loss_weight",
            "make the loss a mean over targets, with their number from Model.loss_weight; a contrastive loss requires one shard",
        )
    return BatchDependence(
        "gradients have a term that is computed per shard, such as that of an auxiliary loss",
        "remove that term",
    )
