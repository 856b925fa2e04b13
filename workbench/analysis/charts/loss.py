"""The loss of one run."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.charts.look import COLOURS


def loss_chart(frame: pd.DataFrame) -> alt.Chart:
    """The loss after each step of one run; columns ``step`` and ``loss``."""
    return (  # type: ignore[no-any-return]
        alt.Chart(frame, title="Does the loss fall?", height=220)
        .mark_line(point=alt.OverlayMarkDef(color=COLOURS["compute"]), color=COLOURS["compute"])
        .encode(
            x=alt.X("step:Q", title="step (including warm-up)", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False)),
            tooltip=["step", alt.Tooltip("loss", format=".4f")],
        )
    )
