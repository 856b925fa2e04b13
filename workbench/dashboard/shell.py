"""The dashboard's shell: the list of pages, and which of them is shown."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import streamlit as st

# Streamlit puts the folder of the script that it runs first on the path; there "pages" is not ours alone.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).parent]

PAGES = {
    "front": ("The workbench", ":material/home:"),
    "configure": ("Configure", ":material/tune:"),
    "live": ("Live", ":material/monitor_heart:"),
    "runs": ("Runs", ":material/table_rows:"),
}
"""Module in ``pages`` → its title and icon, in the order of the navigation: one line a page."""


def main() -> None:
    """Draws the page that the address names."""
    st.set_page_config(page_title="The workbench", page_icon=":material/account_tree:", layout="wide")
    pages = {
        name: st.Page(_draw(name), title=title, icon=icon, url_path=name, default=name == "front")
        for name, (title, icon) in PAGES.items()
    }
    st.session_state["pages"] = pages
    st.navigation(list(pages.values()), position="top").run()


def _draw(name: str) -> Callable[[], None]:
    def page() -> None:
        importlib.import_module(f"workbench.dashboard.pages.{name}").main()

    return page


if __name__ == "__main__":
    main()
