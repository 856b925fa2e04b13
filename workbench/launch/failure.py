"""Failure analysis: which worker caused the failure. When one dies, all others lose their connection and fail as well."""

from __future__ import annotations

import signal

from workbench.launch.spawn import WorkerProcess
from workbench.store.events import ErrorEvent, Event, FinishedEvent, StepEvent
from workbench.store.records import RunError

_SEE_LOGS = "See the traceback and the output of the workers (`workbench logs`)."
_KILLED = "The system often sends SIGKILL when memory runs out: use a smaller batch or more workers."
_HUNG = "Read the last output of that worker (`workbench logs`). If it was only slow, increase launch.timeout_s."
_ALL_BROKEN = (
    "All workers lost their connection; see `workbench logs`. If the forward pass uses some parameters only for some samples,"
    " replicas wait for gradients that are never computed: set split.data.find_unused_parameters = true."
)


def find_cause(processes: list[WorkerProcess], events: list[list[Event]], timeout_s: float, silent_s: float) -> RunError:
    """Returns the worker that caused the failure, its error, and what to try.

    The candidates, in this order: the earliest exception other than a communication error; a process that ended without an
    exception; a process that still runs while the others timed out, or while none reports anything; the earliest communication
    error.

    Args:
        timeout_s: ``launch.timeout_s``.
        silent_s: Time in seconds since the last event of any worker.
    """
    errors = sorted((e for rank in events for e in rank if isinstance(e, ErrorEvent)), key=lambda e: e.time)
    raised = {error.rank for error in errors}
    steps = [max((e.step for e in rank if isinstance(e, StepEvent)), default=None) for rank in events]
    for error in errors:
        if not error.is_communication:
            return _from_event(error, _SEE_LOGS)
    for process in processes:
        if process.exit_code is not None and process.rank not in raised and not process.ended_by_supervisor:
            code, finished = process.exit_code, any(isinstance(e, FinishedEvent) for e in events[process.rank])
            if not finished:
                ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code} before it finished"
                return RunError(
                    process.rank, ending, steps[process.rank], advice=_KILLED if code == -signal.SIGKILL else _SEE_LOGS
                )
    for process in processes:
        if process.exit_code is None and process.rank not in raised:
            limit = f"launch.timeout_s = {timeout_s:g} s"
            hung = f"hung: the other workers waited for it longer than {limit}"
            if not errors:
                hung = f"hung: no worker reported a step for {silent_s:.0f} s, longer than {limit} allows"
            return RunError(process.rank, hung, steps[process.rank], advice=_HUNG)
    return _from_event(errors[0], _ALL_BROKEN)


def _from_event(error: ErrorEvent, advice: str) -> RunError:
    advice = advice if error.advice is None else error.advice
    return RunError(error.rank, error.exception, error.step, error.traceback, error.operations, advice, error.memory)
