"""The keyword arguments of a callable by its signature: which it takes, and checks of values before it is called."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
_KINDS: dict[Any, Literal["integer", "number", "text", "flag"]] = {
    int: "integer", float: "number", str: "text", bool: "flag",
}  # fmt: skip
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Argument:
    """A keyword argument, as a form asks for it."""

    name: str
    kind: Literal["integer", "number", "text", "flag", "choice", "value"]
    """Kind of its values; ``value`` is anything that TOML can express."""

    default: Any = None
    """None if it has none that TOML can express."""

    is_required: bool = False
    choices: tuple[str, ...] = ()


def arguments_of(target: Callable[..., Any]) -> tuple[Argument, ...]:
    """Returns the keyword arguments of a callable; none if it has no signature."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return ()
    hints = _annotations(target)
    return tuple(
        argument(name, hints.get(name), None if p.default is Parameter.empty else p.default, p.default is Parameter.empty)
        for name, p in parameters.items()
        if p.kind in _BY_NAME
    )


def argument(name: str, annotation: Any, default: Any, is_required: bool = False) -> Argument:
    """Returns an argument with this annotation, None without one, and default."""
    choices = get_args(annotation) if get_origin(annotation) is Literal else ()
    if choices and all(isinstance(choice, str) for choice in choices):
        return Argument(name, "choice", default, is_required, choices)
    allowed = [each for each in _allowed(annotation) if each is not NoneType]
    if annotation is None and isinstance(default, bool | str):  # of a number, others of another type may do
        allowed = [type(default)]
    kind: Any = "number" if set(allowed) == {int, float} else _KINDS[allowed[0]] if len(allowed) == 1 else "value"
    try:
        json.dumps(default, allow_nan=False)
    except (TypeError, ValueError):
        kind, default = "value", None
    return Argument(name, kind, default, is_required)


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
