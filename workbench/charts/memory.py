"""Draws memory over time and at the peak."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.byte_units import byte_unit, in_bytes
from workbench.analysis.memory import CATEGORIES
from workbench.charts.theme import COLOURS, WIDTH, colour, described, layered

_ORDER = [category.replace("_", " ") for category in CATEGORIES]
_ROW = 26
_FAR = 4
"""A limit of more than this multiple of the largest bar is not drawn: beside it the bars could not be read."""
_ROOM = 1.25
"""Range of an axis relative to the longest bar, with room for its size."""


def memory_over_time_chart(
    frame: pd.DataFrame, title: str = "What occupies memory during a step?", most_mebibytes: float | None = None
) -> alt.LayerChart:
    """Draws memory during a step, stacked by category, with the event in the tooltip, and marks its peak; data of
    ``memory.memory_over_time``.

    Args:
        most_mebibytes: End of the axis, for several charts side by side.
    """
    categories = _categories(frame)
    totals = frame.groupby("time_ms")["mebibytes"].sum()
    unit, factor = _unit(most_mebibytes or totals.max())
    scale = alt.Scale(domain=[0, (most_mebibytes or 1.15 * totals.max()) * factor], nice=False)
    title_of_x = ["time within the step (ms);", "memory tracking slows it down"]  # two lines fit a narrow page
    x = alt.X("time_ms:Q", title=title_of_x, scale=alt.Scale(nice=False))
    title_of_y = f"memory ({unit})"
    areas = (
        alt.Chart(frame.assign(size=frame["mebibytes"] * factor))
        .transform_calculate(order=f"indexof({categories}, datum.category)")
        .mark_area(interpolate="step-after")
        .encode(
            x=x,
            y=alt.Y("size:Q", title=title_of_y, scale=scale, stack="zero"),
            color=colour("category", categories),
            order="order:Q",
            tooltip=[
                "event",
                "category",
                alt.Tooltip("size:Q", title=unit, format=".2f"),
                alt.Tooltip("time_ms", title="time (ms)", format=".2f"),
            ],
        )
    )
    at_ms, text = float(str(totals.idxmax())), f"peak {in_bytes(totals.max() * 2**20)}"
    is_late = at_ms > totals.index.min() + 0.7 * (totals.index.max() - totals.index.min())
    peak = alt.Chart(pd.DataFrame({"time_ms": [at_ms], "size": [totals.max() * factor], "text": [text]}))
    peak = peak.encode(x=x, y=alt.Y("size:Q", title=title_of_y, scale=scale))
    layers = [
        areas,
        peak.mark_point(shape="triangle-down", filled=True, size=70, opacity=1, yOffset=-6).encode(color=alt.value(_PEAK)),
        peak.mark_text(align="right" if is_late else "left", dx=-8 if is_late else 8, dy=-8).encode(text="text:N"),
    ]
    return described(layered(*layers, title=title, width=WIDTH, height=220), f"The {text} is at {at_ms:.1f} ms.")


_PEAK = "#888888"


def memory_at_peak_chart(
    frame: pd.DataFrame, budget_bytes: int | None = None, title: str = "What occupies memory at the peak of each worker?"
) -> alt.LayerChart:
    """Draws one stacked bar per worker, or per worker of each run, and a memory budget as a line; data of
    ``memory.memory_at_peak`` or ``comparison.peaks``."""
    if "split" in frame:
        frame = frame.assign(worker=frame["split"] + " · worker " + frame["worker"])
    totals = frame.groupby("worker", sort=False)["mebibytes"].sum()
    unit, factor = _unit(totals.max())
    y = alt.Y("worker:N", title=None if "split" in frame else "worker", sort=list(totals.index), axis=alt.Axis(labelLimit=220))
    end = _ROOM * max(totals.max(), (budget_bytes or 0) / 2**20 if _is_near(budget_bytes, totals.max()) else 0) * factor
    layers = [*_stacks(frame, y, unit, factor, end), *_limits([budget_bytes], totals.max(), factor, end)]
    largest = f"Largest: worker {totals.idxmax()}, {in_bytes(totals.max() * 2**20)}."
    against = _against(budget_bytes)
    heading = alt.Title(title, subtitle=against) if against else alt.Title(title)
    chart = layered(*layers, title=heading, width=WIDTH, height=_ROW * len(totals))
    return described(chart, f"{largest} {against}".strip())


def memory_of_runs_chart(frame: pd.DataFrame) -> alt.LayerChart:
    """Draws the memory of each run on its largest worker at its peak, stacked by category, with the range over its workers and
    the memory budgets as lines; data of ``comparison.peaks``."""
    totals = frame.groupby(["split", "worker"], as_index=False, sort=False)["mebibytes"].sum()
    by_run = totals.groupby("split", sort=False)["mebibytes"]
    largest = totals.loc[by_run.idxmax()]
    runs = largest.assign(least=by_run.min().to_numpy(), workers=by_run.size().to_numpy())
    unit, factor = _unit(totals["mebibytes"].max())
    most = float(runs["mebibytes"].max())
    budgets = [round(budget * 2**20) for budget in sorted(frame["budget_mebibytes"].dropna().unique())]
    near = [budget / 2**20 for budget in budgets if _is_near(budget, most)]
    end = _ROOM * max(most, *near, 0.0) * factor
    y = alt.Y("split:N", title=None, sort=list(runs["split"]), axis=alt.Axis(labelLimit=220))
    ranges = runs[runs["workers"] > 1].assign(low=lambda f: f["least"] * factor, high=lambda f: f["mebibytes"] * factor)
    span = alt.Chart(ranges).encode(y=y, tooltip=_tooltip_of_range(unit))
    scale = alt.Scale(domain=[0, end], nice=False)
    layers = [
        *_stacks(frame.merge(largest[["split", "worker"]]), y, unit, factor, end),
        span.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale), x2="high:Q"),
        span.mark_tick(thickness=3, size=16).encode(x=alt.X("low:Q", scale=scale)),
        *_limits(budgets, most, factor, end),
    ]
    title = alt.Title(
        "How much memory does the largest worker need?",
        subtitle=["Bar: largest worker at its peak.", "Line: down to the smallest worker.", *map(_against, budgets)],
    )
    chart = layered(*layers, title=title, width=WIDTH, height=_ROW * len(runs))
    ends = [runs.nsmallest(1, "mebibytes").iloc[0], runs.nlargest(1, "mebibytes").iloc[0]]
    least, largest_run = (f"{run['split']}, {in_bytes(run['mebibytes'] * 2**20)}" for run in ends)
    return described(chart, f"Least: {least}. Most: {largest_run}.")


def _tooltip_of_range(unit: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("split:N", title="run"),
        alt.Tooltip("workers:Q"),
        alt.Tooltip("low:Q", title=f"smallest worker ({unit})", format=".2f"),
        alt.Tooltip("high:Q", title=f"largest worker ({unit})", format=".2f"),
    ]


def _stacks(frame: pd.DataFrame, y: alt.Y, unit: str, factor: float, end: float) -> list[alt.Chart]:
    """Draws the stacked bars of a frame with ``category`` and ``mebibytes``, and their sums."""
    categories = _categories(frame)
    sized = frame.assign(size=frame["mebibytes"] * factor)
    field = y["shorthand"].partition(":")[0]
    sums = sized.groupby(field, as_index=False, sort=False)["size"].sum()
    scale = alt.Scale(domain=[0, end], nice=False)
    x = alt.X("size:Q", title=f"memory ({unit})", scale=scale)
    names = [column for column in ("split", "worker") if column in frame]
    bars = (
        alt.Chart(sized)
        .transform_calculate(order=f"indexof({categories}, datum.category)")
        .mark_bar()
        .encode(
            x=x,
            y=y,
            color=colour("category", categories),
            order="order:Q",
            tooltip=[*names, "category", alt.Tooltip("size:Q", title=unit, format=".2f")],
        )
    )
    texts = alt.Chart(sums).mark_text(align="left", dx=6).encode(x=x, y=y, text=alt.Text("size:Q", format=".1f"))
    return [bars, texts]


def _limits(budgets: list[int | None], most_mebibytes: float, factor: float, end: float) -> list[alt.Chart]:
    """Draws the budgets that are not far beyond the bars."""
    near = [budget / 2**20 * factor for budget in budgets if budget is not None and _is_near(budget, most_mebibytes)]
    scale = alt.Scale(domain=[0, end], nice=False)
    limits = alt.Chart(pd.DataFrame({"size": near, "text": "budget"})).encode(x=alt.X("size:Q", scale=scale))
    if not near:
        return []
    rule = limits.mark_rule(color=COLOURS["communication"], strokeDash=[5, 3], size=2)
    return [rule, limits.mark_text(align="right", dx=-4, baseline="top", y=0).encode(text="text:N")]


def _is_near(budget_bytes: int | None, most_mebibytes: float) -> bool:
    return budget_bytes is not None and budget_bytes <= _FAR * most_mebibytes * 2**20


def _against(budget_bytes: int | None) -> str:
    return "" if budget_bytes is None else f"Memory budget: {in_bytes(budget_bytes)} per worker."


def _categories(frame: pd.DataFrame) -> list[str]:
    return [category for category in _ORDER if category in set(frame["category"])]


def _unit(most_mebibytes: float) -> tuple[str, float]:
    """Returns the unit of an axis to this value, from MiB on, and what one MiB is in it."""
    unit, size = byte_unit(max(most_mebibytes, 1.0) * 2**20)
    return unit, 2**20 / size
