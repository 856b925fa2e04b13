"""The card of a group of runs: how many have finished, how long the others take, and their one comparison."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from workbench.analysis.formatting import rough_duration
from workbench.api.groups import Group
from workbench.api.store import open_exact
from workbench.dashboard.components.navigate import go, has


def group_card(group: Group, left_s: float | None, step_times: Mapping[str, float]) -> None:
    """Draws the card.

    Args:
        left_s: Seconds until its last run ends; None if unknown.
        step_times: Run id → step time in seconds of finished runs.
    """
    active, num_runs = group.active, len(group.states)
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.text(
            f"{group.name}: {group.text()}" + (f"  ·  {rough_duration(left_s)} left" if active and left_s else ""),
            width="stretch",
        )
        if active:
            st.progress(group.num_ended / num_runs, width=200)
            members = [run_id for run_id in active if run_id in group.members]
            if members and st.button("Cancel all", key=f"cancel group {group.name}", icon=":material/stop:"):
                for run_id in members:
                    open_exact(run_id).cancel()  # and the baselines that no other run needs
                st.toast("Cancelling.")
        elif has("compare") and len(group.finished) > 1:
            chosen = group.compared(step_times)
            if len(chosen) < len(group.finished):
                st.caption(f"the baselines and the fastest, {len(chosen)} of {len(group.finished)}")
            if st.button("Compare", key=f"compare group {group.name}", type="primary", icon=":material/compare_arrows:"):
                go("compare", {"runs": ",".join(chosen)})
