"""Verdicts of the parity check, and why a model may depend on the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["equal", "equal per shard", "lossy", "undecided", "wrong"]
VERDICTS: tuple[Verdict, ...] = ("equal", "equal per shard", "lossy", "undecided", "wrong")
"""``equal``: the split computes what one worker computes on the whole batch. ``equal per shard``: it computes what one worker
computes on the same shards of the batch, which differs from the whole batch for this model. ``lossy``: a strategy deliberately
changes gradients or parameters. ``undecided``: the model amplifies rounding by so much that one worker differs from itself about
as much as the split does from it. ``wrong``: none of these."""

LOWER_ROUNDING = 1e-6
"""Largest error that is rounding in fp64 if the model computes parts in fp32, whose sums over a batch differ by a few roundings
of 2⁻²⁴."""


@dataclass(frozen=True)
class BatchDependence:
    """Why the result of a model for a sample depends on other samples of the batch."""

    cause: str
    """The cause, a clause: ``batch normalization computes its statistics over each shard``."""

    remedy: str
    """The change that makes every split equal to one worker, a clause that starts with a verb: ``set model.norm = "group"``."""


BATCH_NORM = BatchDependence(
    "batch normalization computes its statistics over each shard of the batch",
    "use group or layer normalization, freeze the statistics, or set split.data.sync_batch_norm = true without microbatches"
    " or accumulation steps",
)

BATCH_LOSS = BatchDependence(
    "the loss is no mean or sum over samples or targets",
    "compute a loss that is, or use layer or tensor, which compute the whole batch",
)


def verdict(row: Mapping[str, Any]) -> Verdict | None:
    """Returns the verdict in a row of ``runs`` or a summary; None if parity was not checked. Runs of older versions have only
    ``parity_ok``."""
    if (recorded := row.get("parity_verdict")) is not None:
        return recorded
    return _of_ok(row.get("parity_ok"), row.get("parity_max_error"))


def is_comparable(row: Mapping[str, Any]) -> bool:
    """Whether a row's figures are those of the same computation: how fast something else is computed says nothing."""
    return verdict(row) not in ("undecided", "wrong")


def verdict_of_event(event: Mapping[str, Any]) -> Verdict | None:
    """Returns the verdict in the event ``parity`` of a worker."""
    recorded: Verdict | None = event.get("verdict")
    return recorded or _of_ok(event["ok"], event.get("max_error", 0.0))


def _of_ok(ok: bool | None, max_error: float | None) -> Verdict | None:
    unequal: Verdict | None = None if max_error is None else "lossy"
    return {True: "equal", False: "wrong", None: unequal}[ok]
