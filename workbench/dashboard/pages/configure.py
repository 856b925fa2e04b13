"""Configure: choose model, data, mode and split; see where everything goes before anything runs; run it or take it away."""

from __future__ import annotations

from typing import Any

import streamlit as st

from workbench.dashboard import address
from workbench.dashboard.components.choices import choices
from workbench.dashboard.components.fields import forget
from workbench.dashboard.components.navigate import go
from workbench.dashboard.components.outlook import outlook
from workbench.dashboard.components.said import said
from workbench.dashboard.start import start
from workbench.dashboard.table import filtered, runs_frame
from workbench.errors import SpecError, WorkbenchError
from workbench.plan.feasibility import Plan, plan
from workbench.plan.nearest import changed, nearest
from workbench.registry import MODELS
from workbench.spec.demonstration import four_strategies
from workbench.spec.differences import command, differences, script, spec_of, value_text
from workbench.spec.files import dumps
from workbench.spec.run_spec import DEFAULT_MODEL
from workbench.store import listing
from workbench.store.run_directory import home

STATE = "configured"
"""Key of the session's paths and values; the widgets' own are lost when another page is shown."""
BEGINNING = {"split.data.size": 2}
NUM_EARLIER = 200


def main() -> None:
    """Draws the page."""
    st.title("Configure")
    problems = _begin()
    if problems:
        said("warning", "Left out of the link", *problems)
    _start_from()
    form, shown = st.columns([5, 6], gap="large")
    with form:
        paths = choices(st.session_state[STATE])
    st.session_state[STATE] = paths
    st.query_params.from_dict(address.write(paths))
    with shown:
        try:
            planned = plan(spec_of(paths))
        except SpecError as error:
            _refused(paths, error)
        else:
            _actions(planned)
            outlook(planned)


def _begin() -> list[str]:
    """The state at first: the address's, else a beginning; what of the address is left out."""
    if STATE in st.session_state:
        return []
    parameters = {path: text for path, text in st.query_params.to_dict().items() if path != "from"}
    paths, problems = address.read(parameters)
    st.session_state[STATE] = paths if parameters else dict(BEGINNING)
    return problems


def load(paths: dict[str, Any]) -> None:
    """Begins anew with these."""
    forget()
    st.session_state[STATE] = paths


def _start_from() -> None:
    """Begin with a preset or with an earlier run."""
    with st.popover("Start from…", icon=":material/history:"):
        presets = {f"{preset} ({name})": (name, preset) for name in MODELS.names() for preset in MODELS.get(name).Options.presets}
        preset = st.selectbox("A model of published size", list(presets), index=None, key="from preset")
        if preset:
            name, which = presets[preset]
            model = {} if name == DEFAULT_MODEL else {"model.name": name}
            st.button("Use this model", on_click=load, args=({**model, "model.preset": which, **BEGINNING},))
        frame = filtered(runs_frame(home())).head(NUM_EARLIER)
        labels = {row.run_id: f"{row.split}, {row.model}, {row.run_id}" for row in frame.itertuples()}
        run_id = st.selectbox("An earlier run", list(labels), index=None, key="from run", format_func=lambda i: labels.get(i, i))
        if run_id:
            st.button("Use its spec", on_click=load_run, args=(run_id,))
        st.button("Start over", on_click=load, args=(dict(BEGINNING),))


def load_run(run_id: str) -> None:
    """Begins anew with the spec of a run; what no form offers stays out."""
    try:
        load(address.offered(differences(listing.exact(home(), run_id).spec())))
    except WorkbenchError as error:
        st.session_state["not loaded"] = str(error)


def _refused(paths: dict[str, Any], error: SpecError) -> None:
    """Why it cannot run, and the nearest values that work."""
    said("error", "This cannot run", error.field, error.message)
    works = nearest(paths, error)
    if works:
        st.caption("What works")
        with st.container(horizontal=True):
            for number, change in enumerate(works):
                st.button(_in_words(change), key=f"use {number}", on_click=load, args=(changed(paths, change),))
    st.button("Run", type="primary", icon=":material/play_arrow:", disabled=True, help="Nothing that is refused is started.")


def _in_words(change: dict[str, Any]) -> str:
    """``microbatches 8``, ``without layer``"""
    path, value = next(iter(change.items()))
    if path.startswith("split.") and all(v is None for v in change.values()) and path.endswith(".size"):
        return f"without {path.split('.')[1]}"
    words = ".".join(path.split(".")[-2:]).replace("_", " ")
    return f"{words}: default" if value is None else f"{words} = {value_text(value)}"


def _actions(planned: Plan) -> None:
    """Run it, or take it away."""
    spec = planned.spec
    with st.container(horizontal=True):
        run = st.button("Run", type="primary", icon=":material/play_arrow:")
        all_four = st.button(
            "Run all four strategies",
            icon=":material/stacks:",
            help="This model, data and training, split over two workers by data, layer, pipeline and tensor in turn, beside one.",
        )
        with st.popover("Take away", icon=":material/content_copy:"):
            st.caption("As a command")
            st.code(command(spec), language="bash", wrap_lines=True)
            st.caption("As Python")
            st.code(script(spec), language="python")
            st.download_button("Download spec (TOML)", dumps(spec), "spec.toml", "application/toml", icon=":material/download:")
    if run or all_four:
        with st.spinner("Starting…"):
            started = start(four_strategies(spec) if all_four else [spec])
        if started.refused:
            said("error", "Not started", *started.refused)
        if started.ids and (not started.refused or st.button("See the others run")):
            go("live", {} if all_four else {"run": started.ids[0]})
