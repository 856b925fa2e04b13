"""Who does what when."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.charts.look import COLOURS, colour


def timeline_chart(frame: pd.DataFrame, title: str) -> alt.Chart:
    """Who does what when, a lane a worker; ``frames.timeline``."""
    kinds = [kind for kind in COLOURS if kind in set(frame["kind"])]
    waits = frame["kind"].isin(["idle", "communication"])
    bars = alt.Chart(pd.concat([frame[~waits], frame[waits]])).encode(
        x=alt.X("begin_ms:Q", title="milliseconds since the step began"),
        x2="end_ms:Q",
        y=alt.Y("worker:N", title="worker"),
        color=colour("kind", kinds),
        tooltip=["worker", "kind", "microbatch", alt.Tooltip("begin_ms", format=".2f"), alt.Tooltip("end_ms", format=".2f")],
    )
    return bars.mark_bar(stroke="white", strokeWidth=0.5).properties(  # type: ignore[no-any-return]
        title=title, width=560, height=36 * frame["worker"].nunique()
    )
