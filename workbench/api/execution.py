"""Execution: runs specs to their end, and compares them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from workbench.api.store import open_run
from workbench.api.stored_run import Run
from workbench.api.submission import named_baseline, submit, submit_plan
from workbench.errors import RunFailedError
from workbench.launch.termination import terminated_as_interrupted
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.store.run_status import RunState

if TYPE_CHECKING:
    from workbench.analysis.comparison import Comparison

__all__ = ["compare", "run", "terminated_as_interrupted"]


def run(spec: RunSpec, *, use_server: bool = True) -> Run:
    """Runs a spec to its end. An interrupt, SIGTERM and SIGHUP cancel the run and wait until none of its processes is left.

    Args:
        use_server: False has the effect of ``launch.fork_server = false`` in the spec.

    Raises:
        SpecError: the spec cannot be run; nothing was started.
        RunFailedError: the run failed, was cancelled or was lost; the message includes the rank and the cause.
    """
    with terminated_as_interrupted():
        finished = _wait(submit(spec, use_server=use_server))
    if finished.state is not RunState.FINISHED:
        raise RunFailedError(f"run {finished.id} {finished.state}: {finished.message}")
    return finished


def compare(chosen: Iterable[Run | RunSpec | str] | Run | RunSpec | str) -> Comparison:
    """Compares runs, given as runs, run ids or specs; specs are run first. Returns a DataFrame with the columns of ``runs`` and
    one row per run in the given order, also for a run that failed."""
    from workbench.analysis.comparison import Comparison

    chosen = [chosen] if isinstance(chosen, Run | RunSpec | str) or not isinstance(chosen, Iterable) else chosen
    items = [plan(item) if isinstance(item, RunSpec) else open_run(item) for item in chosen]
    for item in items:
        if isinstance(item, Plan):
            named_baseline(item.spec)  # like plan(), rejects a spec before the run of another starts
    with terminated_as_interrupted():
        num_new = sum(isinstance(item, Plan) for item in items)
        positions = iter(f"{number} of {num_new}" if num_new > 1 else "" for number in range(1, num_new + 1))
        runs = [_wait(submit_plan(item), next(positions)) if isinstance(item, Plan) else item for item in items]
    return Comparison([r.row() for r in runs], {r.id: r.record.threads_per_worker for r in runs})


def _wait(run: Run, position: str = "") -> Run:
    """Waits for the end of a run. An interrupt cancels the run and waits until none of its processes is left."""
    try:
        return run.wait_as(position)
    except KeyboardInterrupt:
        run.end()
        raise
