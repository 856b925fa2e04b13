"""Why a run did not finish, and what to try, as a card says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.store.listing import state_of
from workbench.store.run_directory import RunDirectory

NUM_LINES = 12
_LESS_MEMORY = "If memory ran out: a smaller global batch, checkpointing, or sharded parameters (data, shard = parameters)."
_BY_WORD = {
    "SIGKILL": _LESS_MEMORY,
    "out of memory": _LESS_MEMORY,
    "hung": "Read what that worker printed last; if it was only slow, raise launch.timeout_s.",
    "its owner process is gone": "The machine was restarted or the owner was killed: run it again.",
    "block_times": "Another partition than time needs no measurement before the run.",
}


@dataclass(frozen=True)
class Failure:
    """One card."""

    state: str
    reason: str
    worker: int | None
    step: int | None
    last_lines: list[str]
    operations: list[str]
    advice: list[str]


def failure(run: RunDirectory) -> Failure | None:
    """Of a run that failed, was cancelled or lost; None of others."""
    state = state_of(run)
    if state not in ("failed", "lost", "cancelled"):
        return None
    error: dict[str, Any] = run.error() or {}
    reason = str(error.get("exception") or run.status().get("message") or "nothing was recorded")
    said = f"{reason} {run.status().get('message', '')}"
    advice = [str(error["advice"])] if error.get("advice") else [text for word, text in _BY_WORD.items() if word in said]
    if state == "cancelled":
        advice = ["Run it again from Configure: its spec is kept."]
    lines = [str(line) for line in error.get("last_lines") or []][-NUM_LINES:]
    operations = [str(operation) for operation in error.get("operations") or []][-NUM_LINES:]
    return Failure(state, reason, error.get("rank"), error.get("step"), lines, operations, advice or ["Read the workers' logs."])
