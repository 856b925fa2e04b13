"""Texts that a person or a program wrote, shown as they are: never as Markdown, never as HTML."""

from __future__ import annotations

from typing import Literal

import streamlit as st

_HEADS = {"error": st.error, "warning": st.warning}


def alert(kind: Literal["error", "warning"], head: str, *texts: str) -> None:
    """A box with a head of ours and below it the texts."""
    with st.container(border=True):
        _HEADS[kind](head)
        for text in texts:
            st.text(text)
