"""The list of all splits of a number of workers by formula, which can be queued as one group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from workbench.analysis.byte_units import byte_unit
from workbench.analysis.device_memory import DeviceMemory
from workbench.analysis.formatting import rough_duration
from workbench.analysis.latest import MOST_COMPARED
from workbench.analysis.split_sizes import Saving, savings, split_sizes
from workbench.api.plans import all_splits, change_text, plan, with_change
from workbench.api.specs import RunSpec, differences, dumps
from workbench.dashboard.cache import runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.outlook import select_device
from workbench.dashboard.components.submit import submit
from workbench.dashboard.downloads import csv_of
from workbench.dashboard.durations import expected_of_specs
from workbench.dashboard.table import filtered
from workbench.errors import SpecError
from workbench.messages import counted

_MOST_WORKERS = 64
Load = Callable[[dict[str, Any]], None]


def split_list(spec: RunSpec, num_workers: int, load: Load) -> None:
    """Draws the splits that the checks accept, initially of this many workers, and the button that queues them.

    Args:
        load: resets the form to paths and values.
    """
    with st.container(border=True, key="splits of workers"):
        left, right = st.columns([1, 2], vertical_alignment="bottom")
        with left:
            key = "workers of all splits"
            st.session_state.setdefault(key, max(2, min(num_workers, _MOST_WORKERS)))
            number = int(st.number_input("Workers", 2, _MOST_WORKERS, key=key))
        with right:
            variants = st.toggle("Include variants (ZeRO-1, ZeRO-2, FSDP)", key="variants of all splits")
        try:
            specs, frame = _splits(dumps(spec), number, variants, spec)
        except SpecError as error:
            alert("error", "This configuration is invalid", str(error))
            return
        if not specs:
            st.text(f"No split of {number} workers is supported for this model, data and batch size.")
            return
        device = select_device(plan(specs[0]), key="device of all splits")
        fits = frame["memory"] <= device.bytes_per_worker
        st.caption(f"By formula, least memory first. {fits.sum()} of {len(frame)} fit ({device}).")
        st.caption(_assumptions(spec, frame))
        if not fits.any():
            _savings(spec, number, device, variants, load)
        _table(frame, fits, device, specs, load)
        _queue(spec, number, [specs[number] for number in sorted(frame.loc[~frame["exceeds"], "number"])], len(specs))


def _assumptions(spec: RunSpec, frame: pd.DataFrame) -> str:
    """Returns the options that memory depends on beside the split, and what the formulas leave out."""
    train = spec.train
    text = f"Global batch size {train.global_batch_size}, {train.precision}"
    if spec.mode == "train":
        text += f", {train.optimizer}, checkpointing {train.checkpointing}"
        if frame["without_activations"].any():
            text += "; activations are not included, since there is no formula for this model or schedule"
    return f"{text}."


@st.cache_data(max_entries=16, show_spinner="Computing all splits…")
def _splits(spec: str, num_workers: int, variants: bool, _spec: RunSpec) -> tuple[list[RunSpec], pd.DataFrame]:
    """Returns the splits of the spec, given as TOML for the cache, and their ``split_sizes``."""
    specs = all_splits(_spec, num_workers, variants=variants)
    return specs, split_sizes(specs) if specs else pd.DataFrame()


def _savings(spec: RunSpec, num_workers: int, device: DeviceMemory, variants: bool, load: Load) -> None:
    """Draws a button for each change with which splits fit."""
    limit = device.bytes_per_worker
    if not (useful := _cached_savings(dumps(spec), num_workers, limit, variants, spec)):
        more = "" if variants else " Variants need less."
        st.text(f"Neither recomputed activations nor half the batch nor bf16 make one fit.{more}")
        return
    st.text("Changes of the configuration with which splits fit:")
    with st.container(horizontal=True):
        for saving in useful:
            text = ", ".join(change_text({path: value}) for path, value in saving.change.items())
            paths = with_change(differences(spec), saving.change)
            st.button(f"{text} ({saving.num_fitting} of {saving.num_splits})", on_click=load, args=(paths,), key=f"saving {text}")


@st.cache_data(max_entries=16, show_spinner="Searching for what makes splits fit…")
def _cached_savings(spec: str, num_workers: int, limit: int, variants: bool, _spec: RunSpec) -> list[Saving]:
    """Returns the ``savings`` of the spec, given as TOML for the cache."""
    return savings(_spec, num_workers, limit, variants=variants)


def _table(frame: pd.DataFrame, fits: pd.Series, device: DeviceMemory, specs: list[RunSpec], load: Load) -> None:
    """Draws the splits; a selected one can be loaded."""
    (memory, of_memory), (volume, of_volume) = byte_unit(frame["memory"].max()), byte_unit(frame["communication"].max())
    event: Any = st.dataframe(
        pd.DataFrame(
            {
                "split": frame["split"],
                "memory": frame["memory"] / of_memory,
                "communication": frame["communication"] / of_volume,
                "fits": fits.map({True: "yes", False: "no"}),
            }
        ),
        hide_index=True,
        key=f"splits by formula {hash(tuple(frame['split']))}",  # other rows, other selection
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "memory": st.column_config.NumberColumn(f"memory, largest worker ({memory})", format="%.2f"),
            "communication": st.column_config.NumberColumn(f"communication per step ({volume})", format="%.2f"),
            "fits": st.column_config.TextColumn("fits", help=f"Whether the largest worker fits {device}."),
        },
    )
    with st.container(horizontal=True):
        table = frame.assign(fits=fits).rename(
            columns={"memory": "memory_bytes", "communication": "communication_bytes_per_step"}
        )
        st.download_button(
            "Splits (CSV)",
            lambda: csv_of(table.drop(columns=["number", "exceeds", "without_activations"])),
            "splits.csv",
            "text/csv",
            on_click="ignore",
            icon=":material/download:",
        )
        if rows := event.selection.rows:
            selected = specs[frame["number"].iloc[rows[0]]]
            st.button(f"Configure {selected.split.label}", on_click=load, args=(differences(selected),), icon=":material/tune:")


def _queue(spec: RunSpec, num_workers: int, runnable: list[RunSpec], num_splits: int) -> None:
    """Draws the button that queues the splits that do not exceed this machine or the memory budget."""
    if not runnable:
        st.text("None can be run: all exceed this machine or the memory budget.")
        return
    group = f"all splits of {num_workers}, {spec.model.name}"
    text = f"{counted(len(runnable), 'run')} and their baselines, one after the other" + _estimate(runnable)
    if len(runnable) < num_splits:
        text += f"; {num_splits - len(runnable)} that exceed this machine or the memory budget are left out"
    if len(runnable) > MOST_COMPARED:
        text += f". Their comparison shows the baselines and the fastest, {MOST_COMPARED} in all"
    with st.container(horizontal=True, vertical_alignment="center"):
        name = counted(len(runnable), "split")
        clicked = st.button(f"Queue {name}", type="primary", icon=":material/stacks:", key="queue all")
        if clicked and len(submit(runnable, f"{name} ({group})", group)) == len(runnable):
            st.rerun()  # not after a refusal, which would disappear
        st.text(f"{text}.")


def _estimate(specs: Sequence[RunSpec]) -> str:
    """Returns how long the runs take by earlier ones of the same work; empty if there are none."""
    expected = expected_of_specs(specs, filtered(runs_frame()))
    return "" if expected is None else f", {rough_duration(expected)} by earlier runs"
