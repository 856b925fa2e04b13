"""The expected values of a plan, before anything runs: memory against a device, communication, placement and schedule."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from workbench.analysis.byte_units import byte_unit, in_bytes
from workbench.analysis.device_memory import DeviceMemory, device_memory, devices
from workbench.analysis.expected import placement
from workbench.analysis.outlook import Outlook
from workbench.analysis.schedule import bubble_fraction, schedule_timeline
from workbench.api.plans import Plan, order_of_actions
from workbench.api.specs import RunSpec
from workbench.charts.mesh import held_chart, mesh_chart
from workbench.charts.timeline import schedule_chart
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.chart import plain_figure
from workbench.errors import SpecError

DEVICE = "device"
"""Key of the selected device, and its parameter in the address."""


def draw_outlook(outlook: Outlook) -> None:
    """Draws the figures, memory, communication, placement and schedule of a plan."""
    _figures(outlook)
    _memory(outlook)
    _communication(outlook.communication)
    plain_figure(mesh_chart(placement(outlook.plan)), "mesh")
    _schedule(outlook.plan)


def select_device(planned: Plan, key: str = DEVICE) -> DeviceMemory:
    """Draws the selection of the device that memory is compared with. Returns it."""
    offered = devices(planned)
    default = f"{key}, default"
    if st.session_state.get(key) is None:
        st.session_state[key] = st.session_state.get(DEVICE) or offered[0]
    elif st.session_state[key] == st.session_state.get(default):  # which follows whether there is a budget
        st.session_state[key] = offered[0]
    st.session_state[default] = offered[0]
    chosen = st.selectbox(
        "Compare with",
        list(dict.fromkeys([*offered, st.session_state[key]])),
        key=key,
        accept_new_options=True,
        help="Memory that each worker may use: its part of this machine's, the memory budget of the spec, or that of a device."
        " Type a size such as 48 GB for another device.",
    )
    try:
        return device_memory(str(chosen or offered[0]), planned)
    except SpecError as error:
        alert("warning", "Unknown device", error.message)
        return device_memory(offered[0], planned)


def _figures(outlook: Outlook) -> None:
    planned, largest = outlook.plan, max(outlook.bytes_of_workers.values())
    with st.container(horizontal=True, gap="medium", horizontal_alignment="distribute"):
        st.metric("Split", planned.spec.split.label, help="Label of the split in tables.", width="content")
        st.metric("Workers", planned.num_workers, help=_mesh_text(planned), width="content")
        st.metric(
            "Largest worker",
            in_bytes(largest),
            help="Expected: parameters, gradients, optimizer state and, where there is a formula, the peak of the activations.",
            width="content",
        )
        st.metric(
            "Communication per step",
            in_bytes(outlook.communication["bytes"].sum()),
            help="Expected communication volume of all workers: each collective counts once per group, each send once.",
            width="content",
        )


def _mesh_text(planned: Plan) -> str:
    axes = " × ".join(f"{axis} {size}" for axis, size in planned.mesh.axes.items())
    return f"{axes or 'one worker'}, on {planned.device}"


def _memory(outlook: Outlook) -> None:
    device = select_device(outlook.plan)
    chart = held_chart(outlook.held, device.bytes_per_worker, device.name)
    plain_figure(chart, "held")
    if max(outlook.bytes_of_workers.values()) > device.bytes_per_worker:
        st.markdown(f":red-badge[does not fit: {device.name}]")
    if notice := outlook.plan.device_notice:
        st.caption(f"{notice}.")
    if outlook.plan.spec.mode == "train" and "activations" not in set(outlook.held["category"]):
        st.caption("Activations are not included: there is no formula for this model.")


def _communication(frame: pd.DataFrame) -> None:
    st.markdown("**Expected communication per step**")
    if frame.empty:
        st.caption("No communication: single worker.")
        return
    unit, size = byte_unit(frame["bytes"].max())
    columns = frame.assign(
        bytes=frame["bytes"] / size,
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
                f"payload ({unit})", format="%.2f", help="Sum of the tensors' sizes over all counted operations."
            ),
            "is_bound": st.column_config.TextColumn("", help="The volume depends on the data; this is an upper bound."),
        },
    )


def _schedule(planned: Plan) -> None:
    """Draws the schedule of the stages and the bubble that it has with equal stages."""
    if "pipeline" not in planned.mesh.axes or planned.spec.generates:
        return
    strategy = next(strategy for strategy in planned.strategies if strategy.axis == "pipeline")
    frame = _timeline(f"{strategy.name} {strategy.options!r}", planned.spec.mode == "train", planned.spec)
    if frame is None:
        return
    bubble, num_stages, count = bubble_fraction(frame), planned.mesh.axes["pipeline"], frame["microbatch"].nunique()
    formula = (num_stages - 1) / (count + num_stages - 1)
    text = f"Bubble: {bubble:.1%} of the workers' time"
    if abs(bubble - formula) < 1e-6:
        text += f" = (p−1)/(m+p−1) with p = {num_stages} stages and m = {count}"
    plain_figure(schedule_chart(frame, "Schedule with equal stages", f"{text}."), "schedule")


@st.cache_data(max_entries=64, show_spinner="Computing the schedule…")
def _timeline(options: str, trains: bool, _spec: RunSpec) -> pd.DataFrame | None:
    """Returns the timeline of the schedule with these ``options``; None if the strategy has no order of actions."""
    order = order_of_actions(_spec)
    return None if order is None else schedule_timeline(order, trains)
