"""What a run computes in a step, apart from how this is split, run and measured."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from workbench.code_parts import CODE_PARTS
from workbench.errors import SpecError
from workbench.messages import listed
from workbench.registry import DATASETS, MODELS
from workbench.spec.form import Field, fields
from workbench.spec.options import OfSplit, Options
from workbench.spec.paths import differing, flat, value_text
from workbench.spec.run_spec import Inference
from workbench.spec.train import Train

_PARTS = ("mode", "model", "dataset", "train", "inference", "files")
"""Parts of a spec that determine what a run computes."""
_SPLIT_FILES = "files.split."
"""Beginning of the paths of hashes of files that strategies read, such as a schedule."""
_CODE = {f"files.{part.path}": part.name for part in CODE_PARTS}


def work_differences(tables: Sequence[dict[str, Any]]) -> list[str]:
    """Returns what differs between the computations of a step of specs, given as tables, with all values: ``train.optimizer sgd
    and adam``. Of different models or datasets, it is only the name.

    An option that has no effect in one of the specs (``AppliesIf``) is not named: it has none in all of them, or the option that
    decides differs itself. Options without cost (``NoCost``), and those of splits (``OfSplit``), are not part of the work.
    """
    paths = differing([{part: _computed(table, part) for part in _PARTS if part in table} for table in tables])
    if not paths:
        return []
    no_work = set[str]().union(*map(_no_work, tables))
    paths = {path: values for path, values in paths.items() if path not in no_work and not path.startswith(_SPLIT_FILES)}
    names = {path: f"{path.split('.')[0]}.name" for path in paths}
    texts = {path: dict.fromkeys("unset" if v is None else value_text(v) for v in values) for path, values in paths.items()}
    named = [path for path in paths if names[path] == path or names[path] not in paths]
    return [f"code of the {_CODE[path]}" if path in _CODE else f"{path} {listed(list(texts[path]))}" for path in named]


def of_one_worker(model: dict[str, Any]) -> dict[str, Any]:
    """Returns the part ``model`` of a spec without the options that say how splits divide it (``OfSplit``)."""
    try:
        options = MODELS.get(model.get("name", ""), "").Options.model_fields
    except SpecError:  # a plugin that is not installed
        return model
    return {name: value for name, value in model.items() if name not in options or OfSplit not in options[name].metadata}


def _computed(table: dict[str, Any], part: str) -> Any:
    return of_one_worker(table[part]) if part == MODELS.kind else table[part]


def _no_work(table: dict[str, Any]) -> set[str]:
    """Returns the paths of the options of a spec that have no effect or no cost."""
    values = dict(flat(table))
    parts: dict[str, type[Options]] = {"train": Train, "inference": Inference}
    for family in (MODELS, DATASETS):
        try:
            parts[family.kind] = family.get(values[f"{family.kind}.name"], "").Options
        except SpecError:  # a plugin that is not installed: all its options count
            continue
    return {f.path for part, options in parts.items() for f in _fields(options, part) if not f.has_cost or f.no_effect(values)}


@functools.cache
def _fields(options: type[Options], part: str) -> tuple[Field, ...]:
    return tuple(fields(options, part, with_own_code=True))
