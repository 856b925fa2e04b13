"""Failure analysis: which worker caused the failure. When one dies, all others lose their connection and fail as well."""

from __future__ import annotations

import signal
from typing import Any

from workbench.launch.spawn import WorkerProcess
from workbench.store.json_record import from_json
from workbench.store.records import ExceededBudget, RunError

_ALL_BROKEN = (
    "All workers lost their connection; see `workbench logs`. If the forward pass uses some parameters only for some samples,"
    " replicas wait for gradients that are never computed: set split.data.find_unused_parameters = true."
)


def find_cause(processes: list[WorkerProcess], events: list[list[dict[str, Any]]]) -> RunError:
    """Returns the worker that caused the failure, and its error.

    The candidates, in this order: the earliest exception other than a communication error; a process that ended without an
    exception; a process that still runs while the others timed out; the earliest communication error.
    """
    errors = sorted((e for rank in events for e in rank if e["event"] == "error"), key=lambda e: e["time"])
    raised = {error["rank"] for error in errors}
    steps = [max((e["step"] for e in rank if e["event"] == "step"), default=None) for rank in events]
    for error in errors:
        if not error["is_communication"]:
            return _from_event(error, "See the traceback and the output of the workers (`workbench logs`).")
    for process in processes:
        if process.exit_code is not None and process.rank not in raised and not process.ended_by_supervisor:
            code, finished = process.exit_code, any(e["event"] == "finished" for e in events[process.rank])
            if not finished:
                ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code} before it finished"
                advice = "The system often sends SIGKILL when memory runs out: use a smaller batch or more workers."
                return RunError(process.rank, ending, steps[process.rank], advice=advice if code == -signal.SIGKILL else "")
    for process in processes:
        if process.exit_code is None and process.rank not in raised:
            return RunError(process.rank, "hung: other ranks timed out waiting for this one", steps[process.rank])
    return _from_event(errors[0], _ALL_BROKEN)


def _from_event(error: dict[str, Any], advice: str) -> RunError:
    return RunError(
        error["rank"],
        error["exception"],
        error["step"],
        error["traceback"],
        tuple(error["operations"]),
        error.get("advice", advice),
        from_json(ExceededBudget, error["memory"]) if error.get("memory") else None,
    )
