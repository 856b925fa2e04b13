"""The card of a run that did not finish: worker, step, reason, last output, suggestions."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from workbench.api import Run
from workbench.api.store import RunError

ICONS = {
    "finished": ":green[:material/check_circle:]",
    "failed": ":red[:material/error:]",
    "lost": ":orange[:material/help:]",
    "cancelled": ":gray[:material/cancel:]",
}
"""State of a run that has ended → its icon, as Markdown."""


def failure_card(run: Run) -> None:
    """Draws the card of a run that failed, was cancelled or was lost; nothing for others."""
    card = failure(run)
    if card is None:
        return
    with st.container(border=True):
        where = [] if card.worker is None else [f"worker {card.worker}"]
        where += [] if card.step is None else [f"step {card.step}"]
        st.markdown(f"{ICONS[card.state]} **{card.state.capitalize()}**" + (f" · {', '.join(where)}" if where else ""))
        st.caption(run.id)
        if card.state == "cancelled":
            st.text(_CANCELLED)
            return
        st.text(card.reason)
        st.caption("Suggestions")
        st.text(card.advice)
        if card.last_lines:
            st.caption("Last output")
            st.code("\n".join(card.last_lines), language=None, wrap_lines=True)
        if card.operations:
            st.caption("Last communication")
            st.code("\n".join(card.operations), language=None, wrap_lines=True)


NUM_LINES = 12
_WITHOUT_RECORD = {
    "failed": "Read the logs of the workers.",
    "lost": "The machine was restarted, or the supervisor was killed or did not start: run it again.",
    "cancelled": "",
}
"""State → what to try if the supervisor recorded no advice."""
_CANCELLED = "Its configuration is saved; you can run it again from Configure."


@dataclass(frozen=True)
class Failure:
    """Content of the card."""

    state: str
    reason: str
    worker: int | None
    step: int | None
    last_lines: tuple[str, ...]
    operations: tuple[str, ...]
    advice: str


def failure(run: Run) -> Failure | None:
    """Returns the content of the card of a run that failed, was cancelled or was lost; None for others."""
    state = run.state
    if state not in ("failed", "lost", "cancelled"):
        return None
    error = run.error or RunError(None, "")
    reason = error.exception or run.message or "No reason was recorded."
    lines, operations = error.last_lines[-NUM_LINES:], error.operations[-NUM_LINES:]
    return Failure(state, reason, error.rank, error.step, lines, operations, error.advice or _WITHOUT_RECORD[state])
