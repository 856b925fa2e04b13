"""What a module keeps from one call to the next besides buffers."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.messages import listed
from workbench.plan.parity import BatchDependence


@dataclass(frozen=True)
class CallState:
    """State outside of parameters and buffers on which a user's module depends."""

    attributes: tuple[str, ...]
    """Paths of the attributes that change between calls, such as ``layers.0.step``; empty if none was seen to change."""

    is_certain: bool
    """Whether the module returned something else for the same input; else that could not be tried."""

    @property
    def dependence(self) -> BatchDependence:
        """Why a split that calls the module more often than one worker does computes something else."""
        names = f"attribute{'s'[: len(self.attributes) > 1]} {listed(self.attributes)}"
        if not self.attributes:
            cause = "the module returns something else when it is called again with the same input, as if it kept a state"
        elif self.is_certain:
            cause = f"the result depends on earlier calls of the module, which change its {names} and no buffer"
        else:
            cause = f"the result may depend on earlier calls of the module, which change its {names} and no buffer"
        return BatchDependence(
            cause,
            "keep no state between calls, or call the module once per step: without microbatches, accumulation steps and"
            " activation checkpointing",
        )
