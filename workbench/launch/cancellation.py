"""Cancellation of a run and of the baselines that only this run needs. The CLI, the API, the pages and the widgets use it.

A request is the file ``cancel`` in the run directory. The supervisor (``supervisor.py``) polls for it, ends the workers
(``Workers.end`` in ``spawn.py``: SIGTERM, then SIGKILL) and then writes the state ``cancelled``.
"""

from __future__ import annotations

from workbench.store.active import ActiveRuns
from workbench.store.directory import RunDirectory
from workbench.store.state import state_of


def cancel(run: RunDirectory) -> list[RunDirectory]:
    """Requests the cancellation of a run and of its baselines that were started as baselines and that no other run waits for.
    Returns the runs whose end was requested, this one first; none if it has ended."""
    if state_of(run).is_terminal:
        return []
    others = {other.id: other for other in ActiveRuns(run.path.parent.parent).read() if other.id != run.id}
    run.request_cancel()
    cancelled = [run]
    for baseline in reversed(run.record().baseline_ids):  # the second baseline may itself wait for the first
        needed_by = (other for other in others.values() if other.id != baseline and not other.cancel_requested())
        if baseline not in others or any(baseline in other.record().baseline_ids for other in needed_by):
            continue
        if others[baseline].record().started_as_baseline:  # a run that was submitted by itself continues
            others[baseline].request_cancel()
            cancelled.append(others[baseline])
    return cancelled
