"""Draws speed-up against the number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from workbench.analysis.formatting import factor
from workbench.charts.line_names import line_names
from workbench.charts.theme import REFERENCE, WIDTH, described, layered, run_colours, tone_colour

_HEIGHT, _ROW = 240, 26
_ROOM = 0.35
"""Room for the names of the lines, relative to the range of the number of workers."""


@dataclass(frozen=True)
class _Measure:
    column: str
    axis: str
    title: str
    is_linear: bool
    """Whether the ideal is the number of workers; otherwise it is 1, since the baseline has as many cores."""


_MEASURES = (
    _Measure("speedup", "speed-up over one worker", "How does speed-up scale?", True),
    _Measure(
        "speedup_same_cores",
        "speed-up over one worker on the same cores",
        "Is a split faster than one worker on the same cores?",
        False,
    ),
)


def scaling_charts(frame: pd.DataFrame) -> list[alt.LayerChart]:
    """Draws the speed-up over one worker, and over one worker on the same cores; data of ``scaling.scaling``. Runs of one number
    of workers are bars in one chart; those of several are lines in two, one per baseline."""
    if frame.loc[frame["workers"] > 1, "workers"].nunique() < 2:
        return [_bars(frame[frame["workers"] > 1])]
    return [_lines(frame, measure) for measure in _MEASURES if frame.loc[frame["workers"] > 1, measure.column].notna().any()]


def _bars(frame: pd.DataFrame) -> alt.LayerChart:
    frame = frame.sort_values("speedup", ascending=False, kind="stable")
    frame = frame.assign(text=[factor(value) for value in frame["speedup"]])
    workers = int(frame["workers"].max())
    end = 1.15 * max(workers, frame[["speedup", "speedup_same_cores"]].max().max())
    y = alt.Y("split:N", title=None, sort=list(frame["split"]), axis=alt.Axis(labelLimit=220))
    scale = alt.Scale(domain=[0, end], nice=False)
    x = alt.X("speedup:Q", title="speed-up over one worker", scale=scale)
    tones = tone_colour("split", run_colours(frame["split"])).legend(None)
    ideal = pd.DataFrame({"at": [1, workers], "name": ["one worker", "ideal"]})
    lines = alt.Chart(ideal).encode(x=alt.X("at:Q", scale=scale))
    base = alt.Chart(frame).encode(y=y, tooltip=_TOOLTIP)
    layers = [
        base.mark_bar(height=14).encode(x=x, color=tones),
        base.mark_tick(thickness=3, size=20).encode(x=alt.X("speedup_same_cores:Q", scale=scale)),
        base.mark_text(align="left", dx=6).encode(x=x, text="text:N"),
        lines.mark_rule(**REFERENCE),
        lines.mark_text(align="right", dx=-4, baseline="bottom", y=-2).encode(text="name:N"),
    ]
    title = alt.Title(
        "How much faster is each split than one worker?",
        subtitle=["Bar: over one worker.", "Tick: over one worker on the same cores."],
        offset=22,
    )
    chart = layered(*layers, title=title, width=WIDTH, height=_ROW * len(frame))
    return described(chart, f"The highest speed-up is {frame['text'].iloc[0]}, of {frame['split'].iloc[0]}.")


def _lines(frame: pd.DataFrame, measure: _Measure) -> alt.LayerChart:
    frame = frame[frame[measure.column].notna()]
    counts = sorted({1, *frame["workers"]})
    ideal = pd.DataFrame({"workers": counts, "ideal": [float(n) if measure.is_linear else 1.0 for n in counts]})
    top = 1.1 * max(frame[measure.column].max(), ideal["ideal"].max())
    far = counts[-1] + _ROOM * (counts[-1] - 1)
    x = alt.X(
        "workers:Q", title="workers", axis=alt.Axis(values=counts, format="d"), scale=alt.Scale(domain=[1, far], nice=False)
    )
    scale = alt.Scale(domain=[0, top], nice=False)
    y = alt.Y(f"{measure.column}:Q", title=measure.axis, scale=scale)
    split_runs = frame[frame["workers"] > 1]
    first = split_runs.drop_duplicates("way")
    tones = run_colours(first["split"])
    reference = "ideal" if measure.is_linear else "one worker"
    of_way = {way: tones[split] for way, split in zip(first["way"], first["split"], strict=True)}
    colour = tone_colour("way", {**of_way, reference: REFERENCE["color"]}).legend(None)
    means = frame.groupby(["way", "workers"], sort=False)[measure.column].mean().reset_index()
    ends = means.sort_values("workers").drop_duplicates("way", keep="last").reset_index(drop=True)
    ends.loc[len(ends)] = {"way": reference, "workers": counts[-1], measure.column: ideal["ideal"].iloc[-1]}
    layers = [
        alt.Chart(ideal).mark_line(**REFERENCE).encode(x=x, y=alt.Y("ideal:Q", scale=scale, title=measure.axis)),
        alt.Chart(means).mark_line().encode(x=x, y=y, color=colour, detail="way:N"),
        alt.Chart(split_runs).mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=colour, tooltip=_TOOLTIP),
        *line_names(ends.assign(name=ends["way"]), measure.column, x, y, colour, (0, top), _HEIGHT),
    ]
    best = split_runs.nlargest(1, measure.column).iloc[0]
    chart = layered(*layers, title=measure.title, width=WIDTH, height=_HEIGHT)
    return described(chart, f"The highest {measure.axis} is {factor(best[measure.column])}, of {best['split']}.")


_TOOLTIP = [
    alt.Tooltip("split:N"),
    alt.Tooltip("workers:Q"),
    alt.Tooltip("speedup:Q", title="speed-up over one worker", format=".2f"),
    alt.Tooltip("speedup_same_cores:Q", title="on the same cores", format=".2f"),
]
