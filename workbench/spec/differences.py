"""Compares specs with the defaults and with each other, by the paths of their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from workbench.spec.paths import differences
from workbench.spec.run_spec import RunSpec


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of a spec's table with their paths: ``("train.num_steps", 20)``."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def not_by_default(spec: RunSpec) -> dict[str, Any]:
    """Returns the options that differ from the defaults, without those shown anyway: name, model, dataset, sizes and device."""
    named = {
        "name",
        "model.name",
        "dataset.name",
        "launch.device",
        *(f"split.{strategy}.size" for strategy, _ in spec.split.items()),
    }
    return {path: value for path, value in differences(spec).items() if path not in named}


def differing(tables: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Returns path → the value in each of these tables, None for a missing key; only for values that are not all equal."""
    specs = [dict(flat(table)) for table in tables]
    values = {path: [spec.get(path) for spec in specs] for path in dict.fromkeys(path for spec in specs for path in spec)}
    return {path: row for path, row in values.items() if any(value != row[0] for value in row)}
