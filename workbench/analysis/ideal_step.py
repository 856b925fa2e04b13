"""Why the steps of a pipeline are longer than the ideal of their schedule, as sentences."""

from __future__ import annotations

from workbench.analysis.bubble import mean_of, pipelines
from workbench.analysis.formatting import seconds
from workbench.messages import listed
from workbench.store.directory import StoredRun

LEAST_SHARE = 0.01
"""Share of the step below which a cause is not named."""


def ideal_sentences(run: StoredRun) -> list[str]:
    """Returns why the trace steps of a run differ from the ideal of their schedule, and what makes workers wait in the ideal;
    empty without a pipeline or a trace step."""
    means = mean_of(pipelines(run).values())
    if not means:
        return []
    measured, ideal = means["measured step"], means["ideal step"]
    more = measured - ideal
    # A step is work, communication and idle time, the ideal step work and idle time: the rest of the difference is communication.
    blocked = more - means["communication"] - means["rest"]
    least = LEAST_SHARE * measured
    causes = (
        (blocked, "in which communication blocks the workers"),
        (means["communication"], "of waits that this communication causes"),
        (means["rest"], "of waits for actions that took longer than on average, or for another program"),
    )
    savings = (
        (-means["communication"], "in which communication blocks workers that would wait anyway"),
        (-means["rest"], "that workers waited less than in a replay with the mean time of each action"),
    )
    named, saved = ([f"{seconds(time_s)} {cause}" for time_s, cause in of if time_s > least] for of in (causes, savings))
    if more > least and named:
        start = (
            f"Trace steps take {seconds(measured)} on average, the ideal of their schedule, with the optimizer, {seconds(ideal)}"
        )
        less = f", less {listed(saved)}" if saved else ""
        first = f"{start}. The difference of {seconds(more)} ({more / ideal:.0%}) consists of {listed(named)}{less}."
    else:
        longer = "hardly" if more > 0 else "no"
        start = f"Trace steps take {seconds(measured)} on average, {longer} longer than the ideal of their schedule,"
        first = f"{start} with the optimizer, {seconds(ideal)}."
    if means["ideal"] <= LEAST_SHARE * ideal:
        return [first]
    parts = ((means["order"], "through the order of the schedule"), (means["imbalance"], "since the stages are unequal"))
    bubble = [f"{time_s / ideal:.0%} {cause}" for time_s, cause in parts if time_s > LEAST_SHARE * ideal]
    return [first, f"In the ideal, too, workers wait {means['ideal'] / ideal:.0%} of the time: {listed(bubble)}."]
