"""What a plan amounts to by its formulas, before anything runs: who holds what, how much, and what moves."""

from __future__ import annotations

import pandas as pd
import psutil
import streamlit as st

from workbench.analysis.charts.look import folding
from workbench.analysis.charts.mesh import held_chart, mesh_chart
from workbench.analysis.expected import held, moves, placement
from workbench.plan.feasibility import Plan

_MIB = 2**20


def figures(planned: Plan) -> None:
    """The split in four figures."""
    per_worker = held(planned).groupby("worker")["bytes"].sum()
    with st.container(horizontal=True, gap="large"):
        st.metric("Split", planned.spec.split.label, help="What the split is called in tables.", width="content")
        st.metric("Workers", planned.num_workers, help=_mesh_in_words(planned), width="content")
        st.metric(
            "Largest worker holds",
            in_bytes(per_worker.max()),
            help="By formula: parameters, gradients, optimizer state and, where there is one, the most activations at once.",
            width="content",
        )
        st.metric(
            "Moves per step",
            in_bytes(moves(planned)["bytes"].sum()),
            help="Over the whole run, by formula: each collective once a group, each send once.",
            width="content",
        )


def outlook(planned: Plan) -> None:
    """Who holds which blocks, how much, and what moves."""
    frame = held(planned)
    per_worker = frame.groupby("worker")["bytes"].sum()
    st.altair_chart(mesh_chart(placement(planned)), key="mesh")
    st.altair_chart(folding(held_chart(frame)), key="held")
    st.caption(_against_memory(planned, int(per_worker.sum()), int(per_worker.max())))
    if notice := planned.device_notice:
        st.caption(f"{notice}.")
    if planned.spec.mode == "train" and "activations" not in set(frame["category"]):
        st.caption("Activations come on top: there is no formula for them here.")
    _table(moves(planned))


def in_bytes(value: float) -> str:
    """``3.54 MiB``"""
    for unit, size in (("GiB", 2**30), ("MiB", _MIB), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} bytes"


def _mesh_in_words(planned: Plan) -> str:
    axes = " × ".join(f"{axis} {size}" for axis, size in planned.mesh.axes.items())
    return f"{axes or 'one worker'}, on {planned.device}"


def _against_memory(planned: Plan, together: int, largest: int) -> str:
    if planned.device == "cpu":
        total = psutil.virtual_memory().total
        return f"All workers together hold {in_bytes(together)}, {together / total:.2%} of this machine's {in_bytes(total)}."
    return f"Each worker has a GPU of its own, of which the largest takes {in_bytes(largest)}."


def _table(moved: pd.DataFrame) -> None:
    st.markdown("**What moves in a step, by formula**")
    if moved.empty:
        st.caption("Nothing: there is nobody to talk to.")
        return
    shown = moved.assign(
        bytes=moved["bytes"] / _MIB,
        is_bound=moved["is_bound"].map({True: "at most this", False: ""}),
        operation=moved["operation"].str.replace("_", "-"),
    )
    st.dataframe(
        shown if moved["is_bound"].any() else shown.drop(columns="is_bound"),
        hide_index=True,
        key="moves",
        column_config={
            "operation": st.column_config.TextColumn("operation", help="all-reduce: everybody gets everybody's sum, and so on."),
            "axis": st.column_config.TextColumn("axis", help="Along which axis of the mesh."),
            "count": st.column_config.NumberColumn("times", help="Each collective once a group, each send once."),
            "bytes": st.column_config.NumberColumn("MiB", format="%.3f", help="Of all of them together: the tensors' own sizes."),
            "is_bound": st.column_config.TextColumn("", help="Where the data decide how much moves, this is the most."),
        },
    )
