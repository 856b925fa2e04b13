"""Checks keyword arguments against the signature of a callable before it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from workbench.errors import SpecError
from workbench.messages import counted, listed, nearest_name

_TYPES: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("an integer", (int,)),
    float: ("a number", (int, float)),
    str: ("a string", (str,)),
    bool: ("true or false", (bool,)),
    NoneType: ("nothing", (NoneType,)),
}
"""Annotation that is checked → its name in messages, and the types of values that it allows."""
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def check_arguments(target: Callable[..., Any], values: Mapping[str, Any], label: str, field: str) -> None:
    """Checks that a callable takes these keyword arguments: none unknown, none missing, and none of another type than annotated,
    as far as annotations are int, float, str and bool.

    Raises:
        SpecError: it does not; one sentence.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return  # a callable of an extension module, which checks its arguments itself
    names = [name for name, parameter in parameters.items() if parameter.kind in _BY_NAME]
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in values:
        if name not in names and not takes_any:
            allowed = f" Allowed: {', '.join(names)}" if names else f" {label} takes no arguments"
            raise SpecError(f"{field}.{name}", f"{label} has no argument {name!r}{nearest_name(name, names)}{allowed}")
    required = [name for name, p in parameters.items() if p.default is Parameter.empty and p.kind in _BY_NAME]
    if missing := [name for name in required if name not in values]:
        raise SpecError(
            field,
            f"{label} requires the {'argument' if len(missing) == 1 else 'arguments'} {listed(missing)};"
            f" set {listed([f'{field}.{name}' for name in missing])}",
        )
    unnamed = [p for p in parameters.values() if p.kind is Parameter.POSITIONAL_ONLY and p.default is Parameter.empty]
    if unnamed:
        raise SpecError(field, f"{label} requires {counted(len(unnamed), 'argument')} by position; only names can be given")
    annotations = _annotations(target)
    for name, value in values.items():
        if name in annotations and (allowed_types := _allowed(annotations[name])) and not _fits(value, allowed_types):
            raise SpecError(
                f"{field}.{name}", f"must be {listed([_TYPES[t][0] for t in allowed_types], 'or')}, but got {value!r}"
            )


def _annotations(target: Any) -> dict[str, Any]:
    """Returns the annotations of the arguments; none if a name in them cannot be resolved."""
    try:
        return get_type_hints(vars(target).get("__init__", target) if isinstance(target, type) else target)
    except Exception:  # noqa: BLE001 - an annotation can be any expression
        return {}


def _allowed(annotation: Any) -> tuple[Any, ...]:
    """Returns the types that an annotation allows; none if it is not one of ``_TYPES`` or a union of them."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return parts if all(isinstance(part, type) and part in _TYPES for part in parts) else ()


def _fits(value: Any, types: tuple[Any, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return any(isinstance(value, _TYPES[each][1]) for each in types)
