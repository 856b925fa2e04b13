"""Charts in which a run can be clicked, and the run that was clicked stands out."""

from __future__ import annotations

import altair as alt

PICKED = "picked"
"""Name of the selection."""
_PALE = 0.3


def pickable(chart: alt.Chart | alt.LayerChart, field: str, picked: str | None = None) -> alt.Chart | alt.LayerChart:
    """The chart with a selection ``picked`` of one value of this field; what has another value than the picked one is pale."""
    layers = chart.layer if isinstance(chart, alt.LayerChart) else [chart]
    if picked is not None:
        is_picked = alt.FieldEqualPredicate(field=field, equal=picked)
        for layer in layers:
            layer.encoding.opacity = alt.condition(is_picked, alt.value(1), alt.value(_PALE))
    return chart.add_params(alt.selection_point(PICKED, fields=[field], toggle=False))
