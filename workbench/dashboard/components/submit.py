"""Submits specs from the page Configure: asks before a run that is expected not to fit, and says what was queued."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from workbench.analysis.device_memory import exceeded
from workbench.analysis.outlook import Outlook
from workbench.api.specs import RunSpec
from workbench.dashboard.cache import queue
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.navigate import go
from workbench.dashboard.start import start

_ASKED, _QUEUED = "asked before submission", "queued"
"""Keys of the action that waits for a confirmation, and of what was queued last: its name and the ids of its runs."""
_RUN, _ADD = "run", "queue"


def submit_buttons(outlook: Outlook | None) -> None:
    """Draws *Run*, which shows the run live, and *Add to queue*, which stays on the page; disabled without a plan."""
    clicked = ""
    if st.button("Run", type="primary", icon=":material/play_arrow:", disabled=outlook is None):
        clicked = _RUN
    if st.button("Add to queue", icon=":material/playlist_add:", disabled=outlook is None):
        clicked = _ADD
    if outlook is None:
        st.session_state.pop(_ASKED, None)
        return
    reasons = exceeded(outlook.plan, outlook.bytes_of_workers)
    if clicked and reasons:
        st.session_state[_ASKED], clicked = clicked, ""
    elif not reasons:
        st.session_state.pop(_ASKED, None)
    if asked := st.session_state.get(_ASKED):
        with st.container():
            alert("warning", "This run is expected not to fit", *reasons)
            with st.container(horizontal=True):
                if st.button("Run anyway", key="run anyway"):
                    clicked = asked
                st.button("Do not run", key="do not run", on_click=st.session_state.pop, args=(_ASKED, None))
    if clicked:
        st.session_state.pop(_ASKED, None)
        ids = submit([outlook.plan.spec], outlook.plan.spec.split.label)
        if ids and clicked == _RUN:
            go("live", {"run": ids[0]})


def submit(specs: Sequence[RunSpec], name: str, group: str | None = None) -> list[str]:
    """Submits specs, as a group if that is named, and notes them for ``queued_line``. Returns the ids of the started runs."""
    with st.spinner("Starting…"):
        started = start(specs, group)
    if started.refused:
        alert("error", f"{len(started.ids)} started, {len(started.refused)} not", *started.refused)
    if started.ids:
        st.session_state[_QUEUED] = name, started.ids
    return started.ids


def queued_line() -> None:
    """Draws what was queued last, with a link to Live, where a group has its comparison."""
    if not (queued := st.session_state.get(_QUEUED)):
        return
    name, ids = queued
    with st.container(horizontal=True, vertical_alignment="center"):
        st.text(f"queued: {name}; {len(queue().active())} in the queue")
        if st.button("Live", type="tertiary", icon=":material/monitor_heart:", key="to live"):
            go("live", {"run": ids[0]} if len(ids) == 1 else {})
