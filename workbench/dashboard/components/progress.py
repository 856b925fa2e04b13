"""The progress of a run."""

from __future__ import annotations

import streamlit as st

from workbench.analysis.formatting import duration, rough_duration
from workbench.analysis.progress import Follower
from workbench.dashboard.components.failure import ICONS


def bar(follower: Follower, state: str, message: str) -> None:
    """Draws how far a run is: a bar, or a line if it has ended; ``message`` is shown for a run that has not begun."""
    progress = follower.progress
    step = f"step {progress[0]} of {progress[1]}" if progress else ""
    parity = follower.parity if len(follower.events) > 1 else ""  # one worker equals itself
    if state in ICONS:
        st.markdown(" · ".join(filter(None, (f"{ICONS[state]} {state}", step, parity))))
    elif progress:
        words = [state, step]
        if state == "running":
            words.append(f"{duration(follower.elapsed_s)} elapsed")
            if (remaining_s := follower.remaining_s) is not None:
                words.append(f"{rough_duration(remaining_s)} left")
        st.progress(min(1.0, progress[0] / progress[1]), " · ".join(filter(None, (*words, parity))))
    else:
        st.progress(0.0, state)
        if message:
            st.text(message)
