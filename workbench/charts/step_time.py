"""Draws the step time of each run: its median and its spread."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.formatting import factor
from workbench.charts.theme import REFERENCE, WIDTH, described, layered, run_colours, tone_colour
from workbench.store.trust import Trust

_ROW = 26
_LABEL = 90
"""Pixels that the label of a time needs beside its whisker."""
_UNTRUSTED = 0.45
"""Opacity of a time that does not show the split alone."""


def step_time_chart(frame: pd.DataFrame) -> alt.LayerChart:
    """Draws one dot per run at the median step time and a whisker from the 10th to the 90th percentile, shortest first; data of
    ``winners.step_times``. Dashed lines are the runs on one worker."""
    is_split = frame["workers"] > 1
    times, speedups = [f"{ms:.1f} ms" for ms in frame["step_ms"]], [factor(None if pd.isna(s) else s) for s in frame["speedup"]]
    data = frame.assign(
        text=[time if text == "–" else f"{time}  {text}" for time, text in zip(times, speedups, strict=True)],
        speedup_text=speedups,
        opacity=[_UNTRUSTED if trust == Trust.DISTURBED else 1.0 for trust in frame["trust"]],
    )
    longest_ms = frame[["step_ms", "p90_ms"]].max().max()
    end = alt.ExprRef(f"{longest_ms} / max(1 - {_LABEL} / width, 0.5)")
    y = alt.Y("split:N", title=None, sort=list(frame["split"]), axis=alt.Axis(labelLimit=220))
    title, scale = "step time (ms): median, 10th to 90th percentile", alt.Scale(domainMin=0, domainMax=end, nice=False)
    x = alt.X("step_ms:Q", title=title, scale=scale)
    opacity = alt.Opacity("opacity:Q", scale=None, legend=None)
    tones = tone_colour("split", run_colours(frame["split"])).legend(None)
    tooltip = [
        "split",
        alt.Tooltip("step_ms", title="median (ms)", format=".1f"),
        alt.Tooltip("p10_ms", title="10th percentile (ms)", format=".1f"),
        alt.Tooltip("p90_ms", title="90th percentile (ms)", format=".1f"),
        alt.Tooltip("speedup_text", title="speed-up"),
        "trust",
    ]
    base = alt.Chart(data)
    layers = [
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("p10_ms:Q", title=title, scale=scale), x2="p90_ms:Q", y=y, color=tones, opacity=opacity
        ),
        base.mark_point(size=90, filled=True).encode(x=x, y=y, color=tones, opacity=opacity, tooltip=tooltip),
        base.mark_text(align="left", dx=8).encode(x=alt.X("p90_ms:Q", title=title, scale=scale), y=y, text="text:N"),
    ]
    if is_split.any() and not is_split.all():
        baseline = alt.Chart(frame[~is_split])
        layers.insert(0, baseline.mark_rule(**REFERENCE).encode(x=x))
    chart = layered(*layers, title="How long does a step take?", width=WIDTH, height=_ROW * len(frame))
    shortest, longest = ((frame["split"].iloc[place], times[place]) for place in (0, -1))
    return described(chart, f"Shortest: {shortest[0]}, {shortest[1]}. Longest: {longest[0]}, {longest[1]}.")
