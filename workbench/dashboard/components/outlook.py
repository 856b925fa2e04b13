"""The expected values of a plan, before anything runs: placement, memory and communication."""

from __future__ import annotations

import pandas as pd
import psutil
import streamlit as st

from workbench.analysis.expected import expected_communication, held, placement
from workbench.api.plans import Plan
from workbench.charts.mesh import held_chart, mesh_chart
from workbench.charts.theme import folding

_MIB = 2**20


def figures(planned: Plan) -> None:
    """Draws the split in four figures."""
    per_worker = held(planned).groupby("worker")["bytes"].sum()
    with st.container(horizontal=True, gap="large"):
        st.metric("Split", planned.spec.split.label, help="Label of the split in tables.", width="content")
        st.metric("Workers", planned.num_workers, help=_mesh_text(planned), width="content")
        st.metric(
            "Expected memory, largest worker",
            in_bytes(per_worker.max()),
            help="Parameters, gradients, optimizer state and, where there is a formula, the peak of the activations.",
            width="content",
        )
        st.metric(
            "Communication per step",
            in_bytes(expected_communication(planned)["bytes"].sum()),
            help="Expected communication volume of all workers: each collective counts once per group, each send once.",
            width="content",
        )


def outlook(planned: Plan) -> None:
    """Draws the blocks and the memory that each worker holds, and the communication of a step."""
    frame = held(planned)
    per_worker = frame.groupby("worker")["bytes"].sum()
    st.altair_chart(mesh_chart(placement(planned)), key="mesh")
    st.altair_chart(folding(held_chart(frame)), key="held")
    st.caption(_against_memory(planned, int(per_worker.sum()), int(per_worker.max())))
    if notice := planned.device_notice:
        st.caption(f"{notice}.")
    if planned.spec.mode == "train" and "activations" not in set(frame["category"]):
        st.caption("Activations are not included: there is no formula for this model.")
    _table(expected_communication(planned))


def in_bytes(value: float) -> str:
    """Returns the size with its unit: ``3.54 MiB``."""
    for unit, size in (("GiB", 2**30), ("MiB", _MIB), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} bytes"


def _mesh_text(planned: Plan) -> str:
    axes = " × ".join(f"{axis} {size}" for axis, size in planned.mesh.axes.items())
    return f"{axes or 'one worker'}, on {planned.device}"


def _against_memory(planned: Plan, together: int, largest: int) -> str:
    if planned.device == "cpu":
        total = psutil.virtual_memory().total
        return f"All workers together need {in_bytes(together)}, {together / total:.2%} of the {in_bytes(total)} of this machine."
    return f"Each worker has its own GPU; the largest worker needs {in_bytes(largest)}."


def _table(frame: pd.DataFrame) -> None:
    st.markdown("**Expected communication per step**")
    if frame.empty:
        st.caption("No communication: single worker.")
        return
    columns = frame.assign(
        bytes=frame["bytes"] / _MIB,
        is_bound=frame["is_bound"].map({True: "upper bound", False: ""}),
        operation=frame["operation"].str.replace("_", "-"),
    )
    st.dataframe(
        columns if frame["is_bound"].any() else columns.drop(columns="is_bound"),
        hide_index=True,
        key="expected communication",
        column_config={
            "operation": st.column_config.TextColumn("operation", help="Collective or point-to-point operation."),
            "axis": st.column_config.TextColumn("axis", help="Mesh axis of the communicating workers."),
            "count": st.column_config.NumberColumn("count", help="Each collective counts once per group, each send once."),
            "bytes": st.column_config.NumberColumn(
                "payload (MiB)", format="%.3f", help="Sum of the tensors' sizes over all counted operations."
            ),
            "is_bound": st.column_config.TextColumn("", help="The volume depends on the data; this is an upper bound."),
        },
    )
