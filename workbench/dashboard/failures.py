"""Why a run did not finish, and what to try, as a card says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.runs.directory import RunDirectory
from workbench.runs.listing import state_of

NUM_LINES = 12
_LESS_MEMORY = (
    "If the worker ran out of memory: reduce the global batch size, enable checkpointing, or shard the parameters"
    " (split.data.shard = parameters)."
)
_BY_WORD = {
    "SIGKILL": _LESS_MEMORY,
    "out of memory": _LESS_MEMORY,
    "hung": "Read the last output of that worker. If it was only slow, increase launch.timeout_s.",
    "process is gone": "The machine was restarted or the supervisor was killed: run it again.",
    "block_times": "Use a partition other than time: it needs no measurement before the run.",
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
    reason = str(error.get("exception") or run.status().get("message") or "No reason was recorded.")
    said = f"{reason} {run.status().get('message', '')}"
    advice = [str(error["advice"])] if error.get("advice") else [text for word, text in _BY_WORD.items() if word in said]
    if state == "cancelled":
        advice = ["To run it again, load its spec in Configure."]
    lines = [str(line) for line in error.get("last_lines") or []][-NUM_LINES:]
    operations = [str(operation) for operation in error.get("operations") or []][-NUM_LINES:]
    return Failure(
        state, reason, error.get("rank"), error.get("step"), lines, operations, advice or ["Read the logs of the workers."]
    )
