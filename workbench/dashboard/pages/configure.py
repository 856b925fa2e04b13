"""The page Configure: select model, data, mode and split, see the plan before anything runs, and run or copy the spec."""

from __future__ import annotations

from typing import Any

import streamlit as st

from workbench.api.plans import Plan, change_text, nearest_valid, plan, with_change
from workbench.api.plugins import MODELS
from workbench.api.specs import DEFAULT_MODEL, RunSpec, command, differences, dumps, four_strategies, script, spec_of
from workbench.api.store import open_exact
from workbench.dashboard import address
from workbench.dashboard.cache import runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.choices import STATE, choices
from workbench.dashboard.components.fields import Places, forget
from workbench.dashboard.components.navigate import go
from workbench.dashboard.components.outlook import figures, outlook
from workbench.dashboard.start import start
from workbench.dashboard.table import filtered
from workbench.errors import SpecError, WorkbenchError

BEGINNING = {"split.data.size": 2}
NUM_EARLIER = 200
NOT_LOADED = "not loaded"
"""Key of the reason why the spec of an earlier run could not be loaded."""


def main() -> None:
    """Draws the page."""
    st.title("Configure")
    problems = _begin()
    if problems:
        alert("warning", "Ignored parts of the link", *problems)
    if problem := st.session_state.pop(NOT_LOADED, None):
        alert("warning", "The spec of this run could not be loaded", problem)
    above = st.container()
    form, result = st.columns([5, 6], gap="large")
    places: Places = {}
    with form:
        paths = choices(st.session_state[STATE], places)
    st.session_state[STATE] = paths
    st.query_params.from_dict(address.write(paths))
    try:
        planned = plan(spec_of(paths))
    except SpecError as error:
        with above:
            _actions(paths, None)
            works = _rejection(paths, error)
        if error.field in places:
            with places[error.field].container():
                st.markdown(":red-badge[invalid]")
                st.text(error.message)
        if works:
            with result:
                st.caption(f"The plan with {change_text(works[0])}, which is valid:")
                outlook(plan(spec_of(with_change(paths, works[0]))))
        return
    with above:
        _actions(paths, planned)
        figures(planned)
    with result:
        outlook(planned)


def _begin() -> list[str]:
    """Sets the initial state: that of the address, else ``BEGINNING``. Returns why parts of the address were ignored."""
    if STATE in st.session_state:
        return []
    parameters = {path: text for path, text in st.query_params.to_dict().items() if path != "from"}
    paths, problems = address.read(parameters)
    st.session_state[STATE] = paths if parameters else dict(BEGINNING)
    return problems


def load(paths: dict[str, Any]) -> None:
    """Resets the form to these paths and values."""
    forget()
    st.session_state[STATE] = paths


def _start_from() -> None:
    """Draws the menu that starts from a preset or an earlier run."""
    with st.popover("Start from…", icon=":material/history:"):
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


def load_run(run_id: str) -> None:
    """Resets the form to the spec of a run, without what the form does not offer."""
    try:
        load(address.offered(differences(open_exact(run_id).spec)))
    except WorkbenchError as error:
        st.session_state[NOT_LOADED] = str(error)


def _rejection(paths: dict[str, Any], error: SpecError) -> list[dict[str, Any]]:
    """Draws why the configuration is invalid, and the nearest valid changes. Returns these."""
    alert("error", "This configuration is invalid", error.field, error.message)
    works = nearest_valid(paths, error)
    if works:
        st.caption("Valid alternatives")
        with st.container(horizontal=True):
            for number, change in enumerate(works):
                st.button(change_text(change), key=f"use {number}", on_click=load, args=(with_change(paths, change),))
    return works


def _actions(paths: dict[str, Any], planned: Plan | None) -> None:
    """Draws the actions: run, copy or download, start from another spec. An invalid configuration cannot be run, but its spec can
    be copied, and its work can be split by the four strategies."""
    spec, unsplit = _spec(paths), _spec({path: value for path, value in paths.items() if not path.startswith("split.")})
    with st.container(horizontal=True):
        run = st.button("Run", type="primary", icon=":material/play_arrow:", disabled=planned is None)
        all_four = st.button(
            "Run all four strategies",
            icon=":material/stacks:",
            disabled=unsplit is None,
            help="Runs this model, dataset and training on one worker, and on two split by data, layer, pipeline and tensor.",
        )
        if spec:
            _copy_menu(spec)
        _start_from()
    specs = four_strategies(unsplit) if all_four and unsplit else [planned.spec] if run and planned else []
    if not specs:
        return
    with st.spinner("Starting…"):
        started = start(specs)
    if started.refused:
        alert("error", f"{len(started.ids)} started, {len(started.refused)} not", *started.refused)
    elif started.ids:
        go("live", {} if all_four else {"run": started.ids[0]})


def _spec(paths: dict[str, Any]) -> RunSpec | None:
    """Returns the spec of these paths, whether it can be run or not; None if they do not form a spec."""
    try:
        return spec_of(paths)
    except SpecError:
        return None


def _copy_menu(spec: RunSpec) -> None:
    with st.popover("Copy or download", icon=":material/content_copy:"):
        st.caption("Command")
        st.code(command(spec), language="bash", wrap_lines=True)
        st.caption("Python")
        st.code(script(spec), language="python")
        st.download_button("Download spec (TOML)", dumps(spec), "spec.toml", "application/toml", icon=":material/download:")
