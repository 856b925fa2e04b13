"""Widgets of the fields of a form (``spec.form``), and their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ipywidgets as w

from workbench.api.specs import Field

_MOST = 2**31 - 1
_NONE = "none"
_THREE = {"default": None, "yes": True, "no": False}
"""Values of a flag that may be left open, which is neither of the other two."""


class Fields(w.GridBox):  # type: ignore[misc]
    """Widgets of some fields; ``values`` are those that differ from the defaults."""

    def __init__(self, fields: Iterable[Field], paths: Mapping[str, Any], changed: Callable[[], None]) -> None:
        self.fields = list(fields)
        widgets = [_widget(field, paths.get(field.path, field.default)) for field in self.fields]
        for widget in widgets:
            widget.layout.width = "270px"
            widget.style.description_width = "130px"
            widget.observe(lambda change: changed(), "value")
        super().__init__(widgets, layout=w.Layout(grid_template_columns="repeat(auto-fill, 280px)"))

    @property
    def values(self) -> dict[str, Any]:
        """Returns the values that differ from the defaults, by path; the size of a strategy is always included."""
        read = {field.path: _value(field, widget.value) for field, widget in zip(self.fields, self.children, strict=True)}
        defaults = {field.path: field.default for field in self.fields}
        return {
            path: value
            for path, value in read.items()
            if value is not None and (value != defaults[path] or (path.startswith("split.") and path.endswith(".size")))
        }


def _widget(field: Field, value: Any) -> Any:
    texts: dict[str, Any] = {"description": field.label, "tooltip": field.hint}
    if field.kind == "flag" and field.is_optional:
        return w.Dropdown(options=list(_THREE), value=next(text for text, each in _THREE.items() if each is value), **texts)
    if field.kind == "flag":
        return w.Checkbox(bool(value), indent=False, **texts)
    if field.kind == "choice":
        options = ([_NONE] if field.is_optional else []) + list(field.choices)
        return w.Dropdown(options=options, value=_NONE if value is None else value, **texts)
    if field.kind == "integer" and not field.is_optional:
        low = -_MOST if field.minimum is None else int(field.minimum)
        return w.BoundedIntText(value, min=low, max=_MOST if field.maximum is None else int(field.maximum), **texts)
    return w.Text(str(value) if field.kind == "text" else field.text(value), placeholder="none", continuous_update=False, **texts)


def _value(field: Field, value: Any) -> Any:
    if field.kind == "choice":
        return None if field.is_optional and value == _NONE else value
    if field.kind == "flag" and field.is_optional:
        return _THREE[value]
    if field.kind in ("flag", "text") or not isinstance(value, str):
        return value
    text = value.strip()
    if not text:
        return field.default if field.kind == "value" else None
    parsed = field.parse(text)
    return field.default if isinstance(field.default, tuple) and parsed == list(field.default) else parsed
