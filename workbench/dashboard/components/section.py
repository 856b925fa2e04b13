"""A section of a report on a page: the page of a run shows what its saved report shows."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from workbench.dashboard.components.chart import figure
from workbench.export.report.parts import Drawing, Listing, Section, Sentences, Table


def draw_section(section: Section, key: str) -> None:
    """Draws the heading, the sentence and the parts of a section; ``key`` begins the names of its charts."""
    st.header(section.heading, anchor=False)
    if section.sentence:
        st.caption(section.sentence)
    for number, part in enumerate(section.parts):
        match part:
            case Table(heads, rows):
                _table(heads, rows)
            case Sentences(sentences):
                st.text("\n".join(f"• {sentence}" for sentence in sentences), width="stretch")
            case Listing(name, text):
                with st.expander(name):
                    st.code(text, language=None, wrap_lines=True)
            case Drawing(chart, frame):
                figure(chart, frame, f"{key} {number}")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Draws a table of texts, whose heads may be equal or empty."""
    keys = [str(number) for number in range(len(heads))]
    frame = pd.DataFrame(rows, columns=keys)
    config = {key: st.column_config.TextColumn(head or " ") for key, head in zip(keys, heads, strict=True)}
    st.dataframe(frame, hide_index=True, height="content", column_config=config)
