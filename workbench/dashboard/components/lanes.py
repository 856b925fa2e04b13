"""The timeline of the workers, with the ideal of the schedule below it on the same scale."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.charts.timeline import IDEAL, By, lanes_chart
from workbench.dashboard.components.chart import figure


def lanes(
    frame: pd.DataFrame, ideal: pd.DataFrame, question: str, span_ms: tuple[float, float] | None = None, by: By = "kind"
) -> None:
    """Draws the timeline and, if there is one, the ideal; over the whole step or a part of it, coloured by kind, microbatch or
    stage."""
    span_ms = span_ms or (0.0, float(max([*frame["end_ms"], *ideal["end_ms"]], default=1.0)))
    zoom = alt.selection_interval(bind="scales", encodings=["x"])
    figure(lanes_chart(frame, question, span_ms, frame["kind"], by).add_params(zoom), frame, "timeline")
    if len(ideal):
        figure(lanes_chart(ideal, IDEAL, span_ms, ideal["kind"], by), ideal, "ideal")
