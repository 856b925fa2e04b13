"""Draws the fields of a form (``spec.form``) and reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import streamlit as st

from workbench.api.specs import Field

PREFIX = "field "
"""Prefix of the keys of the widgets of the form."""

_THREE = {None: "default", True: "yes", False: "no"}
"""Values of a flag that may be left open, which is neither of the other two."""

Places = dict[str, Any]
"""Path → the empty place below its field, where an error can be shown."""


def draw_fields(
    fields: Iterable[Field], paths: Mapping[str, Any], places: Places, others: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Draws the fields in two columns. Returns path → value.

    Args:
        others: Values outside these fields, by path, on which it depends whether a field has an effect.
    """
    form_fields, values = list(fields), {}
    now = {**(others or {}), **{field.path: current(field, paths) for field in form_fields}}
    for first in range(0, len(form_fields), 2):
        pair = form_fields[first : first + 2]
        for field, column in zip(pair, st.columns(2), strict=False):
            with column:
                values[field.path] = draw_field(field, paths.get(field.path, field.default), field.no_effect(now))
        places.update({field.path: st.empty() for field in pair})
    return values


def draw_field(field: Field, value: Any, no_effect: str = "") -> Any:
    """Draws one field with this initial value. Returns its current value. A field without effect is disabled, unless its value
    has been changed, which must stay possible to undo."""
    key = PREFIX + field.path
    if key not in st.session_state:
        st.session_state[key] = _widget_value(field, value)
    is_changed = _value(field, st.session_state[key]) not in (None, field.default)
    of: dict[str, Any] = {
        "key": key,
        "help": f"{no_effect}. {field.hint}" if no_effect else field.hint,
        "disabled": bool(no_effect) and not is_changed,
    }
    if field.kind == "flag" and field.is_optional:
        st.selectbox(field.label, list(_THREE), format_func=lambda value: _THREE[value], **of)
    elif field.kind == "flag":
        st.toggle(field.label, **of)
    elif field.kind == "choice":
        options = ([None] if field.is_optional else []) + list(field.choices)
        st.selectbox(field.label, options, format_func=lambda o: o or "none", placeholder="none", **of)
    elif field.kind in ("integer", "number"):
        _number(field, of)
    else:
        placeholder = field.quantity.text(field.default) if field.quantity and field.default else "none"
        st.text_input(field.label, max_chars=4000, placeholder=placeholder if field.kind == "quantity" else None, **of)
    if no_effect and is_changed:
        st.caption(f":orange-badge[no effect] {no_effect.partition(': ')[2]}")
    return _value(field, st.session_state[key])


def current(field: Field, paths: Mapping[str, Any]) -> Any:
    """Returns the value of a field before it is drawn: that of its widget, else that of ``paths``, else the default."""
    key = PREFIX + field.path
    return _value(field, st.session_state[key]) if key in st.session_state else paths.get(field.path, field.default)


def changes(fields: Iterable[Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the values that differ from the defaults, by path."""
    return {f.path: values[f.path] for f in fields if values[f.path] is not None and values[f.path] != f.default}


def counted(title: str, fields: Iterable[Field], paths: Mapping[str, Any]) -> str:
    """Returns the title of a section with the number of changed fields, which is visible while it is folded."""
    form_fields = list(fields)
    number = len(changes(form_fields, {field.path: current(field, paths) for field in form_fields}))
    return f"{title} :blue-badge[{number} changed]" if number else title


def forget(*prefixes: str) -> None:
    """Resets the widgets of paths with these prefixes, by default all; they are created again with their value at that time."""
    for key in list(st.session_state):
        if isinstance(key, str) and key.startswith(PREFIX) and key.removeprefix(PREFIX).startswith(prefixes or ("",)):
            del st.session_state[key]


def _number(field: Field, of: Mapping[str, Any]) -> None:
    is_integer = field.kind == "integer"
    kind = int if is_integer else float
    bounds: dict[str, Any] = {
        "min_value": None if field.minimum is None else kind(field.minimum),
        "max_value": None if field.maximum is None else kind(field.maximum),
    }
    bounds |= {"step": 1} if is_integer else {"step": _tenth(field.default), "format": "%g"}
    st.number_input(field.label, value=None, placeholder=f"{field.default or 'none'}", **bounds, **of)


def _tenth(default: Any) -> float:
    return abs(float(default)) / 10 if default else 0.1


def _widget_value(field: Field, value: Any) -> Any:
    if field.kind == "number":
        return None if value is None else float(value)
    return field.text(value) if field.kind in ("quantity", "value") else value


def _value(field: Field, of_widget: Any) -> Any:
    """Returns the value of a field from that of its widget."""
    if field.kind not in ("text", "value", "quantity"):
        return of_widget
    text = (of_widget or "").strip()
    if field.kind == "text":
        return text
    if not text:
        return field.default
    value = field.parse(text)
    return field.default if isinstance(field.default, tuple) and value == list(field.default) else value
