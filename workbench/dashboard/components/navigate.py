"""From page to page, and what is kept between them."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx


def go(page: str, parameters: Mapping[str, str] | None = None) -> None:
    """Shows another page of the shell, with these query parameters; stays where there is no such page."""
    if has(page):
        _forget_fragments()
        st.switch_page(st.session_state["pages"][page], query_params=dict(parameters or {}))


def has(page: str) -> bool:
    """Whether the shell has this page."""
    return page in st.session_state.get("pages", {})


def arrived() -> None:
    """Begins every run of the shell; leaves nothing of the page that was shown before."""
    context = get_script_run_ctx()
    assert context is not None
    if st.session_state.get("shown") != context.page_script_hash:
        _forget_fragments()
    st.session_state["shown"] = context.page_script_hash


def _forget_fragments() -> None:
    """For a refresh that a browser asks of a page while leaving it, Streamlit (1.67) has it empty its window. It refuses what is
    asked of a fragment that it has forgotten; by itself it forgets when the new page is complete, which is too late."""
    context = get_script_run_ctx()
    assert context is not None
    context.fragment_storage.clear()
