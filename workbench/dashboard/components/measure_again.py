"""The button that repeats what other programs disturbed."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from workbench.api.remeasurement import can_be_measured_again, measure_again, pending
from workbench.api.store import Run
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.navigate import go
from workbench.errors import WorkbenchError


def measure_again_button(runs: Sequence[Run]) -> None:
    """Draws the button if other programs disturbed one of the runs or a baseline of it."""
    if not any(map(can_be_measured_again, runs)):
        return
    if st.button(
        "Measure again when quiet",
        icon=":material/restart_alt:",
        help="Other programs disturbed runs or their baselines (⚠). These are measured again as soon as the machine is quiet.",
    ):
        try:
            waiting = pending(measure_again(runs))
        except WorkbenchError as error:
            alert("error", "Not started", str(error))
            return
        go("live", {"run": waiting[-1].id} if waiting else {})
