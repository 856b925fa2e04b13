"""Cancellation of a run and of the baselines that only this run needs. The CLI, the API, the pages and the widgets use it.

A request is the file ``cancel`` in the run directory. The supervisor (``supervisor.py``) polls for it, ends the workers
(``Workers.end`` in ``spawn.py``: SIGTERM, then SIGKILL) and then writes the state ``cancelled``.
"""

from __future__ import annotations

from workbench.store import listing
from workbench.store.active_runs import ActiveRuns
from workbench.store.directory import RunDirectory


def cancel(run: RunDirectory) -> list[RunDirectory]:
    """Requests the cancellation of a run and of its baselines that were started as baselines and that no other run waits for.
    Returns the runs whose end was requested, this one first; none if it has ended."""
    if listing.state_of(run).is_terminal:
        return []
    others = {other.id: other for other in ActiveRuns(run.path.parent.parent).read() if other.id != run.id}
    run.request_cancel()
    cancelled = [run]
    for baseline in reversed(baseline_ids(run)):  # the second baseline may itself wait for the first
        needed_by = (other for other in others.values() if other.id != baseline and not other.cancel_requested())
        if baseline not in others or any(baseline in baseline_ids(other) for other in needed_by):
            continue
        if others[baseline].record().get("started_as_baseline", True):  # a run that was submitted by itself continues
            others[baseline].request_cancel()
            cancelled.append(others[baseline])
    return cancelled


def baseline_ids(run: RunDirectory) -> list[str]:
    """Returns the ids of the runs on one worker that the run is compared with."""
    record = run.record()
    ids = (record.get("baseline_run_id"), record.get("same_cores_baseline_run_id"))
    return [other for other in dict.fromkeys(ids) if other and other != run.id]
