"""Selection of runs of the store by label. The selection is in the address; runs that are not in the store are reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import pandas as pd
import streamlit as st

from workbench.analysis.latest import MOST_COMPARED
from workbench.dashboard.cache import runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.navigate import follows_address, go, has

MOST_OFFERED = 500


def choose_run(any_state: bool = False) -> str | None:
    """Draws a selection of one run, initially that of the address. Returns its id; None if no run has finished, or if there is
    none, where it may be in ``any_state``."""
    frame = runs_frame()
    if _is_empty(frame, any_state):
        return None
    offered = _offered(frame, any_state)
    (named,) = _existing_ids(frame, [st.query_params.get("run", "")])[:1] or [offered[0]]
    key = "open run" if any_state else "run of the trace"
    if follows_address(key, named):
        st.session_state[key] = st.session_state[f"{key}, asked"] = named
    offered = list(dict.fromkeys([named, *offered]))
    chosen = st.selectbox("Run", offered, key=key, format_func=_labels(frame, offered).__getitem__)
    if st.query_params.get("run") != chosen:
        st.query_params["run"] = st.session_state[f"{key}, asked"] = chosen
    return str(chosen)


def choose_runs() -> list[str]:
    """Draws a selection of several runs, initially those of the address. Returns their ids in the order of selection."""
    frame = runs_frame()
    if _is_empty(frame):
        return []
    requested = [run_id for run_id in st.query_params.get("runs", "").split(",") if run_id]
    key = "compared runs"
    named = _existing_ids(frame, requested if follows_address(key, requested) else st.session_state[key])
    if len(named) > MOST_COMPARED:
        alert("warning", f"Only the first {MOST_COMPARED} of {len(named)} runs are compared")
    st.session_state[key] = named[:MOST_COMPARED]
    offered = list(dict.fromkeys([*st.session_state[key], *_offered(frame)]))
    chosen = st.multiselect(
        "Runs",
        offered,
        key=key,
        format_func=_labels(frame, offered).__getitem__,
        max_selections=MOST_COMPARED,
        placeholder="select two to twenty runs",
    )
    st.session_state[f"{key}, asked"] = chosen
    if chosen != requested:
        st.query_params.from_dict({"runs": ",".join(chosen)} if chosen else {})
    return list(chosen)


def compare_these(frame: pd.DataFrame, label: str, key: str) -> None:
    """Draws a button that compares the finished runs of the frame; nothing if there are fewer than two."""
    finished = list(frame.loc[frame["state"] == "finished", "run_id"])[:MOST_COMPARED]
    if has("compare") and len(finished) > 1 and st.button(label, icon=":material/compare_arrows:", key=key):
        go("compare", {"runs": ",".join(finished)})


def _is_empty(frame: pd.DataFrame, any_state: bool = False) -> bool:
    """Whether no run has finished, or there is none, where it may be in ``any_state``; a message then says so."""
    if len(frame) if any_state else (frame["state"] == "finished").any():
        return False
    st.info("No run has finished yet." if len(frame) else "There are no runs yet.")
    if st.button("Configure a run", type="primary"):
        go("configure")
    return True


def _offered(frame: pd.DataFrame, any_state: bool = False) -> list[str]:
    """Returns the ids of finished runs, or of all, newest first."""
    offered = frame if any_state else frame[frame["state"] == "finished"]
    return [str(run_id) for run_id in offered.sort_values("created_at", ascending=False)["run_id"].head(MOST_OFFERED)]


def _existing_ids(frame: pd.DataFrame, run_ids: list[str]) -> list[str]:
    """Returns the ids of runs that are in the store and readable; warns about the others."""
    existing = set(frame.loc[frame["state"] != "damaged", "run_id"])
    unknown = [run_id for run_id in run_ids if run_id and run_id not in existing]
    if unknown:
        alert("warning", "Not found in the store", *(run_id[:100] for run_id in unknown[:5]))
    return [run_id for run_id in dict.fromkeys(run_ids) if run_id in existing]


def _labels(frame: pd.DataFrame, run_ids: list[str]) -> dict[str, str]:
    """Returns labels such as ``dp2 · transformer · 24 Nov 11:04:05`` by id, with the name if there is one. Equal labels get the
    end of the id, because the browser answers with labels."""
    rows = frame[frame["run_id"].isin(run_ids)].set_index("run_id").to_dict("index")
    labels = {run_id: _label(rows[run_id]) for run_id in run_ids}
    times = Counter(labels.values())
    return {run_id: label if times[label] == 1 else f"{label} · {run_id[-6:]}" for run_id, label in labels.items()}


def _label(row: dict[Hashable, Any]) -> str:
    when = "" if pd.isna(row["created"]) else row["created"].strftime("%d %b %H:%M:%S")
    state = "" if row["state"] == "finished" else str(row["state"])
    return " · ".join(filter(None, (str(row["split"]), str(row["name"]), str(row["model"]), when, state)))
