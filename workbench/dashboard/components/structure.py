"""What was found in a user's own model, as ``workbench inspect`` shows it, and the editors of its cut points and tensor plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import streamlit as st

from workbench.api.inspection import ModelReport, TensorPlan, inspect_model, plan_rows, shape_text
from workbench.api.specs import spec_of
from workbench.dashboard.components.fields import PREFIX, Places
from workbench.errors import SpecError
from workbench.messages import counted, listed

CUT_AT, TENSOR_PLAN = "model.cut_at", "model.tensor_plan"
EDITS = (CUT_AT, TENSOR_PLAN)
"""Paths of what can be edited."""
_STYLES = {
    "column": "column: output features",
    "row": "row: input features, after columns",
    "channel": "channel: of a convolution",
    "vocabulary": "vocabulary: entries of a table, or of a head",
    "hidden": "hidden: features of a table",
    "none": "none: stays whole",
}


def draw_structure(unsplit: Mapping[str, Any], paths: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Draws the blocks, cut points, loss, tensor plan and strategies of a user's model. Returns the edits, by path. If the model
    is refused, the edits stay as they are: its plan says why.

    Args:
        unsplit: Paths and values of the spec on one worker, without edits.
        paths: Initial values.
    """
    given = {path: paths[path] for path in EDITS if paths.get(path)}
    found = _inspected(unsplit)
    if found is None:
        return given
    model = found.summary
    with st.expander(
        f"Structure: {counted(len(model.blocks), 'block')}, {counted(f'{model.num_parameters:,}', 'parameter')}",
        key="section Structure",
        expanded=True,
    ):
        _blocks(found)
        cut_at = _cut_points(found, given.get(CUT_AT, ()), places)
    with st.expander(_plan_title(found.tensor_plan), key="section Tensor plan", expanded=True):
        tensor_plan = _tensor_plan(found.tensor_plan or TensorPlan(), given.get(TENSOR_PLAN, {}), places)
        edits = {path: value for path, value in ((CUT_AT, cut_at), (TENSOR_PLAN, tensor_plan)) if value}
        edited = _inspected({**unsplit, **edits}) if edits else found
        if tensor_plan and edited and (why := edited.refusals["tensor"]) and "split.tensor.size" not in paths:
            st.markdown(":red-badge[invalid]")
            st.text(why)
    _strategies(edited or found)
    return edits


def _inspected(paths: Mapping[str, Any]) -> ModelReport | None:
    """Returns what was found; None if the model is refused."""
    try:
        spec = spec_of(paths)
        with st.spinner(f"Inspecting {spec.model.name}, in a process of its own…"):
            return inspect_model(spec)
    except SpecError:
        return None


def _blocks(report: ModelReport) -> None:
    rows = [
        {
            "block": block.name,
            "parameters": block.num_parameters,
            "output": shape_text(shape),
            "MFLOP": block.forward_flops / 1e6,
            "crossing": "–" if shapes is None else ", ".join(map(shape_text, shapes)),
        }
        for block, shape, shapes in zip(report.summary.blocks, report.output_shapes, report.crossings, strict=True)
    ]
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="blocks",
        column_config={
            "parameters": st.column_config.NumberColumn(format="localized"),
            "output": st.column_config.TextColumn(help="Shape of its output per sample; – where the model cannot be cut."),
            "MFLOP": st.column_config.NumberColumn(format="%.3f", help="Of the forward pass per sample."),
            "crossing": st.column_config.TextColumn(
                "crossing a cut", help="Shapes per sample of what a cut after the block sends; – where the model cannot be cut."
            ),
        },
    )
    facts = {"loss": [report.loss_text] if report.loss_text else [], **report.parameter_notes, "printed": [report.output.strip()]}
    for name, values in facts.items():
        if any(values):
            st.text(f"{name}: {', '.join(values)}")


def _cut_points(report: ModelReport, given: Iterable[str], places: Places) -> list[str]:
    """Draws the selection of the cut points. Returns it; empty for all that were found."""
    key, found = PREFIX + CUT_AT, report.cut_points
    if key not in st.session_state:
        st.session_state[key] = list(given)
    chosen: list[str] = st.multiselect(
        "Cut only after",
        list(dict.fromkeys([*found, *st.session_state[key]])),
        key=key,
        placeholder=f"Any of {counted(len(found), 'cut point')}" if found else "It cannot be cut",
        help="Modules after which alone layer-wise and pipeline parallelism may cut the model (model.cut_at).",
    )
    places[CUT_AT] = st.empty()
    return chosen


def _plan_title(plan: TensorPlan | None) -> str:
    number = sum(len(group.modules) for group in plan.groups) if plan else 0
    return f"Tensor plan: {counted(number, 'module')} cut" if number else "Tensor plan: all modules stay whole"


def _tensor_plan(plan: TensorPlan, given: Mapping[str, str], places: Places) -> dict[str, str]:
    """Draws the plan that was found, and the editor of it. Returns the edits: path of modules → how they are cut."""
    rows = plan_rows(plan)
    if cut := [row for row in rows if row.units]:
        st.dataframe(
            pd.DataFrame([{"module": row.path, "cut by": row.style, "workers divide": row.units} for row in cut]),
            hide_index=True,
            key="tensor plan",
            column_config={
                "module": st.column_config.TextColumn(help="Path of the module; * is any number."),
                "workers divide": st.column_config.NumberColumn(help="The number of workers must divide this, such as heads."),
            },
        )
    for rejected in plan.rejected:
        st.text(f"Stays whole: {listed(rejected.modules) or 'any module'}: {rejected.reason}")
    key = PREFIX + TENSOR_PLAN
    if key not in st.session_state:
        st.session_state[key] = list(given)
    chosen: list[str] = st.multiselect(
        "Cut otherwise",
        list(dict.fromkeys([*(row.path for row in rows), *st.session_state[key]])),
        key=key,
        accept_new_options=True,
        placeholder="As found; select modules, or type a path",
        help="Modules that tensor slicing cuts otherwise than found (model.tensor_plan); * is any name. What computes something"
        " else than one worker is refused.",
    )
    is_cut = {row.path for row in cut}
    edits = {path: _style(path, given.get(path, "none" if path in is_cut else "column")) for path in chosen}
    places[TENSOR_PLAN] = st.empty()
    return edits


def _style(path: str, value: str) -> str:
    key = f"{PREFIX}{TENSOR_PLAN}.{path}"
    if key not in st.session_state:
        st.session_state[key] = value
    return str(st.selectbox(path, list(_STYLES), key=key, format_func=lambda style: _STYLES.get(style, style)))


def _strategies(report: ModelReport) -> None:
    accepted = sum(why is None for why in report.refusals.values())
    title = f"Strategies: {accepted} of {len(report.refusals)} can split it over {report.num_workers} workers"
    with st.expander(title, key="section Strategies"):
        for name, why in report.refusals.items():
            note = report.notes.get(name)
            st.text(f"{name}: {why or 'accepted'}" + (f": {note}" if note else ""))
