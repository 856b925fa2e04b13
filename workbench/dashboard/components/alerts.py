"""Alerts with texts of users and programs, shown verbatim: never as Markdown, never as HTML."""

from __future__ import annotations

from typing import Literal

import streamlit as st

_HEADS = {"error": st.error, "warning": st.warning}


def alert(kind: Literal["error", "warning"], head: str, *texts: str) -> None:
    """Draws a box with a heading of the dashboard and the texts below it."""
    with st.container(border=True):
        _HEADS[kind](head)
        for text in texts:
            st.text(text)
