"""The shell of the dashboard: the list of pages, and which of them is shown."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from workbench.dashboard.components.navigate import discard_previous_page, note_page

PAGES = {
    "front": "The workbench",
    "configure": "Configure",
    "live": "Live",
    "runs": "Runs",
    "run": "Run",
    "compare": "Compare",
    "trace": "Trace",
    "learn": "Learn",
}
"""Module in ``pages`` → its title, in the order of the navigation. Without icons: Streamlit (1.67) fetches a page's icon from the
network to show it in the browser's tab."""

STYLES, MENU = (Path(__file__).with_name(name) for name in ("style.css", "menu.html"))


def main() -> None:
    """Draws the page that the address names."""
    discard_previous_page()
    st.set_page_config(page_title="The workbench", layout="wide")
    st.html(STYLES)
    st.html(MENU, unsafe_allow_javascript=True)
    pages = {
        name: st.Page(
            _draw(name), title=title, url_path=name, default=name == "front", visibility="hidden" if name == "run" else "visible"
        )
        for name, title in PAGES.items()
    }
    st.session_state["pages"] = pages
    page = st.navigation(list(pages.values()), position="top")
    note_page()
    page.run()


def _draw(name: str) -> Callable[[], None]:
    def page() -> None:
        importlib.import_module(f"workbench.dashboard.pages.{name}").main()

    return page
