"""The page Live: the run that runs, its group and the queue. What is redrawn every second is a fragment; runs do not need the
page."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import streamlit as st

from workbench.analysis.latest import comparable
from workbench.analysis.progress import Follower
from workbench.analysis.queue_times import QueueTimes
from workbench.api.groups import Group, group_of
from workbench.api.queue import QueueEntry
from workbench.api.store import TERMINAL, Run, home, open_exact, store_changes
from workbench.dashboard.cache import queue, runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.choose_runs import compare_these
from workbench.dashboard.components.group_card import group_card
from workbench.dashboard.components.navigate import go
from workbench.dashboard.components.queue_list import queue_list, words
from workbench.dashboard.components.run_card import cancel_button, run_card, title
from workbench.dashboard.components.runs_table import runs_table
from workbench.dashboard.durations import expected_of_run
from workbench.errors import UsageError

REFRESH_S = 1.0
NUM_ENDED = 8
NUM_GROUPS = 2
"""Groups of ended runs that are shown."""


def main() -> None:
    """Draws the page."""
    st.title("Live")
    st.caption("Runs are separate processes: they continue when this page is closed or the server stops.")
    _refresh()


@dataclass
class _Ended:
    """The runs that have ended, and what follows from them; read again when the store has changed."""

    key: tuple[Path, list[tuple[str, int]]]
    frame: pd.DataFrame
    """All of them, newest first."""
    comparable: list[str]
    """Ids of the newest run and of others that do its work."""
    step_times: dict[str, float]
    """Id of a finished run → its step time in seconds."""
    expected_s: dict[str, float | None] = field(default_factory=dict)
    """Id of a run that has not ended → its expected duration."""


@st.fragment(run_every=REFRESH_S)
def _refresh() -> None:
    entries = queue().entries()
    ended = _read_ended(home(), {entry.id for entry in entries if entry.run})
    named, large = _named(), next((entry.run for entry in entries if entry.run and entry.has_devices), None)
    cards = {run.id: run for run in (large, named if named and named.state.is_terminal else None) if run}
    if not cards and not entries and len(ended.frame):
        last = open_exact(str(ended.frame["run_id"].iloc[0]))
        cards[last.id] = last
    if not cards and not entries:
        st.info("There are no runs yet.")
        if st.button("Configure a run", type="primary"):
            go("configure")
        return
    followers = _followers(cards.values())
    expected_s = {entry.id: _expected_s(entry.run, ended) for entry in entries if entry.run}
    times = QueueTimes.of((entry.id, entry.devices, _left_s(entry, followers, expected_s)) for entry in entries)
    others = [entry for entry in entries if entry.id not in cards]
    for position, entry in enumerate(others, start=1):
        if named and entry.id == named.id:
            _waiting(entry, f"number {position} in the queue", words(entry, times, expected_s))
    for group in _groups(entries, ended):
        group_card(group, times.end_in_s(group.active), ended.step_times)
    for run in cards.values():
        run_card(run, followers[run.id], queue().record(run.id))
    if others:
        queue_list(others, times, expected_s)
    if len(ended.frame):
        st.subheader("Recent runs", anchor=False)
        runs_table(ended.frame.head(NUM_ENDED), key="ended")
        compare_these(ended.frame[ended.frame["run_id"].isin(ended.comparable)], "Compare these runs", key="compare ended")


def _named() -> Run | None:
    """Returns the run of the address."""
    if named := st.query_params.get("run"):
        try:
            return open_exact(named)
        except UsageError as error:
            alert("warning", "Run not found", str(error))
    return None


def _read_ended(store: Path, active: Container[str]) -> _Ended:
    """Returns the runs that have ended; read again only if one was added, changed or removed.

    Args:
        active: Ids of the runs that have not ended, which change with every heartbeat.
    """
    key = store, [change for change in store_changes(store) if change[0] not in active]  # before they are read
    cached: _Ended | None = st.session_state.get("ended")
    if cached is None or cached.key != key:
        frame = runs_frame()
        frame = frame[frame["state"].isin(TERMINAL)].sort_values("created_at", ascending=False)
        finished = frame[frame["state"] == "finished"]
        step_times = dict(zip(finished["run_id"], finished["step_time_s"], strict=True))
        cached = _Ended(key, frame, comparable(frame, open_exact), step_times)
        st.session_state["ended"] = cached
    return cached


def _followers(runs: Iterable[Run]) -> dict[str, Follower]:
    """Returns what follows each of the runs; what followed others is forgotten."""
    kept: dict[Path, Follower] = st.session_state.get("followers", {})
    followers = {run.path: kept.get(run.path) or Follower(run) for run in runs}
    st.session_state["followers"] = followers
    return {path.name: follower for path, follower in followers.items()}


def _expected_s(run: Run, ended: _Ended) -> float | None:
    if run.id not in ended.expected_s:
        ended.expected_s[run.id] = expected_of_run(run, queue().record(run.id), ended.frame)
    return ended.expected_s[run.id]


def _left_s(entry: QueueEntry, followers: Mapping[str, Follower], expected_s: Mapping[str, float | None]) -> float | None:
    """Returns how long a run still takes once it has its devices."""
    follower, expected = followers.get(entry.id), expected_s.get(entry.id)
    if follower is None or not follower.events.get(0):
        return expected
    by_steps = follower.remaining_s
    return by_steps if expected is None else max(by_steps or 0.0, expected - follower.elapsed_s)


def _groups(entries: Sequence[QueueEntry], ended: _Ended) -> list[Group]:
    """Returns the groups of the runs that have not ended and the last ones that have."""
    frame, active = ended.frame, [entry for entry in entries if entry.run]
    ended_groups = frame.loc[frame["group"] != "", "group"].unique()[:NUM_GROUPS]
    names = dict.fromkeys([*(entry.group for entry in active if entry.group), *ended_groups])
    states = {**dict(zip(frame["run_id"], frame["state"], strict=True)), **{entry.id: str(entry.state) for entry in active}}
    groups = []
    for name in names:
        ids = [*frame.loc[frame["group"] == name, "run_id"], *(entry.id for entry in active if entry.group == name)]
        records = sorted((queue().record(str(run_id)) for run_id in ids), key=lambda record: record.created_at)
        groups.append(group_of(name, records, states))
    return groups


def _waiting(entry: QueueEntry, place: str, facts: Sequence[str]) -> None:
    """Draws the place in the queue of the run that the address names."""
    assert entry.run and entry.record
    with st.container(border=True):
        head, button = st.columns([4, 1], vertical_alignment="center")
        with head:
            st.subheader(title(entry.record), anchor=False)
            st.text("  ·  ".join((place, *facts[1:])))
        with button:
            cancel_button(entry.run, "cancel named")
