"""Navigation between pages, and the state that is kept between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_run_context import ScriptRunContext


def go(page: str, parameters: Mapping[str, str] | None = None) -> None:
    """Shows another page of the shell with these query parameters; does nothing if there is no such page."""
    if has(page):
        _forget_fragments()
        st.switch_page(st.session_state["pages"][page], query_params=dict(parameters or {}))


def has(page: str) -> bool:
    """Whether the shell has this page."""
    return page in st.session_state.get("pages", {})


def discard_previous_page() -> None:
    """Discards the fragments of another page that was shown before. Every run of the shell begins with it."""
    if st.session_state.get("shown") != _context().page_script_hash:
        _forget_fragments()


def note_page() -> None:
    """Records which page is shown, once Streamlit knows it."""
    st.session_state["shown"] = _context().page_script_hash


def follows_address(key: str, requested: Any) -> bool:
    """Whether a field takes the value in the address: initially, and when a link or the browser's Back has changed the address
    since the value was last recorded under ``<key>, asked``. A click sent before the browser knew of that has precedence."""
    if key not in st.session_state:
        return True
    noted = st.session_state.get(f"{key}, asked")
    return bool(requested != noted and st.session_state[key] == noted)


def _forget_fragments() -> None:
    """Discards all fragments, so that Streamlit (1.67) rejects a refresh that the browser requests while leaving a page;
    answering it would empty the window. Streamlit itself discards them when the new page is complete, which is too late."""
    _context().fragment_storage.clear()


def _context() -> ScriptRunContext:
    context = get_script_run_ctx()
    assert context is not None
    return context
