"""Arrays or tensors of a batch in nested tuples, lists and dicts, and by their paths: ``0.mask``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tensors(arrays: Any, path: str = "") -> dict[str, Any]:
    """Returns nested arrays by their path."""
    if isinstance(arrays, Mapping):
        parts = [(str(name), part) for name, part in arrays.items()]
    elif isinstance(arrays, tuple | list):
        parts = [(str(index), part) for index, part in enumerate(arrays)]
    else:
        return {path: arrays}
    return {key: leaf for name, part in parts for key, leaf in tensors(part, f"{path}.{name}" if path else name).items()}


def nested(arrays: Mapping[str, Any]) -> Any:
    """Returns arrays by path as nested dicts and tuples, as they were before ``tensors``; the only one with an empty path is
    itself the result."""
    if "" in arrays:
        return arrays[""]
    parts: dict[str, dict[str, Any]] = {}
    for path, array in arrays.items():
        first, _, rest = path.partition(".")
        parts.setdefault(first, {})[rest] = array
    found = {name: nested(part) for name, part in parts.items()}
    return tuple(found.values()) if all(name.isdigit() for name in found) else found
