"""The page Configure: select model, data, mode and split beside what they cost by formula, then run, queue or copy the spec."""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from workbench.analysis.device_memory import BUDGET, MACHINE
from workbench.analysis.outlook import Outlook
from workbench.api.offered import offered
from workbench.api.plans import change_text, nearest_valid, plan, with_change
from workbench.api.plugins import MODELS, is_source
from workbench.api.specs import DEFAULT_MODEL, RunSpec, command, differences, dumps, script, spec_of
from workbench.api.store import open_exact
from workbench.dashboard import address
from workbench.dashboard.cache import runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.choices import STATE, choices
from workbench.dashboard.components.fields import Places, forget
from workbench.dashboard.components.layout import form_and_consequence
from workbench.dashboard.components.outlook import DEVICE, draw_outlook
from workbench.dashboard.components.split_list import split_list
from workbench.dashboard.components.structure import EDITS
from workbench.dashboard.components.submit import queued_line, submit_buttons
from workbench.dashboard.table import filtered
from workbench.errors import SpecError, WorkbenchError

BEGINNING = {"split.data.size": 2}
NUM_EARLIER = 200
NOT_LOADED = "not loaded"
"""Key of the reason why the spec of an earlier run could not be loaded."""
START_FROM = "start from"
"""Key of the menu that starts from a preset or an earlier run."""
_NOT_FIELDS = ("from", DEVICE)
"""Parameters of the address that are not part of the spec."""
_ALL_SPLITS = "Lists every split of a number of workers for this model and data, by formula, and queues all of them as one group."


def main() -> None:
    """Draws the page."""
    st.title("Configure")
    problems = _begin()
    if problems:
        alert("warning", "Ignored parts of the link", *problems)
    if problem := st.session_state.pop(NOT_LOADED, None):
        alert("warning", "The spec of this run could not be loaded", problem)
    above = st.container()
    form, consequence = form_and_consequence()
    places: Places = {}
    with form:
        paths = choices(st.session_state[STATE], places)
    st.session_state[STATE] = paths
    device = {DEVICE: str(st.session_state[DEVICE])} if _is_device_chosen() else {}
    st.query_params.from_dict({**address.write(paths), **device})
    spec, outlook, error = _outlook(paths)
    unsplit = _unsplit(paths)
    with above:
        _actions(spec, outlook, unsplit)
    works = nearest_valid(paths, error) if error and not _is_in_code(paths, error) else []
    if error and error.field in places:
        _draw_rejection(paths, error, works, places[error.field])
    with consequence:
        if unsplit and st.session_state["all splits"]:
            split_list(spec or unsplit, outlook.plan.num_workers if outlook else 2, load)
        elif outlook:
            draw_outlook(outlook)
        elif error:
            _draw_nearest(paths, error, works)


def _outlook(paths: dict[str, Any]) -> tuple[RunSpec | None, Outlook | None, SpecError | None]:
    """Returns the spec of the configuration, if the paths form one, and its outlook, or why it is invalid."""
    spec = None
    try:
        spec = spec_of(paths)
        return spec, Outlook.of(plan(spec)), None
    except SpecError as error:
        return spec, None, error


def _is_in_code(paths: dict[str, Any], error: SpecError) -> bool:
    """Whether a user's own model or dataset was refused: each other value of its arguments would be a process that builds it."""
    part, _, option = error.field.partition(".")
    return is_source(paths.get(f"{part}.name")) and f"{part}.{option}" not in EDITS


def _unsplit(paths: dict[str, Any]) -> RunSpec | None:
    """Returns the spec on one worker; None if the paths outside ``split`` do not form one."""
    try:
        return spec_of({path: value for path, value in paths.items() if not path.startswith("split.")})
    except SpecError:
        return None


def _begin() -> list[str]:
    """Sets the initial state: that of the address, else ``BEGINNING``. Returns why parts of the address were ignored."""
    if STATE in st.session_state:
        return []
    parameters = {path: text for path, text in st.query_params.to_dict().items() if path not in _NOT_FIELDS}
    paths, problems = address.read(parameters)
    st.session_state[STATE] = paths if parameters else dict(BEGINNING)
    if device := st.query_params.get(DEVICE):
        st.session_state[DEVICE] = device
    return problems


