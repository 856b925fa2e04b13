"""Draws speed-up and efficiency against the number of workers."""

from __future__ import annotations

from collections.abc import Iterable

import altair as alt
import pandas as pd

from workbench.charts.theme import REFERENCE, WIDTH, layered, run_colours, side_by_side, tone_colour


def scaling_chart(frame: pd.DataFrame, labels: Iterable[str] = ()) -> alt.HConcatChart:
    """Draws speed-up and efficiency side by side; data of ``scaling.scaling``."""
    return side_by_side(*scaling_charts(frame, labels))


def scaling_charts(frame: pd.DataFrame, labels: Iterable[str] = ()) -> tuple[alt.LayerChart, alt.LayerChart]:
    """Draws speed-up and efficiency separately, with their ideal values. A way to split has the colour of its first run among the
    compared ``labels``."""
    counts = sorted({1, *frame["workers"]})
    ideal = pd.DataFrame({"workers": counts, "speedup": [float(count) for count in counts], "efficiency": 1.0})
    split_runs = frame[frame["workers"] > 1]
    tones = run_colours([*labels, *split_runs["split"]])
    first = split_runs.drop_duplicates("way")
    ways = tone_colour("way", {way: tones[split] for way, split in zip(first["way"], first["split"], strict=True)}, columns=3)
    return (
        _panel(frame, ideal, ways, "speedup", "speed-up (step time of one worker / of this run)", "How does speed-up scale?"),
        _panel(frame, ideal, ways, "efficiency", "efficiency (speed-up / workers)", "How does efficiency scale?"),
    )


def _panel(frame: pd.DataFrame, ideal: pd.DataFrame, ways: alt.Color, field: str, axis: str, title: str) -> alt.LayerChart:
    x = alt.X("workers:Q", title="workers", axis=alt.Axis(values=list(ideal["workers"]), format="d"))
    y = alt.Y(f"{field}:Q", title=axis, scale=alt.Scale(zero=True))
    line = alt.Chart(ideal).mark_line(**REFERENCE).encode(x=x, y=y)
    name = line.transform_filter(f"datum.workers == {ideal['workers'].max()}").mark_text(
        align="right", dx=-6, dy=-8, text="ideal", **REFERENCE
    )
    tooltip = ["split", "workers", alt.Tooltip("speedup", format=".2f"), alt.Tooltip("efficiency", format=".0%")]
    lines = alt.Chart(frame).mark_line().encode(x=x, y=y, color=ways)
    runs = alt.Chart(frame).mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=ways, tooltip=tooltip)
    return layered(line, name, lines, runs, title=title, width=(WIDTH - 40) // 2, height=220)
