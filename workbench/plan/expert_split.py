"""Which mixtures of experts of a user's module can be divided over workers, as a trial has found."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.messages import listed


@dataclass(frozen=True)
class MixtureTensor:
    """A tensor that a mixture takes or returns, with the tokens of the batch as dim 0."""

    leaf: int
    """Its position among the values that the mixture takes or returns."""

    elements: int
    """Number of elements per sample."""

    element_bytes: int | None
    """Bytes of an element, if they do not depend on the precision of the run; else None."""

    has_gradient: bool
    is_summed: bool = False
    """Of what it returns: whether it is the sum over the experts; else each worker computes it of the whole batch."""


@dataclass(frozen=True)
class ExpertMixture:
    """A module of which each worker computes a part of the experts, for the tokens of all workers of its group."""

    path: str
    experts: str
    """Path of the list of experts; of experts in stacked parameters that of the module itself."""

    parameters: tuple[tuple[str, ...], ...]
    """Names in the summary of the parameters of each expert; of stacked ones a single tuple."""

    num_experts: int
    taken: tuple[MixtureTensor, ...]
    returned: tuple[MixtureTensor, ...]
    output_features: int = 0
    """Last dim of what an expert of a list returns."""

    slots: tuple[int, int, int] | None = None
    """Of stacked experts: the positions among the values taken of the tokens (tokens, features), of the indices of the experts of
    each and of their weights, both (tokens, top_k). None for a list of experts."""


@dataclass(frozen=True)
class RejectedMixture:
    """A module that is named as a mixture, or looks like one, but cannot be divided."""

    path: str
    reason: str


@dataclass(frozen=True)
class ExpertSplit:
    """The mixtures of a module."""

    mixtures: tuple[ExpertMixture, ...] = ()
    rejected: tuple[RejectedMixture, ...] = ()

    @property
    def refusal(self) -> str:
        """Why no expert is divided, a clause; empty if some are."""
        if self.mixtures:
            return ""
        return self.problems or ("no mixture of experts was recognised in it; name its modules as model.mixtures")

    @property
    def problems(self) -> str:
        """Why some mixtures cannot be divided, a clause; the same reason once. Empty if all can."""
        paths: dict[str, list[str]] = {}
        for mixture in self.rejected:
            paths.setdefault(mixture.reason, []).append(mixture.path)
        return "; ".join(f"{listed(of_reason)}: {reason}" for reason, of_reason in paths.items())
