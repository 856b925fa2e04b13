"""What all charts share: colours."""

from __future__ import annotations

import altair as alt

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
    "parameters": "#0072B2",
    "gradients": "#56B4E9",
    "optimizer state": "#009E73",
    "activations": "#E69F00",
    "buffers": "#CC79A7",
}
"""Okabe and Ito's palette, which colour-blind readers can tell apart; waiting is grey."""


def colour(field: str, values: tuple[str, ...] | list[str]) -> alt.Color:
    """Colour by a field whose values are named in ``COLOURS``, with a legend in their order."""
    scale = alt.Scale(domain=list(values), range=[COLOURS[value] for value in values])
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=alt.Legend(orient="top", columns=6))
