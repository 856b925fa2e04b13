"""Draws the loss of one or several runs."""

from __future__ import annotations

from collections.abc import Iterable

import altair as alt
import pandas as pd

from workbench.charts.theme import COLOURS, WIDTH, layered, run_colours, tone_colour


def loss_chart(frame: pd.DataFrame) -> alt.Chart:
    """Draws the loss after each step of one run; columns ``step`` and ``loss``."""
    return (
        alt.Chart(frame, title="Does the loss fall?", height=220)
        .mark_line(point=alt.OverlayMarkDef(color=COLOURS["compute"]), color=COLOURS["compute"])
        .encode(
            x=alt.X("step:Q", title="step (including warm-up)", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False)),
            tooltip=["step", alt.Tooltip("loss", format=".4f")],
        )
    )


_LONG = 28
"""Length in characters of a legend entry from which on two do not fit side by side on half a page."""
_THINNEST, _WIDENS_BY, _WIDEST = 1.5, 2.0, 8.0
"""Line widths in pixels: the thinnest, the increase per line, and the maximum, which limits the increase for many runs."""


def losses_chart(frame: pd.DataFrame, labels: Iterable[str] = ()) -> alt.LayerChart:
    """Draws the loss by step, one line per run with its verdict in the legend; data of ``comparison.losses``. Each line is
    thinner than the one below it, so that equal lines are visible. ``labels`` of all compared runs determine the colours."""
    split_of = dict(zip(frame["run"], frame["split"], strict=True))
    names, tones = list(split_of), run_colours([*labels, *frame["split"]])
    colour = tone_colour(
        "run", {name: tones[split] for name, split in split_of.items()}, columns=1 if max(map(len, names)) > _LONG else 2
    )
    widens_by = min(_WIDENS_BY, (_WIDEST - _THINNEST) / max(1, len(names) - 1))
    lines = [
        alt.Chart(frame[frame["run"] == name])
        .mark_line(strokeWidth=_THINNEST + widens_by * (len(names) - 1 - under))
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(format="d", tickMinStep=1)),
            y=alt.Y("loss:Q", title="loss (mean over workers)", scale=alt.Scale(zero=False)),
            color=colour,
            tooltip=["run", "step", alt.Tooltip("loss", format=".5f")],
        )
        for under, name in enumerate(names)
    ]
    title = "Do the splits have the same loss?" if len(names) > 1 else "Does the loss fall?"
    return layered(*lines, title=title, width=WIDTH, height=240)
