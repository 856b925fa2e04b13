"""The card of a run that did not finish: worker, step, reason, last output, suggestions."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from workbench.api import Run
from workbench.api.store import RunError

_ICONS = {"failed": ":material/error:", "lost": ":material/help:", "cancelled": ":material/cancel:"}


def failure_card(run: Run) -> None:
    """Draws the card of a run that failed, was cancelled or was lost; nothing for others."""
    card = failure(run)
    if card is None:
        return
    with st.container(border=True):
        where = [] if card.worker is None else [f"worker {card.worker}"]
        where += [] if card.step is None else [f"step {card.step}"]
        st.markdown(f"{_ICONS[card.state]} **{card.state.capitalize()}**" + (f" · {', '.join(where)}" if where else ""))
        st.caption(run.id)
        st.text(card.reason)
        st.caption("Suggestions")
        for text in card.advice:
            st.text(text)
        if card.last_lines:
            st.caption("Last output")
            st.code("\n".join(card.last_lines), language=None, wrap_lines=True)
        if card.operations:
            st.caption("Last communication")
            st.code("\n".join(card.operations), language=None, wrap_lines=True)


NUM_LINES = 12
_LESS_MEMORY = (
    "If the worker ran out of memory: reduce the global batch size, enable checkpointing, or shard the parameters"
    " (split.data.shard = parameters)."
)
_BY_WORD = {
    "SIGKILL": _LESS_MEMORY,
    "out of memory": _LESS_MEMORY,
    "hung": "Read the last output of that worker. If it was only slow, increase launch.timeout_s.",
    "process is gone": "The machine was restarted or the supervisor was killed: run it again.",
    "block_times": "Use a partition other than time: it needs no measurement before the run.",
}


@dataclass(frozen=True)
class Failure:
    """Content of the card."""

    state: str
    reason: str
    worker: int | None
    step: int | None
    last_lines: tuple[str, ...]
    operations: tuple[str, ...]
    advice: list[str]


def failure(run: Run) -> Failure | None:
    """Returns the content of the card of a run that failed, was cancelled or was lost; None for others."""
    state = run.state
    if state not in ("failed", "lost", "cancelled"):
        return None
    error = run.error or RunError(None, "")
    reason = error.exception or run.message or "No reason was recorded."
    description = f"{reason} {run.message}"
    advice = [error.advice] if error.advice else [text for word, text in _BY_WORD.items() if word in description]
    if state == "cancelled":
        advice = ["To run it again, load its spec in Configure."]
    lines, operations = error.last_lines[-NUM_LINES:], error.operations[-NUM_LINES:]
    return Failure(state, reason, error.rank, error.step, lines, operations, advice or ["Read the logs of the workers."])
