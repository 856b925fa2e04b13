"""The form of the page Configure: every option of a run, drawn from the options classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from workbench.api.plugins import DATASETS, MODELS, STRATEGIES, is_source
from workbench.api.specs import DEFAULT_MODEL, Field, fields, parts, top_fields
from workbench.dashboard.address import dataset_paths, default_dataset, name_field, page_fields
from workbench.dashboard.components.arguments import draw_arguments
from workbench.dashboard.components.fields import PREFIX, Places, changes, counted, current, draw_field, draw_fields, forget
from workbench.dashboard.components.own_model import own_model
from workbench.dashboard.components.structure import draw_structure

STATE = "configured"
"""Key of the paths and values in the session; those of the widgets are lost when another page is shown."""
_TITLES = {
    "train": "Training", "inference": "Inference", "measure": "Measurement", "baseline": "Baseline",
    "launch": "Launch", "link": "Emulated link",
}  # fmt: skip


def choices(paths: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Draws the form with the initial values ``paths``. Returns the values that differ from their defaults, by path. Fills
    ``places``."""
    name, mode = top_fields()
    others = {mode.path: current(mode, paths)}
    st.header("Split", anchor=False)
    split = _split(paths, places, others)
    st.header("Model and data", anchor=False)
    values: dict[str, Any] = {} if (value := _segments(mode, paths)) == mode.default else {mode.path: value}
    values |= _model(paths, places, others)
    values |= _dataset(paths, values, places, others)
    if is_source(values.get("model.name")):
        kept = {path: value for path, value in paths.items() if not path.startswith(("model.", "dataset.", "split."))}
        values |= draw_structure({**kept, **values}, paths, places)
    own_model()
    st.header("Run settings", anchor=False)
    values |= {} if (value := draw_field(name, paths.get(name.path, ""))) == name.default else {name.path: value}
    for part, options in parts().items():
        if part == "inference" and values.get("mode") != "inference":
            values |= {path: value for path, value in paths.items() if path.startswith("inference.")}
            continue
        values |= _section(_TITLES.get(part, part.capitalize()), list(fields(options, part)), paths, places, others)
    return values | split


def _section(
    title: str, form_fields: list[Field], paths: Mapping[str, Any], places: Places, others: Mapping[str, Any]
) -> dict[str, Any]:
    """Draws fields that can be folded away. Returns the values that differ from the defaults."""
    with st.expander(counted(title, form_fields, paths), key=f"section {title}"):
        return changes(form_fields, draw_fields(form_fields, paths, places, others))


def _segments(field: Field, paths: Mapping[str, Any]) -> Any:
    key = PREFIX + field.path
    if key not in st.session_state:
        st.session_state[key] = paths.get(field.path, field.default)
    chosen = st.segmented_control(field.label, field.choices, key=key, help=field.hint, required=True)
    return chosen or field.default


def _chooser(field: Field, value: Any, *stale: str) -> Any:
    """Draws a choice on which other fields depend; the ``stale`` ones are reset when it changes."""
    key = PREFIX + field.path
    if key not in st.session_state:
        st.session_state[key] = value
    options = ([None] if field.is_optional else []) + list(field.choices)
    label = field.path.split(".")[0].capitalize() if field.path.endswith(".name") else field.label
    return st.selectbox(
        label,
        options,
        key=key,
        help=field.hint,
        on_change=_forget_below,
        args=stale,
        format_func=lambda o: o or "none",
        placeholder="none",
    )


def _forget_below(*stale: str) -> None:
    forget(*stale)
    kept = {path: value for path, value in st.session_state[STATE].items() if not path.startswith(stale)}
    st.session_state[STATE] = kept


