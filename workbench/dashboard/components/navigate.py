"""From page to page, and what is kept between them."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st


def go(page: str, parameters: Mapping[str, str] | None = None) -> None:
    """Shows another page of the shell, with these query parameters; stays where there is no such page."""
    if has(page):
        st.switch_page(st.session_state["pages"][page], query_params=dict(parameters or {}))


def has(page: str) -> bool:
    """Whether the shell has this page."""
    return page in st.session_state.get("pages", {})
