"""Finds the nearest valid values when a spec is rejected: applies the same checks to neighbouring specs, for a limited time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from workbench.errors import SpecError
from workbench.plan.resolve import plan
from workbench.spec.form import Field, all_fields
from workbench.spec.paths import spec_of, value_text

_REACH = 64
"""Distance from the given number within which all values are tried; below it, only repeated halves."""


def nearest_valid(paths: Mapping[str, Any], error: SpecError, limit_s: float = 0.3, max_changes: int = 3) -> list[dict[str, Any]]:
    """Returns changes (path → value, None for the default) that make the spec valid: first of the rejected key or without the
    rejected strategy, then of another number of the split or the batch size, then without another strategy.

    Args:
        paths: The rejected spec, as ``spec_of`` takes it.
        error: Its rejection.
        limit_s: Processor time in seconds after which no further value is tried: a busy machine finds the same values.
        max_changes: Maximum number of changes to return.
    """
    deadline = time.thread_time() + limit_s
    try:
        form_fields = all_fields(paths.get("model.name", "transformer"), paths.get("dataset.name", "text"))
    except SpecError:
        return []
    changes = list(islice(_accepted(paths, _of_field(form_fields.get(error.field), paths), deadline), max_changes))
    if changes:
        return changes
    numbers = [f for f in form_fields.values() if f.kind == "integer" and _is_adjustable(f.path, paths)]
    refused = [change for change in _without(paths) if f"{error.field}.size" in change]
    changes_elsewhere = list(_accepted(paths, refused, deadline))
    for field in sorted(numbers, key=lambda f: (f.path.split(".")[:2] != error.field.split(".")[:2], f.path)):
        changes_elsewhere += islice(_accepted(paths, _of_field(field, paths), deadline), 1)
    changes_elsewhere += _accepted(paths, (change for change in _without(paths) if change not in refused), deadline)
    return changes_elsewhere[:max_changes]


def with_change(paths: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the paths with a change applied."""
    return {path: value for path, value in {**paths, **change}.items() if value is not None}


def change_text(change: Mapping[str, Any]) -> str:
    """Describes a change: ``pipeline.num microbatches = 8`` or ``without layer``."""
    for path, value in change.items():
        if path.startswith("split.") and path.endswith(".size") and value is None:
            return f"without {path.split('.')[1]}"
    path, value = next(iter(change.items()))
    words = ".".join(path.split(".")[-2:]).replace("_", " ")
    return f"{words}: default" if value is None else f"{words} = {value_text(value)}"


def _accepted(paths: Mapping[str, Any], changes: Iterable[dict[str, Any]], deadline: float) -> Iterator[dict[str, Any]]:
    for change in changes:
        if time.thread_time() > deadline:
            return
        try:
            plan(spec_of(with_change(paths, change)))
        except SpecError:
            continue
        yield change


def _of_field(field: Field | None, paths: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields other values of a field, nearest first."""
    if field is None:
        return
    given = paths.get(field.path, field.default)
    if field.kind == "integer" and isinstance(given, int):
        near = (given + sign * distance for distance in range(1, _REACH) for sign in (-1, 1))
        far = (given // 2**power for power in range(1, given.bit_length()))
        for value in (*near, *far):
            if (field.minimum is None or value >= field.minimum) and (field.maximum is None or value <= field.maximum):
                yield {field.path: value}
    elif field.kind == "flag":
        yield {field.path: not given}
    elif field.kind == "choice":
        yield from ({field.path: choice} for choice in field.choices if choice != given)
    if field.is_optional or field.kind == "value":
        yield {field.path: None}


def _without(paths: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the removal of each strategy."""
    strategies = dict.fromkeys(path.split(".")[1] for path in paths if path.startswith("split."))
    for strategy in strategies:
        yield {path: None for path in paths if path.startswith(f"split.{strategy}.")}


def _is_adjustable(path: str, paths: Mapping[str, Any]) -> bool:
    """Whether a path is a number that determines how the work is divided."""
    return path == "train.global_batch_size" or (path.startswith("split.") and ".".join(path.split(".")[:2]) + ".size" in paths)
