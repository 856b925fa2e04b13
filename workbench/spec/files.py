"""Reads and writes specs as TOML files, and applies ``--model``, ``--dataset``, ``--split`` and ``--set`` of the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.errors import SpecError
from workbench.spec.run_spec import RunSpec

_TEXTS = ("name", "baseline.mode")
"""Paths whose values are texts even if they look like numbers, as a part of a run's id may: 432878, 12e456."""


def load(path: Path) -> RunSpec:
    """Reads a spec from a TOML file.

    Raises:
        SpecError: the file cannot be read, is not TOML, or is not a spec.
    """
    return RunSpec(**read_table(path))


def read_table(path: Path) -> dict[str, Any]:
    """Reads the values of a TOML file without validation. A folder of the user's code starts from that of the file."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(str(path), f"cannot read the file ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and thousands of brackets
        raise SpecError(str(path), f"not a valid TOML file: {error}") from None
    for part in ("model", "dataset"):
        options = table.get(part)
        if isinstance(options, dict) and isinstance(folder := options.get("folder"), str) and folder:
            table[part] = {**options, "folder": str(path.resolve().parent / folder)}
    return table


def dumps(spec: RunSpec) -> str:
    """Returns the spec as TOML with all defaults filled in; reading it returns an equal spec."""
    import tomli_w

    return tomli_w.dumps(spec.as_dict())


def override(
    table: dict[str, Any],
    *,
    model: str | None,
    dataset: str | None,
    splits: Iterable[str],
    sets: Iterable[str],
) -> dict[str, Any]:
    """Returns ``table`` with the values of the command line applied.

    Args:
        model: Name of another model, which discards the model options of the file.
        dataset: Name of another dataset, likewise.
        splits: ``data=2``, ``pipeline=2,schedule=1f1b,num_microbatches=4`` or ``tensor=3,cut.head=none``; together they replace
            the split of the file.
        sets: ``train.num_steps=50``, dotted paths as in the file, values as in TOML. Another ``model.preset`` discards the model
            options of the file.
    """
    result = {**table}
    if model is not None:
        result["model"] = {"name": model}
    if dataset is not None:
        result["dataset"] = {"name": dataset}
    if splits := list(splits):
        result["split"] = {}
        for text in splits:
            strategy, options = _parse_split(text)
            if strategy in result["split"]:
                raise SpecError(f"split.{strategy}", f"given twice, the second time as --split {text}; use each strategy once")
            result["split"][strategy] = options
    # The preset first: options set beside it override it.
    for text in sorted(sets, key=lambda text: not text.startswith("model.preset=")):
        path, _, value = text.partition("=")
        if not value or not all(path.split(".")):
            raise SpecError("--set", f"expects path=value, such as train.num_steps=50, but got {text!r}")
        if path == "model.preset" and isinstance(result.get("model"), dict):
            result["model"] = {key: value for key, value in result["model"].items() if key == "name"}
        parsed = parse_value(value)
        _assign(result, path.split("."), value if path in _TEXTS and not isinstance(parsed, str) else parsed)
    return result


def parse_value(text: str) -> Any:
    """Parses a TOML value; anything else is a string: ``2`` → 2, ``1e-3`` → 0.001, ``true`` → True, ``adamw`` → 'adamw'."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, a number of thousands of digits, or thousands of brackets
        return text


def _parse_split(text: str) -> tuple[str, dict[str, Any]]:
    head, *options = _at_commas(text)
    strategy, _, size = head.partition("=")
    if not size:
        raise SpecError("--split", f"expects strategy=size, such as {strategy.strip() or 'data'}=2, but got {text!r}")
    table: dict[str, Any] = {"size": parse_value(size)}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise SpecError("--split", f"expects strategy=size,option=value, but got {option!r} in {text!r}")
        _assign(table, key.strip().split("."), parse_value(value))
    return strategy.strip(), table


def _at_commas(text: str) -> list[str]:
    """Splits at commas outside brackets, braces and quotes: ``layer=3,partition=[2,3,1]`` has two parts."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote or character in "\"'":
            quote = "" if character == quote else quote or character
        else:
            depth += (character in "[{") - (character in "]}")
        if character == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _assign(table: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = table.get(key)
        if isinstance(inner, str) and key in ("model", "dataset"):
            inner = {"name": inner}
        if not isinstance(inner, dict | None):
            raise SpecError(".".join(path), f"cannot be set: {key} must be a table, but is {inner!r}")
        table[key] = dict(inner or {})
        table = table[key]
    table[path[-1]] = value
