"""The log of a worker."""

from __future__ import annotations

import streamlit as st

from workbench.api import Run

MOST_LINES = 200
"""Last lines of a log that are shown."""
_MOST_BYTES = 64 * 1024


def log(run: Run, num_workers: int) -> None:
    """Draws an expander with the last lines of the log of a worker, which is read only while the expander is open."""
    with st.expander("Log", icon=":material/notes:", key=f"log of {run.id}", on_change="rerun") as expander:
        if not expander.open:
            return
        rank = st.selectbox("Worker", range(num_workers), key=f"worker of the log of {run.id}")
        lines = run.log(rank or 0, _MOST_BYTES).splitlines()
        st.code("\n".join(lines[-MOST_LINES:]) or "(empty)", language=None, wrap_lines=True)
