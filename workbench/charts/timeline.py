"""Draws the timeline of the workers in a step, and that of a schedule."""

from __future__ import annotations

from collections.abc import Iterable

import altair as alt
import pandas as pd

from workbench.charts.contrast import ink_on
from workbench.charts.theme import COLOURS, FIT_WIDTH, WIDTH, described, layered, tone_colour

WAITS = ("idle", "communication")
_CHARACTER = 0.008
"""Share of the width that one character of a label needs."""
_LANE = 36
"""Height in pixels of the lane of a worker."""
IDEAL = "Ideal timeline of this schedule"


def timeline_chart(frame: pd.DataFrame, title: str, ideal: pd.DataFrame | None = None) -> alt.LayerChart | alt.VConcatChart:
    """Draws the timeline, one lane per worker, labelled by microbatch if there are several (and stage.microbatch for several
    stages per worker); data of ``trace.timeline``.

    Args:
        ideal: Timeline of the ideal schedule, drawn below on the same scale.
    """
    both = frame if ideal is None else pd.concat([frame, ideal])
    span_ms = (0.0, float(both["end_ms"].max()))
    zoom = alt.selection_interval(bind="scales", encodings=["x"])
    measured: alt.LayerChart = _lanes(frame, title, span_ms, both["kind"]).add_params(zoom)
    workers = frame["worker"].nunique()
    fact = f"{workers} worker{'s' if workers > 1 else ''}, {frame['end_ms'].max():.1f} ms"
    if ideal is None:
        return described(measured, f"{fact}.")
    below = _lanes(ideal, IDEAL, span_ms, both["kind"])
    # A shared legend would be above the title.
    below.layer[0].encoding.color["legend"] = None
    chart = alt.vconcat(measured, below).resolve_scale(x="shared", color="independent")
    return described(chart, f"{title} {fact}; the ideal of the schedule takes {ideal['end_ms'].max():.1f} ms.")


def schedule_chart(frame: pd.DataFrame, title: str, subtitle: str = "") -> alt.LayerChart:
    """Draws the timeline of a schedule whose stages take equal time; data of ``schedule.schedule_timeline``."""
    chart = _lanes(frame, title, (0.0, float(frame["end_ms"].max())), frame["kind"])
    bars = chart.layer[0]
    bars.encoding.x["title"] = "time (forward passes of one stage)"
    bars.encoding.tooltip = [alt.Tooltip(f"{column}:N") for column in ("worker", "kind", "stage", "microbatch")]
    height = 24 * frame["worker"].nunique()
    chart = chart.properties(title=alt.Title(title, subtitle=subtitle), height=height, autosize=FIT_WIDTH)
    return described(chart, subtitle or f"{frame['microbatch'].nunique()} microbatches.")


def _lanes(frame: pd.DataFrame, title: str, span_ms: tuple[float, float], kinds: Iterable[str]) -> alt.LayerChart:
    """Draws the measured step or the ideal, with a legend of these kinds."""
    tones = {kind: tone for kind, tone in COLOURS.items() if kind in set(kinds)}
    workers = sorted(set(frame["worker"]), key=int)
    frame = frame.assign(ink=frame["kind"].map({kind: ink_on(tone) for kind, tone in tones.items()}), label=_labels(frame))
    frame = frame.sort_values("kind", key=lambda kind: kind.isin(WAITS), kind="stable")
    frame["width_ms"] = frame["end_ms"] - frame["begin_ms"]
    frame["middle_ms"] = frame["begin_ms"] + frame["width_ms"] / 2
    lane = alt.Y("worker:N", title="worker", sort=workers)
    shade = tone_colour("kind", tones)
    shade["legend"]["symbolType"] = "square"  # as bars have it, which the labels' own colour takes away
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("begin_ms:Q", title="time since the step began (ms)", scale=alt.Scale(domain=span_ms, nice=False)),
            x2="end_ms:Q",
            y=lane,
            color=shade,
            tooltip=[
                "worker",
                "kind",
                *(column for column in ("stage", "microbatch") if column in frame),
                alt.Tooltip("begin_ms", title="begin (ms)", format=".2f"),
                alt.Tooltip("end_ms", title="end (ms)", format=".2f"),
            ],
        )
    )
    needed = _CHARACTER * (span_ms[1] - span_ms[0]) * (1 + frame["label"].str.len())
    wide = frame[(frame["label"] != "") & (frame["width_ms"] > needed)]
    ink_as_it_is = alt.Color("ink:N", scale=None)
    labels = alt.Chart(wide).mark_text(fontSize=10).encode(x="middle_ms:Q", y=lane, text="label:N", color=ink_as_it_is)
    return layered(bars, labels, width=WIDTH, height=_LANE * len(workers), title=title)


def _labels(frame: pd.DataFrame) -> pd.Series:
    """Returns the labels: the microbatch if there are several, with its stage if a worker has several."""
    if frame["microbatch"].nunique() < 2:
        return pd.Series("", index=frame.index)
    has_stages = "stage" in frame and (frame.groupby("worker")["stage"].nunique() > 1).any()
    labels = frame["microbatch"].map(lambda number: "" if pd.isna(number) else str(int(number)))
    if has_stages:
        stages = frame["stage"].map(lambda number: "" if pd.isna(number) else f"{int(number)}.")
        labels = (stages + labels).where(labels != "", "")
    return labels
