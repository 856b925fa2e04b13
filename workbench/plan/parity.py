"""What the parity check can find, and what a model says of itself that decides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["equal", "equal per shard", "lossy", "wrong"]
VERDICTS: tuple[Verdict, ...] = ("equal", "equal per shard", "lossy", "wrong")
"""``equal``: the split computes what one worker computes of the whole batch. ``equal per shard``: it computes what one worker
computes of the same shards of the batch, one after the other, which is something else for this model. ``lossy``: a strategy
changes gradients or parameters on purpose. ``wrong``: none of these."""


@dataclass(frozen=True)
class BatchDependence:
    """Why what a model computes of a sample depends on the samples beside it."""

    cause: str
    """A clause: ``batch normalization computes its statistics over each shard``."""

    remedy: str
    """What makes every split equal to one worker, a clause that begins with a verb: ``set model.norm = "group"``."""


BATCH_NORM = BatchDependence(
    "batch normalization computes its statistics over each shard of the batch",
    "use group or layer normalization, freeze the statistics, or set split.data.sync_batch_norm = true without microbatches"
    " or accumulation steps",
)


def verdict(row: Mapping[str, Any]) -> Verdict | None:
    """The verdict in a row of ``runs`` or a summary; None where parity was not checked. Runs recorded before there was a
    comparison with the whole batch have ``parity_ok`` alone."""
    if (recorded := row.get("parity_verdict")) is not None:
        return recorded
    return _of_ok(row.get("parity_ok"), row.get("parity_max_error"))


def verdict_of_event(event: Mapping[str, Any]) -> Verdict | None:
    """The verdict in a worker's event ``parity``."""
    recorded: Verdict | None = event.get("verdict")
    return recorded or _of_ok(event["ok"], event.get("max_error", 0.0))


def _of_ok(ok: bool | None, max_error: float | None) -> Verdict | None:
    unequal: Verdict | None = None if max_error is None else "lossy"
    return {True: "equal", False: "wrong", None: unequal}[ok]
