"""Draws the communication times of a calibration."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.charts.theme import described


def communication_chart(frame: pd.DataFrame) -> alt.FacetChart:
    """Draws time against payload, one panel per operation: measured points and the fitted line; data of
    ``calibration.communication``."""
    sizes = [int(size) for size in sorted(frame["payload_bytes"].unique())]
    operations = list(dict.fromkeys(frame["operation"]))
    frame = frame.assign(
        operation=frame["operation"].str.replace("_", "-"),
        workers=frame["group_size"].astype(str) + " workers",
        measured_ms=frame["time_s"] * 1e3,
        fitted_ms=frame["fitted_s"] * 1e3,
    )
    ticks = alt.Axis(
        values=sizes[::2], labelExpr="datum.value < 1048576 ? datum.value / 1024 + ' KiB' : datum.value / 1048576 + ' MiB'"
    )
    base = alt.Chart(frame, width=170, height=170).encode(
        x=alt.X("payload_bytes:Q", title="payload", scale=alt.Scale(type="log", base=2), axis=ticks),
        color=alt.Color(
            "workers:N", title=None, scale=alt.Scale(range=["#0072B2", "#D55E00", "#009E73"]), legend=alt.Legend(orient="top")
        ),
    )
    decades = alt.Axis(values=[10.0**exponent for exponent in range(-3, 5)], format="~g")
    time = alt.Y("measured_ms:Q", title="time (ms)", scale=alt.Scale(type="log"), axis=decades)
    tooltip = [
        "operation",
        "workers",
        "payload_bytes",
        alt.Tooltip("measured_ms", format=".3f"),
        alt.Tooltip("fitted_ms", format=".3f"),
    ]
    points = base.mark_point(filled=True, size=45).encode(y=time, tooltip=tooltip)
    lines = base.mark_line(strokeWidth=1.5).encode(y=alt.Y("fitted_ms:Q"))
    title = alt.Title(
        "How long does communication take on this machine?",
        subtitle="Points: measured. Lines: fitted latency and bandwidth.",
    )
    order = [operation.replace("_", "-") for operation in operations]
    facet = alt.Facet("operation:N", title=None, sort=order)
    chart = alt.layer(lines, points).facet(facet, columns=3, title=title)
    fastest = frame.nsmallest(1, "measured_ms").iloc[0]
    fact = f"Shortest: {fastest['operation']} of {fastest['workers']}, {fastest['measured_ms']:.3f} ms."
    return described(chart, fact)
