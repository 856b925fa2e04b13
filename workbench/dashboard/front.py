"""The front page: what this is, the runs of the store, and why some of them failed."""

from __future__ import annotations

from typing import Any

import streamlit as st

from workbench.api import open_run, runs


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
    failed = list(frame.loc[frame["state"].isin(["failed", "lost"]), "run_id"])[::-1]
    if failed:
        st.subheader("Runs that failed")
    for run_id in failed:
        _failure(run_id)


def _failure(run_id: str) -> None:
    """Why a run failed; text of a run is shown as it is, never as Markdown."""
    run = open_run(run_id)
    error: dict[str, Any] = run.error or {}
    with st.expander(run_id):
        st.text(run.message or f"state: {run.state}")
        if error:
            st.text(f"worker {error.get('rank')}, step {error.get('step')}: {error.get('exception')}")
        if lines := error.get("last_lines"):
            st.code("\n".join(lines), language=None)
        if advice := error.get("advice"):
            st.text(advice)


if __name__ == "__main__":
    main()
