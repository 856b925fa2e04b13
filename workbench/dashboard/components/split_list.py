"""The list of all splits of a number of workers by formula, which can be queued as one group."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from workbench.analysis.byte_units import byte_unit
from workbench.analysis.device_memory import exceeded
from workbench.analysis.durations import duration_text, typical_duration_s
from workbench.api.plans import all_splits, plan
from workbench.api.specs import RunSpec, dumps
from workbench.api.store import open_exact
from workbench.dashboard.cache import runs_frame
from workbench.dashboard.components.choose_runs import MOST_COMPARED
from workbench.dashboard.components.outlook import Outlook, select_device
from workbench.dashboard.components.submit import submit
from workbench.messages import counted

_MOST_WORKERS = 64
_NUM_SIMILAR = 5


def split_list(spec: RunSpec, num_workers: int) -> None:
    """Draws the splits that the checks accept, initially of this many workers, and the button that queues them."""
    with st.container(border=True):
        left, right = st.columns([1, 2], vertical_alignment="bottom")
        with left:
            key = "workers of all splits"
            st.session_state.setdefault(key, max(2, min(num_workers, _MOST_WORKERS)))
            number = int(st.number_input("Workers", 2, _MOST_WORKERS, key=key))
        with right:
            variants = st.toggle("Include variants (ZeRO-1, ZeRO-2, FSDP)", key="variants of all splits")
        specs = all_splits(spec, number, variants=variants)
        if not specs:
            st.text(f"No split of {number} workers is supported for this model, data and batch size.")
            return
        frame = _frame(dumps(spec), number, variants, specs)
        limit = select_device(plan(specs[0]), key="device of all splits")
        _table(frame, limit.bytes_per_worker, str(limit))
        group = f"all splits of {number}, {spec.model.name}"
        runnable = [specs[number] for number in sorted(frame.loc[~frame["exceeds"], "number"])]
        left_text = f"{counted(len(runnable), 'run')}, one after the other" + _estimate(spec, len(runnable))
        if len(runnable) < len(specs):
            left_text += f"; {len(specs) - len(runnable)} that exceed this machine or the memory budget are left out"
        if len(runnable) > MOST_COMPARED:
            left_text += f". A comparison shows the first {MOST_COMPARED}"
        with st.container(horizontal=True, vertical_alignment="center"):
            name = counted(len(runnable), "split")
            queue = st.button(f"Queue {name}", type="primary", icon=":material/stacks:", key="queue all", disabled=not runnable)
            if queue and len(submit(runnable, f"{name} ({group})", group)) == len(runnable):
                st.rerun()  # not after a refusal, which would disappear
            st.text(f"{left_text}.")


@st.cache_data(max_entries=16, show_spinner="Computing all splits…")
def _frame(spec: str, num_workers: int, variants: bool, _specs: list[RunSpec]) -> pd.DataFrame:
    """Returns one row per split: its ``number``, ``split``, the expected bytes of the largest worker, the communication per step,
    and whether it ``exceeds`` this machine or the budget; least memory first."""
    rows = []
    for number, outlook in enumerate(Outlook.of(plan(spec)) for spec in _specs):
        rows.append(
            {
                "number": number,
                "split": outlook.plan.spec.split.label,
                "memory": max(outlook.bytes_of_workers.values()),
                "communication": int(outlook.communication["bytes"].sum()),
                "exceeds": bool(exceeded(outlook.plan, outlook.bytes_of_workers)),
            }
        )
    return pd.DataFrame(rows).sort_values("memory", kind="stable", ignore_index=True)


def _table(frame: pd.DataFrame, limit: int, device: str) -> None:
    (memory, of_memory), (volume, of_volume) = byte_unit(frame["memory"].max()), byte_unit(frame["communication"].max())
    fits = frame["memory"] <= limit
    st.caption(f"By formula, least memory first. {fits.sum()} of {len(frame)} fit ({device}).")
    st.dataframe(
        pd.DataFrame(
            {
                "split": frame["split"],
                "memory": frame["memory"] / of_memory,
                "communication": frame["communication"] / of_volume,
                "fits": fits.map({True: "yes", False: "no"}),
            }
        ),
        hide_index=True,
        key="splits by formula",
        column_config={
            "memory": st.column_config.NumberColumn(f"memory, largest worker ({memory})", format="%.2f"),
            "communication": st.column_config.NumberColumn(f"communication per step ({volume})", format="%.2f"),
            "fits": st.column_config.TextColumn("fits", help=f"Whether the largest worker fits {device}."),
        },
    )


def _estimate(spec: RunSpec, count: int) -> str:
    """Returns how long the runs take if they take as long as similar ones of the store; empty if there are none."""
    frame = runs_frame()
    alike = (frame["model"] == spec.model.name) & (frame["dataset"] == spec.dataset.name) & (frame["mode"] == spec.mode)
    similar = frame[alike & (frame["state"] == "finished")].sort_values("created_at").tail(_NUM_SIMILAR)
    typical = typical_duration_s([open_exact(str(run_id)) for run_id in similar["run_id"]])
    return "" if typical is None else f", {duration_text(typical * count)} by the latest runs of this model"
