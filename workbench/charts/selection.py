"""Makes runs selectable in charts, and highlights the selected one."""

from __future__ import annotations

import altair as alt
import pandas as pd

from workbench.charts.theme import REFERENCE

PICKED = "picked"
"""Name of the selection."""
_PALE = 0.3


def pickable(chart: alt.Chart | alt.LayerChart, field: str, picked: str | None = None) -> alt.Chart | alt.LayerChart:
    """Returns a copy of a chart with a selection ``picked`` of one value of this field."""
    return standing_out(chart, field, picked).add_params(alt.selection_point(PICKED, fields=[field], toggle=False))


def standing_out(chart: alt.Chart | alt.LayerChart, field: str, picked: str | None) -> alt.Chart | alt.LayerChart:
    """Returns a copy in which marks with another value of this field than the picked one are pale; marks without the field and
    reference lines remain."""
    highlighted = chart.copy(deep=True)
    if picked is not None:
        is_picked = alt.FieldEqualPredicate(field=field, equal=picked)
        for layer in highlighted.layer if isinstance(highlighted, alt.LayerChart) else [highlighted]:
            is_reference = isinstance(layer.mark, alt.MarkDef) and layer.mark["strokeDash"] == REFERENCE["strokeDash"]
            data = layer.data if isinstance(layer.data, pd.DataFrame) else highlighted.data  # as altair moves what layers share
            if not is_reference and isinstance(data, pd.DataFrame) and field in data:
                layer.encoding.opacity = alt.condition(is_picked, alt.value(1), alt.value(_PALE))
    return highlighted
