"""Specs as TOML files and as the command line's ``--model``, ``--dataset``, ``--split`` and ``--set``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.errors import SpecError
from workbench.spec.run_spec import RunSpec


def load(path: Path) -> RunSpec:
    """The spec in a TOML file.

    Raises:
        SpecError: the file cannot be read, is not TOML, or is not a spec.
    """
    return RunSpec(**read_table(path))


def read_table(path: Path) -> dict[str, Any]:
    """The file's values, unchecked."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(str(path), f"cannot read the file ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(str(path), f"not a valid TOML file: {error}") from None


def dumps(spec: RunSpec) -> str:
    """The spec as TOML with all defaults filled in; reads back to an equal spec."""
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
    """``table`` with the command line's values laid over it.

    Args:
        model: name of another model; the file's model options then no longer apply.
        dataset: name of another dataset, likewise.
        splits: ``data=2``, ``pipeline=2,schedule=1f1b,num_microbatches=4`` or ``tensor=3,cut.head=none``; together they
            replace the file's split.
        sets: ``train.num_steps=50``, dotted paths as in the file, values as in TOML. With another ``model.preset`` the
            file's model options no longer apply.
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
    # A preset first: options set beside it lie over it.
    for text in sorted(sets, key=lambda text: not text.startswith("model.preset=")):
        path, _, value = text.partition("=")
        if not value or not all(path.split(".")):
            raise SpecError("--set", f"expects path=value, such as train.num_steps=50, but got {text!r}")
        if path == "model.preset" and isinstance(result.get("model"), dict):
            result["model"] = {key: value for key, value in result["model"].items() if key == "name"}
        _assign(result, path.split("."), parse_value(value))
    return result


def parse_value(text: str) -> Any:
    """A TOML value; what is none is a string: ``2`` → 2, ``1e-3`` → 0.001, ``true`` → True, ``adamw`` → 'adamw'."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _parse_split(text: str) -> tuple[str, dict[str, Any]]:
    head, *options = _at_commas(text)
    strategy, equals, size = head.partition("=")
    table: dict[str, Any] = {"size": parse_value(size)} if equals else {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise SpecError("--split", f"expects strategy=size,option=value, but got {option!r} in {text!r}")
        _assign(table, key.strip().split("."), parse_value(value))
    return strategy.strip(), table


def _at_commas(text: str) -> list[str]:
    """The parts between commas that stand in no brackets, braces or quotes: ``layer=3,partition=[2,3,1]`` has two."""
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
