"""The queue in the order of execution: who has the devices, and who waits for what and how long."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import streamlit as st

from workbench.analysis.formatting import duration, rough_duration
from workbench.analysis.queue_times import QueueTimes
from workbench.api.queue import QueueEntry
from workbench.dashboard.components.run_card import cancel_button, title

MOST_SHOWN = 20


def queue_list(entries: Sequence[QueueEntry], times: QueueTimes, expected_s: Mapping[str, float | None]) -> None:
    """Draws one row per entry, up to twenty.

    Args:
        entries: In the order of execution.
        expected_s: Run id → seconds that the run takes.
    """
    st.subheader("Queue", anchor=False)
    st.caption("In the order of execution.")
    for position, entry in enumerate(entries[:MOST_SHOWN], start=1):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(f"{position}.  " + "  ·  ".join(words(entry, times, expected_s)), width="stretch")
            if entry.run:
                with st.container(width=120):
                    cancel_button(entry.run)
    if len(entries) > MOST_SHOWN:
        st.caption(f"And {len(entries) - MOST_SHOWN} more.")


def words(entry: QueueEntry, times: QueueTimes, expected_s: Mapping[str, float | None]) -> list[str]:
    """Returns what an entry is, what it waits for, and if known when it starts and how long it takes."""
    if entry.run is None or entry.record is None:
        return [entry.description, ("has " if entry.has_devices else "waits for ") + ", ".join(sorted(entry.devices))]
    record, facts = entry.record, [title(entry.record)]
    facts += [f"{record.model} on {record.dataset}", entry.reason or str(entry.state)]
    if entry.reason and (start := times.starts_in_s.get(entry.id)):
        facts.append(f"starts in {rough_duration(start)}")
    if (takes := expected_s.get(entry.id)) is not None:
        facts.append(f"takes {rough_duration(takes)}")
    facts.append(f"submitted {duration(max(0.0, time.time() - record.created_at))} ago")
    return facts
