"""How a model generates tokens, and in which forward passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.spec.run_spec import Inference


@dataclass(frozen=True)
class Generation:
    """How a model generates: by default with a key/value cache, and scores of the last position only."""

    refusal: str = ""
    """Why it cannot, a clause; empty if it can."""

    no_cache: str = ""
    """Why it has no cache and computes all positions for every token, a clause; empty if it has one."""

    sequence_length: int = 0
    """Number of positions of a sample, which a model without a cache computes for every token."""

    scores_last: bool = True
    """Whether the head computes the last of the new positions only."""

    not_staged: tuple[tuple[str, str], ...] = ()
    """Blocks after which stages that generate cannot be cut, each with the reason, a clause."""

    def passes(self, options: Inference) -> list[tuple[int, int]]:
        """Returns the forward passes of a generation, as (positions per sample, number of passes): the prompt, then each new
        token except the last; without a cache, all positions for each token."""
        if self.no_cache:
            return [(self.sequence_length, options.num_new_tokens)]
        return [(options.prompt_length, 1), (1, options.num_new_tokens - 1)]

    def head_passes(self, options: Inference) -> list[tuple[int, int]]:
        """Returns the positions that the head computes in these passes."""
        return [(1, options.num_new_tokens)] if self.scores_last else self.passes(options)


CACHED = Generation()
"""With a cache, on any number of workers."""
