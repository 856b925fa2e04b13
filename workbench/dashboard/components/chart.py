"""Charts with a menu of their data and files."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from workbench.charts.selection import PICKED, pickable
from workbench.charts.theme import FIT_WIDTH, AnyChart, folding, theme, title_of
from workbench.dashboard.downloads import csv_of, picture_of


def plain_figure(chart: AnyChart, name: str) -> None:
    """Draws a chart without a menu; ``name`` is its key. Concatenated charts cannot adapt to the width, so each is drawn by
    itself, without their shared zoom."""
    if isinstance(chart, alt.VConcatChart):
        for number, part in enumerate(chart.vconcat):
            st.altair_chart(_full_width(part), key=f"{name} {number}")
    else:
        st.altair_chart(_full_width(chart), key=name)


def live_figure(chart: Callable[[pd.DataFrame], AnyChart], frame: pd.DataFrame, name: str, variant: int = 0) -> None:
    """Draws a chart that is often redrawn with other data. What does not depend on the data is computed once per ``variant``,
    which takes most of the time; ``name`` is the key."""
    spec, title = _live_spec(chart, frame, chart.__name__, variant, st.context.theme.type == "dark")
    st.vega_lite_chart(frame, spec, key=name, alt=title)


@st.cache_data(max_entries=50, show_spinner=False)
def _live_spec(
    _chart: Callable[[pd.DataFrame], AnyChart], _frame: pd.DataFrame, name: str, variant: int, dark: bool
) -> tuple[dict[str, Any], str]:
    """Returns the specification without the data and the description, which depends on them, and the title; the arguments without
    underscore determine both."""
    chart = _chart(_frame)
    spec = _full_width(chart).to_dict()
    return {key: value for key, value in spec.items() if key not in ("data", "datasets", "description")}, title_of(chart)


def figure(chart: AnyChart, frame: pd.DataFrame, name: str) -> None:
    """Draws a chart; ``name`` is the name of the saved files."""
    with cornered(name):
        plain_figure(chart, name)
        menu(lambda: chart, lambda: frame, name, title_of(chart))


def run_figure(chart: alt.Chart | alt.LayerChart, frame: pd.DataFrame, name: str, picked: str | None) -> str | None:
    """Draws a chart whose ``split`` can be clicked. Returns the split that was just clicked; None if none was."""
    selectable = pickable(_full_width(chart), "split", picked if picked in set(frame["split"]) else None)
    with cornered(name):
        event: Any = st.altair_chart(selectable, key=f"{name} {picked}", on_select="rerun", selection_mode=PICKED)
        menu(lambda: chart, lambda: frame, name, title_of(chart))
    points = event.selection.get(PICKED, [])
    return str(points[0]["split"]) if points and "split" in points[0] else None


def cornered(name: str) -> DeltaGenerator:
    """Returns the container of a chart and of the menu in its corner."""
    return st.container(key=f"figure {name}")


def _full_width(chart: Any) -> Any:
    """Returns a copy that fills the available width and keeps its height, from which Streamlit would otherwise subtract title and
    legend. Text and lines that Streamlit's theme leaves black or pale get the colour for the background."""
    of = theme(dark=st.context.theme.type == "dark")
    is_flat = isinstance(chart, alt.Chart | alt.LayerChart)
    fitted = folding(chart) if is_flat else chart.copy(deep=["config"])
    if is_flat:
        fitted["autosize"] = FIT_WIDTH
    config = fitted.config = alt.Config() if fitted.config is alt.Undefined else fitted.config
    # Set here, since each method `configure_…` would copy all data and layers again.
    config.text, config.tick, config.line, config.rule = (
        alt.MarkConfig(color=of[mark]["color"]) for mark in ("text", "tick", "line", "rule")
    )
    config.title = alt.TitleConfig(subtitleColor=of["title"]["subtitleColor"], offset=of["title"]["offset"])
    config.legend = alt.LegendConfig(offset=of["legend"]["offset"], padding=0)
    return fitted


@st.fragment
def menu(chart: Callable[[], AnyChart] | None, frame: Callable[[], pd.DataFrame], name: str, title: str) -> None:
    """Draws the menu of a chart: its data as a table, and its files. All are created only on request; without a chart, there is
    no picture. ``title`` says to screen readers whose data these are."""
    with st.popover(
        _verbatim(f"Data of: {title}"), icon=":material/table:", type="tertiary", key=f"data of {name}", on_change="rerun"
    ) as opened:
        if not opened.open:
            return
        st.dataframe(frame(), hide_index=True, key=f"table of {name}", placeholder="–")
        with st.container(horizontal=True):
            _save("CSV", f"{name}.csv", lambda: csv_of(frame()))
            if chart:
                _save("PNG", f"{name}.png", lambda: picture_of(chart(), "png"))
                _save("SVG", f"{name}.svg", lambda: picture_of(chart(), "svg"))


def _verbatim(text: str) -> str:
    """Returns a label that Markdown leaves as it is: the title of a chart may hold names of an imported record."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def _save(label: str, file_name: str, make: Callable[[], bytes]) -> None:
    st.download_button(label, make, file_name, key=f"save {file_name}", on_click="ignore", icon=":material/download:")
