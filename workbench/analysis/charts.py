"""Charts, the same on every page: one question each, stated in the title; a colour means the same thing everywhere."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.analysis.frames import PARTS

COLOURS = {
    "compute": "#0072B2",
    "forward": "#0072B2",
    "backward": "#56B4E9",
    "backward_input": "#56B4E9",
    "backward_weight": "#CC79A7",
    "optimizer": "#009E73",
    "exposed communication": "#D55E00",
    "communication": "#D55E00",
    "idle": "#C9C9C9",
    "other": "#F0E442",
}
"""Okabe and Ito's palette, which colour-blind readers can tell apart; waiting is grey."""


def step_parts_chart(frame: pd.DataFrame) -> alt.Chart:
    """Where the time of a step goes, a bar a split; ``frames.step_parts``."""
    order = list(dict.fromkeys(frame["split"]))
    return (  # type: ignore[no-any-return]
        alt.Chart(frame, title="Where does the time of a step go?", width=560, height=22 * len(order))
        .transform_calculate(order=f"indexof({list(PARTS)}, datum.part)")
        .mark_bar()
        .encode(
            x=alt.X("milliseconds:Q", title="milliseconds a step (mean over workers)"),
            y=alt.Y("split:N", title=None, sort=order),
            color=_colour("part", PARTS),
            order="order:Q",
            tooltip=["split", "part", alt.Tooltip("milliseconds", format=".2f")],
        )
    )


def timeline_chart(frame: pd.DataFrame, title: str) -> alt.Chart:
    """Who does what when, a lane a worker; ``frames.timeline``."""
    kinds = [kind for kind in COLOURS if kind in set(frame["kind"])]
    waits = frame["kind"].isin(["idle", "communication"])
    bars = alt.Chart(pd.concat([frame[~waits], frame[waits]])).encode(
        x=alt.X("begin_ms:Q", title="milliseconds since the step began"),
        x2="end_ms:Q",
        y=alt.Y("worker:N", title="worker"),
        color=_colour("kind", kinds),
        tooltip=["worker", "kind", "microbatch", alt.Tooltip("begin_ms", format=".2f"), alt.Tooltip("end_ms", format=".2f")],
    )
    return bars.mark_bar(stroke="white", strokeWidth=0.5).properties(  # type: ignore[no-any-return]
        title=title, width=560, height=36 * frame["worker"].nunique()
    )


def _colour(field: str, values: tuple[str, ...] | list[str]) -> alt.Color:
    scale = alt.Scale(domain=list(values), range=[COLOURS[value] for value in values])
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=alt.Legend(orient="top", columns=6))
