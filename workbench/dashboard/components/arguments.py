"""The arguments of a user's own model or dataset, as fields of the form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import streamlit as st

from workbench.api.inspection import argument_fields
from workbench.api.specs import Field
from workbench.dashboard.components.fields import PREFIX, Places, counted, draw_fields
from workbench.errors import SpecError

_MANY = 12
"""Number of arguments above which those to set are selected first."""


def draw_arguments(
    name: str, part: Literal["model", "dataset"], paths: Mapping[str, Any], places: Places
) -> dict[str, dict[str, Any]]:
    """Draws a field for each argument of a callable. Returns those that differ from their defaults, as the option ``options``;
    empty if there are none. If the callable cannot be loaded, the arguments stay as they are: its plan says why."""
    path = f"{part}.options"
    given: dict[str, Any] = dict(paths.get(path, {}))
    try:
        with st.spinner(f"Reading the arguments of {name}…"):
            form_fields = argument_fields(name, part)
    except SpecError:
        return {path: given} if given else {}
    named = {field.path.rpartition(".")[2] for field in form_fields}
    form_fields += [_unknown(path, each) for each in given if each not in named]
    if not form_fields:
        return {}
    values = {f"{path}.{each}": value for each, value in given.items()}
    with st.expander(counted(f"{part.capitalize()} arguments", form_fields, values), key=f"section {path}", expanded=True):
        if len(form_fields) > _MANY:
            form_fields = _selected(form_fields, path, given)
        drawn = draw_fields(form_fields, values, places)
        places[path] = st.empty()
    changed = {
        field.path.rpartition(".")[2]: drawn[field.path]
        for field in form_fields
        if drawn[field.path] not in (None, "") and drawn[field.path] != field.default
    }
    return {path: changed} if changed else {}


def _selected(form_fields: list[Field], path: str, given: Mapping[str, Any]) -> list[Field]:
    """Returns the fields that the user selects to set."""
    key, names = f"{PREFIX}{path}", [field.path.rpartition(".")[2] for field in form_fields]
    if key not in st.session_state:
        st.session_state[key] = list(given)
    chosen = st.multiselect("Arguments to set", names, key=key, placeholder=f"All {len(names)} have their defaults")
    return [field for field, name in zip(form_fields, names, strict=True) if name in chosen]


def _unknown(path: str, name: str) -> Field:
    """Returns a field for what an address names but the signature does not, so that it can be changed and removed."""
    return Field(f"{path}.{name}", "value", None, f"Not in the signature: {name}", is_optional=True, title=name)
