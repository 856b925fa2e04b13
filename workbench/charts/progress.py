"""Draws how a run that is under way goes: the time of each step and the memory of each worker."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.charts.theme import COLOURS, REFERENCE, SEQUENCE_COLOURS, described, layered, tone_colour

_HEIGHT = 220
_MOST_NAMED = 8
"""Workers up to which a legend names them; a single one needs none."""


def step_times_chart(frame: pd.DataFrame) -> alt.LayerChart:
    """Draws the time of each step and a dashed line at the median of the timed steps; data of ``Follower.step_times``."""
    x = alt.X("step:Q", title="step (including warm-up)", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("step_ms:Q", title="slowest worker (ms)", scale=alt.Scale(zero=True))
    tone = alt.condition("datum.kind == 'timed'", alt.value(COLOURS["compute"]), alt.value(COLOURS["idle"]))
    tooltip = [
        alt.Tooltip("step:Q"),
        alt.Tooltip("kind:N", title="kind of step"),
        alt.Tooltip("step_ms:Q", title="ms", format=".1f"),
    ]
    base = alt.Chart(frame)
    median = base.transform_filter("datum.kind == 'timed'").transform_aggregate(median_ms="median(step_ms)")
    chart = layered(
        base.mark_line(color=COLOURS["idle"], strokeWidth=1).encode(x=x, y=y),
        base.mark_point(filled=True, opacity=1).encode(x=x, y=y, color=tone, tooltip=tooltip),
        median.mark_rule(**REFERENCE).encode(
            y="median_ms:Q", tooltip=[alt.Tooltip("median_ms:Q", title="median (ms)", format=".1f")]
        ),
        title=alt.TitleParams("How long does each step take?", subtitle="Blue: timed steps; dashed: their median."),
        height=_HEIGHT,
    )
    return described(chart, f"{len(frame)} steps, {frame['step_ms'].median():.1f} ms in the median.")


def memory_chart(frame: pd.DataFrame) -> alt.Chart:
    """Draws the memory of each worker since the page was opened; data of ``Follower.memory``."""
    workers = list(dict.fromkeys(frame["worker"]))
    tones = {worker: SEQUENCE_COLOURS[number % len(SEQUENCE_COLOURS)] for number, worker in enumerate(workers)}
    colour = tone_colour("worker", tones)
    chart = (
        alt.Chart(frame, title=alt.TitleParams("How much memory is in use?", subtitle="Since this page was opened."))
        .mark_line()
        .encode(
            x=alt.X("time_s:Q", title="time since the workers started (s)"),
            y=alt.Y("memory_mib:Q", title="memory of the process (MiB)", scale=alt.Scale(zero=True)),
            color=colour if 1 < len(workers) <= _MOST_NAMED else colour.legend(None),
            tooltip=[
                alt.Tooltip("worker:N"),
                alt.Tooltip("time_s:Q", title="s", format=".0f"),
                alt.Tooltip("memory_mib:Q", title="MiB", format=".0f"),
            ],
        )
        .properties(height=_HEIGHT)
    )
    return described(chart, f"{len(workers)} workers, at most {frame['memory_mib'].max():.0f} MiB.")