def _is_device_chosen() -> bool:
    """Whether another device than the default was selected, which the address then names."""
    return st.session_state.get(DEVICE) not in (None, MACHINE, BUDGET)


def load(paths: dict[str, Any]) -> None:
    """Resets the form to these paths and values."""
    forget()
    st.session_state[STATE] = paths
    st.session_state[START_FROM] = False  # closes the menu


def load_run(run_id: str) -> None:
    """Resets the form to the spec of a run, without what the form does not offer."""
    try:
        paths = offered().named(differences(open_exact(run_id).spec))
        address.refuse_own(paths.get("model.name", DEFAULT_MODEL), paths.get("dataset.name"))
        load(address.offered(paths))
    except WorkbenchError as error:
        st.session_state[NOT_LOADED] = str(error)


def _draw_rejection(paths: dict[str, Any], error: SpecError, works: list[dict[str, Any]], place: DeltaGenerator) -> None:
    """Draws beside the field why the configuration is invalid, with the nearest valid changes."""
    with place.container():
        st.markdown(":red-badge[invalid]")
        st.text(error.message)
        _fixes(paths, works, "field")


def _draw_nearest(paths: dict[str, Any], error: SpecError, works: list[dict[str, Any]]) -> None:
    """Draws why the configuration is invalid, the nearest valid changes, and a preview of the nearest."""
    alert("error", "This configuration is invalid", error.field, error.message)
    _fixes(paths, works, "card")
    if works:
        st.caption(f"Preview of the nearest valid setting ({change_text(works[0])})")
        draw_outlook(Outlook.of(plan(spec_of(with_change(paths, works[0])))))


def _fixes(paths: dict[str, Any], works: list[dict[str, Any]], where: str) -> None:
    """Draws a button for each change that makes the configuration valid."""
    if works:
        with st.container(horizontal=True):
            for number, change in enumerate(works):
                changed = with_change(paths, change)
                st.button(change_text(change), key=f"use {number} {where}", on_click=load, args=(changed,))


def _actions(spec: RunSpec | None, outlook: Outlook | None, unsplit: RunSpec | None) -> None:
    """Draws the actions: run, queue, list all splits, copy or download, start from another spec. An invalid configuration cannot
    be run, but its spec can be copied, and its work, the spec ``unsplit``, can be split otherwise."""
    with st.container(horizontal=True, vertical_alignment="center"):
        submit_buttons(outlook)
        st.toggle("All splits", key="all splits", disabled=unsplit is None, help=_ALL_SPLITS)
        if spec:
            _copy_menu(spec)
        _start_from()
    queued_line()


def _copy_menu(spec: RunSpec) -> None:
    with st.popover("Copy or download", icon=":material/content_copy:"):
        st.caption("Command")
        st.code(command(spec), language="bash", wrap_lines=True)
        st.caption("Python")
        st.code(script(spec), language="python")
        st.download_button("Download spec (TOML)", dumps(spec), "spec.toml", "application/toml", icon=":material/download:")


def _start_from() -> None:
    """Draws the menu that starts from a preset or an earlier run."""
    with st.popover("Start from…", icon=":material/history:", key=START_FROM, on_change="rerun"):
        presets = {f"{preset} ({name})": (name, preset) for name in MODELS.names() for preset in MODELS.get(name).Options.presets}
        preset = st.selectbox("Model preset", list(presets), index=None, key="from preset")
        if preset:
            name, options = presets[preset]
            model = {} if name == DEFAULT_MODEL else {"model.name": name}
            st.button("Use this preset", on_click=load, args=({**model, "model.preset": options, **BEGINNING},))
        frame = filtered(runs_frame()).head(NUM_EARLIER)
        labels = {row.run_id: f"{row.split}, {row.model}, {row.run_id}" for row in frame.itertuples()}
        run_id = st.selectbox("Earlier run", list(labels), index=None, key="from run", format_func=lambda i: labels.get(i, i))
        if run_id:
            st.button("Use this spec", on_click=load_run, args=(run_id,))
        st.button("Reset", on_click=load, args=(dict(BEGINNING),))
