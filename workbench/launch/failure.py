"""Which worker caused a failure. When one dies, all others lose their connection to it, and look just as broken."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass, field
from typing import Any

from workbench.launch.spawn import WorkerProcess

_ALL_BROKEN = (
    "All workers lost their connection; see `workbench logs`. If the forward pass uses some parameters only for some samples,"
    " replicas wait for gradients that are never computed: set split.data.find_unused_parameters = true."
)


@dataclass(frozen=True)
class Blame:
    """What ended the run, as ``error.json`` has it."""

    rank: int
    exception: str
    step: int | None = None
    traceback: str = ""
    operations: list[str] = field(default_factory=list)
    advice: str = ""
    memory: dict[str, Any] | None = None
    """What was alive when a memory budget was exceeded."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def find_cause(processes: list[WorkerProcess], events: list[list[dict[str, Any]]]) -> Blame:
    """In this order: a worker that raised something of its own (the earliest), that died without a word, that is still
    waited for, that raised a communication error (the earliest)."""
    errors = sorted((e for rank in events for e in rank if e["event"] == "error"), key=lambda e: e["time"])
    raised = {error["rank"] for error in errors}
    steps = [max((e["step"] for e in rank if e["event"] == "step"), default=None) for rank in events]
    for error in errors:
        if not error["is_communication"]:
            return _from_event(error, "See the traceback and the output of the workers (`workbench logs`).")
    for process in processes:
        if process.exit_code is not None and process.rank not in raised and not process.ended_by_us:
            code, finished = process.exit_code, any(e["event"] == "finished" for e in events[process.rank])
            if not finished:
                how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code} before it finished"
                advice = "The system often sends SIGKILL when memory runs out: use a smaller batch or more workers."
                return Blame(process.rank, how, steps[process.rank], advice=advice if code == -signal.SIGKILL else "")
    for process in processes:
        if process.exit_code is None and process.rank not in raised:
            return Blame(process.rank, "hung: other ranks timed out waiting for this one", steps[process.rank])
    return _from_event(errors[0], _ALL_BROKEN)


def _from_event(error: dict[str, Any], advice: str) -> Blame:
    return Blame(
        error["rank"],
        error["exception"],
        error["step"],
        error["traceback"],
        error["operations"],
        error.get("advice", advice),
        error.get("memory"),
    )
