"""Charts with a menu that saves picture and data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from workbench.charts.selection import PICKED, pickable
from workbench.charts.theme import FIT_WIDTH, AnyChart, folding, theme
from workbench.dashboard.downloads import csv_of, picture_of


def plain_figure(chart: AnyChart, name: str) -> None:
    """Draws a chart without a menu; ``name`` is its key."""
    st.altair_chart(_full_width(chart), key=name, alt=_title(chart))


def live_figure(chart: Callable[[pd.DataFrame], AnyChart], frame: pd.DataFrame, name: str, variant: int = 0) -> None:
    """Draws a chart that is often redrawn with other data. What does not depend on the data is computed once per ``variant``,
    which takes most of the time; ``name`` is the key."""
    spec, title = _live_spec(chart, frame, chart.__name__, variant, st.context.theme.type == "dark")
    st.vega_lite_chart(frame, spec, key=name, alt=title)


@st.cache_data(max_entries=50, show_spinner=False)
def _live_spec(
    _chart: Callable[[pd.DataFrame], AnyChart], _frame: pd.DataFrame, name: str, variant: int, dark: bool
) -> tuple[dict[str, Any], str | None]:
    """Returns the specification without data, and the title; the arguments without underscore determine both."""
    chart = _chart(_frame)
    spec = _full_width(chart).to_dict()
    return {key: value for key, value in spec.items() if key not in ("data", "datasets")}, _title(chart)


def figure(chart: AnyChart, frame: pd.DataFrame, name: str) -> None:
    """Draws a chart; ``name`` is the name of the saved files."""
    plain_figure(chart, name)
    save_menu(lambda: chart, lambda: frame, name)


def run_figure(chart: alt.Chart | alt.LayerChart, frame: pd.DataFrame, name: str, picked: str | None) -> str | None:
    """Draws a chart whose ``split`` can be clicked. Returns the split that was just clicked; None if none was."""
    selectable = pickable(_full_width(chart), "split", picked if picked in set(frame["split"]) else None)
    event: Any = st.altair_chart(selectable, key=f"{name} {picked}", on_select="rerun", selection_mode=PICKED, alt=_title(chart))
    save_menu(lambda: chart, lambda: frame, name)
    points = event.selection.get(PICKED, [])
    return str(points[0]["split"]) if points and "split" in points[0] else None


def _full_width(chart: Any) -> Any:
    """Returns a copy that fills the available width and keeps its height, from which Streamlit would otherwise subtract title and
    legend. Text that Streamlit's theme leaves black gets the colour for the background."""
    of = theme(dark=st.context.theme.type == "dark")
    is_flat = isinstance(chart, alt.Chart | alt.LayerChart)
    fitted = folding(chart) if is_flat else chart.copy(deep=["config"])
    if is_flat:
        fitted["autosize"] = FIT_WIDTH
    config = fitted.config = alt.Config() if fitted.config is alt.Undefined else fitted.config
    # Set here, since each method `configure_…` would copy all data and layers again.
    config.text, config.tick = (alt.MarkConfig(color=of[mark]["color"]) for mark in ("text", "tick"))
    config.title = alt.TitleConfig(subtitleColor=of["title"]["subtitleColor"])
    return fitted


def _title(chart: AnyChart) -> str | None:
    """Returns the title of the chart, which a screen reader reads in its place."""
    title = chart.title.text if isinstance(chart.title, alt.TitleParams) else chart.title
    return " ".join(title) if isinstance(title, list) else title if isinstance(title, str) else None


def save_menu(chart: Callable[[], AnyChart] | None, frame: Callable[[], pd.DataFrame], name: str) -> None:
    """Draws the menu that saves picture and data, which are created only on request; without a chart, there is no picture."""
    with st.popover("Save", icon=":material/download:", key=f"save {name}"):
        if chart:
            _save("Picture (PNG)", f"{name}.png", lambda: picture_of(chart(), "png"))
            _save("Picture (SVG)", f"{name}.svg", lambda: picture_of(chart(), "svg"))
        _save("Data (CSV)", f"{name}.csv", lambda: csv_of(frame()))


def _save(label: str, file_name: str, make: Callable[[], bytes]) -> None:
    st.download_button(label, make, file_name, key=f"save {file_name}", on_click="ignore")
