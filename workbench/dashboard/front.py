"""The front page: what this is, and the runs of the store."""

from __future__ import annotations

import streamlit as st

from workbench import runs


def main() -> None:
    """Draws the page."""
    st.set_page_config(page_title="The workbench", layout="wide")
    st.title("The workbench")
    st.write("How should I split this model, and what will it cost me? Find out by running it.")
    frame = runs()
    if frame.empty:
        st.info("No runs yet. `workbench run` in a terminal makes the first ones, in about a minute.")
        return
    st.dataframe(frame.iloc[::-1], hide_index=True)
