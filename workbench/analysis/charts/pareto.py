"""Time against memory."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.charts.look import REFERENCE, WIDTH, layered, run_colour


def pareto_chart(frame: pd.DataFrame) -> alt.LayerChart:
    """Step time against peak memory, a point a run, the front joined by a line; ``pareto.pareto``."""
    x = alt.X("step_time_ms:Q", title="milliseconds a step", scale=_from_zero(frame["step_time_ms"]))
    y = alt.Y("peak_memory_mib:Q", title="peak memory of the largest worker, MiB", scale=_from_zero(frame["peak_memory_mib"]))
    best = frame[frame["on_front"]]
    encoded = {
        "x": x,
        "y": y,
        "color": run_colour("split", frame["split"]).legend(None),
        "tooltip": [
            "split",
            alt.Tooltip("step_time_ms", format=".1f"),
            alt.Tooltip("peak_memory_mib", format=".1f"),
            alt.Tooltip("on_front", title="beaten by no other"),
        ],
    }
    front = alt.Chart(best).mark_line(**REFERENCE).encode(x=x, y=y, order="step_time_ms:Q")
    runs = alt.Chart(frame).mark_point(size=90, strokeWidth=2, opacity=1).encode(**encoded)
    filled = alt.Chart(best).mark_point(size=90, filled=True, opacity=1).encode(**encoded)
    is_right = frame["step_time_ms"] > frame["step_time_ms"].max() / 2
    before = alt.Chart(frame[is_right]).mark_text(align="right", dx=-9, dy=-6).encode(x=x, y=y, text="split:N")
    behind = alt.Chart(frame[~is_right]).mark_text(align="left", dx=9, dy=-6).encode(x=x, y=y, text="split:N")
    title = alt.Title("Which splits are both fast and small?", subtitle="Filled, on the line: no other run beats it in both.")
    return layered(front, runs, filled, before, behind, title=title, width=WIDTH, height=280)


def _from_zero(values: pd.Series) -> alt.Scale:
    """From zero, with room for names beyond the largest."""
    return alt.Scale(domain=[0, 1.2 * values.max()], nice=False)
