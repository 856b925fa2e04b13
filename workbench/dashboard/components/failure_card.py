"""A run that did not finish, as a card: worker, step, reason, last lines, what to try."""

from __future__ import annotations

import streamlit as st

from workbench.dashboard.failures import failure
from workbench.runs.directory import RunDirectory

_ICONS = {"failed": ":material/error:", "lost": ":material/help:", "cancelled": ":material/cancel:"}


def failure_card(run: RunDirectory) -> None:
    """Draws it; nothing of a run that did not fail."""
    card = failure(run)
    if card is None:
        return
    with st.container(border=True):
        where = [] if card.worker is None else [f"worker {card.worker}"]
        where += [] if card.step is None else [f"step {card.step}"]
        st.markdown(f"{_ICONS[card.state]} **{card.state.capitalize()}**" + (f" · {', '.join(where)}" if where else ""))
        st.caption(run.id)
        st.text(card.reason)
        if card.last_lines:
            st.caption("Last output")
            st.code("\n".join(card.last_lines), language=None, wrap_lines=True)
        if card.operations:
            st.caption("Last communication")
            st.code("\n".join(card.operations), language=None, wrap_lines=True)
        st.caption("Suggestions")
        for text in card.advice:
            st.text(text)