def _model(paths: Mapping[str, Any], places: Places, others: Mapping[str, Any]) -> dict[str, Any]:
    left, right = st.columns(2)
    is_long = is_source(current(name_field("model"), paths))
    with st.container() if is_long else left:
        name = _chooser(
            name_field("model"),
            paths.get("model.name", DEFAULT_MODEL),
            *_below("model"),
            "model.preset",
            "model.loss",
            "dataset.",
        )
    if is_source(name):
        return {"model.name": name} | _own(name, paths, places)
    options = MODELS.get(name).Options
    values: dict[str, Any] = {"model.name": name} if name != DEFAULT_MODEL else {}
    preset_field = next((f for f in fields(options, "model") if f.path == "model.preset"), None)
    preset = None
    if preset_field:
        with right:
            preset = _chooser(preset_field, paths.get("model.preset"), *_below("model"), "dataset.")
        values |= {"model.preset": preset} if preset else {}
    defaults = options(name=name, preset=preset)
    form_fields = [field for field in fields(options, "model", defaults) if field.path != "model.preset"]
    if form_fields:
        values |= _section("Model options", form_fields, paths, places, others)
    return values


def _own(name: str, paths: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Draws the arguments and the loss of a user's own model."""
    places["model.name"] = st.empty()
    values: dict[str, Any] = {} | draw_arguments(name, "model", paths, places)
    if loss := page_fields(name, default_dataset(name).name).get("model.loss"):
        values |= changes([loss], draw_fields([loss], paths, places))
    return values


def _below(family: str) -> list[str]:
    """Returns the paths of the options of all plugins of a family and of a user's own, without name and preset."""
    of, own = (MODELS, name_field("model")) if family == "model" else (DATASETS, name_field("dataset"))
    names = {f.path for name in own.choices for f in fields(of.get(name).Options, family)}
    return sorted(names - {f"{family}.preset"})


def _dataset(paths: Mapping[str, Any], model: Mapping[str, Any], places: Places, others: Mapping[str, Any]) -> dict[str, Any]:
    of_model = model.get("model.name", DEFAULT_MODEL)
    default = default_dataset(of_model, model.get("model.preset"))
    name = _chooser(name_field("dataset"), paths.get("dataset.name", default.name), *_below("dataset"))
    places["dataset.name"] = st.empty()
    options = DATASETS.get(name).Options
    named = {field.path: field for field in fields(options, "dataset")}
    plain = {path: field.default for path, field in named.items()}
    if name == default.name and "dataset.name" not in paths:
        named = {field.path: field for field in fields(options, "dataset", default) if field.path in named}
    values: dict[str, Any] = {}
    if is_source(name) and "dataset.options" in named:
        del named["dataset.options"]
        values |= draw_arguments(name, "dataset", paths, places)
    if named:
        with st.expander(counted("Dataset options", named.values(), paths), key="section Dataset options"):
            values |= draw_fields(named.values(), paths, places, others)
    return dataset_paths(None if is_source(of_model) else default, name, values, plain)


def _split(paths: Mapping[str, Any], places: Places, others: Mapping[str, Any]) -> dict[str, Any]:
    key, selected = f"{PREFIX}split", [name for name in STRATEGIES.names() if f"split.{name}.size" in paths]
    if key not in st.session_state:
        st.session_state[key] = selected
    chosen = st.pills(
        "Strategies (combine any; choose none to run on a single worker)",
        STRATEGIES.names(),
        selection_mode="multi",
        key=key,
        wrap=True,
        help="Each strategy divides the work along its own mesh axis; the sizes multiply. " + _sentences(),
    )
    chosen_paths: dict[str, Any] = {}
    for name in chosen:
        with st.container(border=True):
            strategy = STRATEGIES.get(name)
            st.markdown(f"**{name}**")
            st.caption(_summary(strategy))
            places[f"split.{name}"] = st.empty()
            form_fields = list(fields(strategy.Options, f"split.{name}"))
            values, defaults = (
                draw_fields(form_fields, paths, places, others),
                {field.path: field.default for field in form_fields},
            )
            for path, value in values.items():
                if path.endswith(".size") or (value is not None and value != defaults[path]):
                    chosen_paths[path] = defaults[path] if value is None else value
    return chosen_paths


def _sentences() -> str:
    return " ".join(f"**{name}**: {_summary(STRATEGIES.get(name))}" for name in STRATEGIES.names())


def _summary(plugin: type) -> str:
    return " ".join((plugin.__doc__ or "").split("\n\n")[0].split())
