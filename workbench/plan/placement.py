"""The memory model of a split: what one worker holds of the model, and for how many microbatches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.errors import PluginError
from workbench.plan.model_summary import ModelSummary


@dataclass(frozen=True)
class Placement:
    """What one worker holds of a model. By default it computes with, allocates and updates its part of the model, no more."""

    local_model: ModelSummary
    """The part of the model that the worker holds."""

    gathered: ModelSummary = None  # type: ignore[assignment]
    """The part that it computes with, including parameters that it gathers for this from other workers."""

    allocated: ModelSummary = None  # type: ignore[assignment]
    """The parameters that it allocates, including padding."""

    updated: ModelSummary = None  # type: ignore[assignment]
    """The part that its optimizer updates."""

    allocates_unused: bool = False
    """Whether it allocates gradients of unused parameters, as in DDP's buckets."""

    in_flight: int | None = 1
    """Largest number of microbatches whose activations it holds at once; None without a formula."""

    outputs_kept: int = 0
    """Number of microbatches whose outputs of the last block it holds beside the saved activations."""

    def __post_init__(self) -> None:
        for field in ("gathered", "allocated", "updated"):
            if getattr(self, field) is None:
                object.__setattr__(self, field, self.local_model)

    def then(self, place: Callable[[ModelSummary, int], Placement], index: int) -> Placement:
        """Returns the placement by one more strategy.

        Args:
            place: ``Strategy.place`` of this strategy.
            index: position of the worker along its axis.

        Raises:
            PluginError: ``place`` does not return a ``Placement``.
        """
        placements: dict[int, Placement] = {}  # mostly one, since the four are one summary until something is sharded

        def of(held: ModelSummary) -> Placement:
            if id(held) not in placements:
                placements[id(held)] = place(held, index)
            return placements[id(held)]

        placement = of(self.local_model)
        if not isinstance(placement, Placement):
            raise PluginError(
                f"{place.__qualname__} must return Placement(local_model), but returned a {type(placement).__name__}"
            )
        return Placement(
            placement.local_model,
            of(self.gathered).gathered,
            of(self.allocated).allocated,
            of(self.updated).updated,
            self.allocates_unused or placement.allocates_unused,
            None if self.in_flight is None or placement.in_flight is None else self.in_flight * placement.in_flight,
            self.outputs_kept + placement.outputs_kept,
        )
