"""Verdicts of the parity check as texts for tables, pages and findings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.plan.parity import LOWER_ROUNDING, verdict
from workbench.store.events import ParityEvent

Row = Mapping[str, Any]
CELLS = {
    "equal": "equal",
    "equal per shard": "equal per shard",
    "lossy": "lossy",
    "undecided": "undecided",
    "wrong": "WRONG",
    None: "–",
}
TEXTS = {
    "equal": "equals one worker",
    "equal per shard": "equals one worker per shard",
    "lossy": "lossy on purpose",
    "undecided": "undecided",
    "wrong": "WRONG",
    None: "not checked",
}
HELP = (
    "Whether the split computes what one worker computes, checked before the run: on the whole batch (equal) or only on the"
    " same shards of it (equal per shard)."
)


def cell(row: Row) -> str:
    """Returns the verdict for a table cell: ``equal``."""
    return CELLS[verdict(row)]


def parity_text(row: Row) -> str:
    """Returns the verdict as a phrase: ``equals one worker``."""
    return TEXTS[verdict(row)]


def event_text(event: ParityEvent) -> str:
    """Returns the verdict in the event ``parity`` of a worker, as a phrase."""
    texts = {**TEXTS, "wrong": "DIFFERS from one worker", "lossy": "differs on purpose (lossy)"}
    reason = f" ({event.cause})" if event.verdict in ("equal", "undecided", "wrong") and event.cause else ""
    return texts[event.verdict] + reason


def lower_precision(row: Row) -> str:
    """Says why a run that equals one worker may differ from it by more than rounding in fp64; empty if it does not."""
    cause = row.get("parity_cause")
    return f"{cause} inside the fp64 check, which allows {LOWER_ROUNDING:.0e} for it" if cause and verdict(row) == "equal" else ""


def per_shard(row: Row) -> str:
    """Describes how far a run is from one worker on the whole batch, why, and what would remove the difference."""
    error = row.get("parity_whole_batch_error")
    size = "" if error is None else f" by up to {error:.1e}"
    where = f" (in {row['parity_whole_batch_tensor']})" if row.get("parity_whole_batch_tensor") else ""
    text = f"differs{size}{where} from one worker on the whole batch"
    if row.get("parity_cause"):
        text += f": {row['parity_cause']}"
    purpose = "remove this difference" if verdict(row) == "lossy" else "make them equal"
    return text + (f". To {purpose}, {row['parity_remedy']}" if row.get("parity_remedy") else "")
