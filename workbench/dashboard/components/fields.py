"""Draws the fields of a form (``spec.form``) and reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import streamlit as st

from workbench.api.specs import Field, parse_value, value_text

PREFIX = "field "
"""Prefix of the keys of the widgets of the form."""


Places = dict[str, Any]
"""Path → the empty place below its field, where an error can be shown."""


def draw_fields(fields: Iterable[Field], paths: Mapping[str, Any], places: Places, num_columns: int = 2) -> dict[str, Any]:
    """Draws the fields in columns. Returns path → value."""
    form_fields, values = list(fields), {}
    for first in range(0, len(form_fields), num_columns):
        for field, column in zip(form_fields[first:], st.columns(num_columns), strict=False):
            with column:
                values[field.path] = draw_field(field, paths.get(field.path, field.default))
                places[field.path] = st.empty()
    return values


def draw_field(field: Field, value: Any) -> Any:
    """Draws one field with this initial value. Returns its current value."""
    key = PREFIX + field.path
    if key not in st.session_state:
        st.session_state[key] = _widget_value(field, value)
    if field.kind == "flag":
        return st.toggle(field.label, key=key, help=field.hint)
    if field.kind == "choice":
        options = ([None] if field.is_optional else []) + list(field.choices)
        return st.selectbox(field.label, options, key=key, help=field.hint, format_func=lambda o: o or "none", placeholder="none")
    if field.kind in ("integer", "number"):
        return _number(field, key)
    text = st.text_input(field.label, key=key, help=field.hint, max_chars=4000).strip()
    if field.kind == "text":
        return text
    return _empty_or(field.default, text)


def forget(*prefixes: str) -> None:
    """Resets the widgets of paths with these prefixes, by default all; they are created again with their value at that time."""
    for key in list(st.session_state):
        if isinstance(key, str) and key.startswith(PREFIX) and key.removeprefix(PREFIX).startswith(prefixes or ("",)):
            del st.session_state[key]


def _number(field: Field, key: str) -> Any:
    is_integer = field.kind == "integer"
    kind = int if is_integer else float
    bounds: dict[str, Any] = {
        "min_value": None if field.minimum is None else kind(field.minimum),
        "max_value": None if field.maximum is None else kind(field.maximum),
    }
    bounds |= {"step": 1} if is_integer else {"step": _tenth(field.default), "format": "%g"}
    return st.number_input(field.label, key=key, help=field.hint, value=None, placeholder=f"{field.default or 'none'}", **bounds)


def _tenth(default: Any) -> float:
    return abs(float(default)) / 10 if default else 0.1


def _widget_value(field: Field, value: Any) -> Any:
    if field.kind == "number":
        return None if value is None else float(value)
    if field.kind == "value":
        return "" if value in (None, (), {}, []) else value_text(list(value) if isinstance(value, tuple) else value)
    return value


def _empty_or(default: Any, text: str) -> Any:
    """Returns the value of a text written as in TOML; the default if the text is empty or its value equals the default."""
    if not text:
        return default
    value = parse_value(text)
    return default if isinstance(default, tuple) and value == list(default) else value
