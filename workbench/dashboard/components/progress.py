"""The progress bar of a run."""

from __future__ import annotations

import streamlit as st

from workbench.analysis.formatting import duration
from workbench.analysis.progress import Follower


def bar(follower: Follower, state: str, message: str) -> None:
    """Draws the progress of a run; ``message`` is shown for a run that has not begun."""
    progress = follower.progress
    if progress:
        num_done, total = progress
        words = f"{state} · step {num_done} of {total}"
        if state == "running" and (remaining_s := follower.remaining_s) is not None:
            words += f" · about {duration(remaining_s)} left"
        st.progress(min(1.0, num_done / total), words + (f" · {follower.parity}" if follower.parity else ""))
    else:
        st.progress(0.0, state)
        if message and state not in ("failed", "lost", "cancelled"):
            st.text(message)
