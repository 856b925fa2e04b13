"""From page to page, and what is kept between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_run_context import ScriptRunContext


def go(page: str, parameters: Mapping[str, str] | None = None) -> None:
    """Shows another page of the shell, with these query parameters; stays where there is no such page."""
    if has(page):
        _forget_fragments()
        st.switch_page(st.session_state["pages"][page], query_params=dict(parameters or {}))


def has(page: str) -> bool:
    """Whether the shell has this page."""
    return page in st.session_state.get("pages", {})


def discard_previous_page() -> None:
    """Begins every run of the shell: where another page was shown before, nothing of it stays."""
    if st.session_state.get("shown") != _context().page_script_hash:
        _forget_fragments()


def note_page() -> None:
    """Notes which page is shown, once Streamlit knows."""
    st.session_state["shown"] = _context().page_script_hash


def follows_address(key: str, requested: Any) -> bool:
    """Whether a field takes what the address says: at first, or where a link or the browser's Back changed the address since the
    field was last noted under ``<key>, asked``. A click that was sent before the browser knew of that note counts more."""
    if key not in st.session_state:
        return True
    noted = st.session_state.get(f"{key}, asked")
    return bool(requested != noted and st.session_state[key] == noted)


def _forget_fragments() -> None:
    """For a refresh that a browser asks of a page while leaving it, Streamlit (1.67) has it empty its window. It refuses what is
    asked of a fragment that it has forgotten; by itself it forgets when the new page is complete, which is too late."""
    _context().fragment_storage.clear()


def _context() -> ScriptRunContext:
    context = get_script_run_ctx()
    assert context is not None
    return context
