"""Expresses the differences of specs, from the defaults and from each other, as paths and values, a command, or a script."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.registry import MODELS
from workbench.spec.files import parse_value
from workbench.spec.options import Options
from workbench.spec.run_spec import DEFAULT_MODEL, RunSpec

_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")


def differences(spec: RunSpec) -> dict[str, Any]:
    """Returns path → plain value of all options that differ from the defaults. The defaults of model options are those of the
    preset, and those of the dataset are the choice of the model; the size of each strategy is always included."""
    name, preset = spec.model.name, spec.model.preset
    has_default = bool(MODELS.get(name).default_dataset)
    default = RunSpec(model={"name": name, "preset": preset}, **({} if has_default else {"dataset": spec.dataset}))
    paths: dict[str, Any] = {"model.name": name} if name != DEFAULT_MODEL else {}
    paths |= {"model.preset": preset} if preset else {}
    paths |= _changed(spec.model, default.model, "model")
    if spec.dataset != default.dataset or not has_default:
        paths["dataset.name"] = spec.dataset.name
        paths |= _changed(spec.dataset, type(spec.dataset).model_construct(name=spec.dataset.name), "dataset")
    for strategy, options in spec.split.items():
        paths[f"split.{strategy}.size"] = options.size
        paths |= _changed(options, type(options)(size=options.size), f"split.{strategy}")
    for part in RunSpec.model_fields:
        value = getattr(spec, part)
        if part in ("model", "dataset", "split", "files"):
            continue
        if isinstance(value, Options):
            paths |= _changed(value, getattr(default, part), part)
        elif value != getattr(default, part):
            paths[part] = value
    return paths


def not_by_default(spec: RunSpec) -> dict[str, Any]:
    """Returns the options that differ from the defaults, without those shown anyway: name, model, dataset, sizes and device; and
    without the folder of the user's code."""
    named = {
        "name",
        "model.name",
        "model.folder",
        "dataset.folder",
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


def flat(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of a spec's table with their paths: ``("train.num_steps", 20)``."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def spec_of(paths: Mapping[str, Any]) -> RunSpec:
    """Returns the spec that differs from the defaults in these.

    Raises:
        SpecError: it is invalid.
    """
    return RunSpec(**nested(paths))


def nested(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Converts ``{"a.b": 1}`` to ``{"a": {"b": 1}}``."""
    table: dict[str, Any] = {}
    for path, value in paths.items():
        *parents, key = path.split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[key] = value
    return table


def command(spec: RunSpec) -> str:
    """Returns the command that runs this spec: ``workbench run --model transformer --split data=2 --set train.num_steps=50``."""
    paths = differences(spec)
    words = ["workbench", "run", "--model", paths.pop("model.name", DEFAULT_MODEL)]
    if dataset := paths.pop("dataset.name", None):
        words += ["--dataset", dataset]
    for strategy, _ in spec.split.items():
        options = {path.split(".", 2)[2]: paths.pop(path) for path in list(paths) if path.startswith(f"split.{strategy}.")}
        size = options.pop("size")
        words += ["--split", ",".join([f"{strategy}={size}", *(f"{key}={value_text(v)}" for key, v in options.items())])]
    for path, value in paths.items():
        words += ["--set", f"{path}={value_text(value)}"]
    return shlex.join(words)


def script(spec: RunSpec) -> str:
    """Returns Python code that runs this spec."""
    table = nested(differences(spec))
    arguments = "".join(f"    {part}={value!r},\n" for part, value in table.items())
    call = f"wb.RunSpec(\n{arguments})" if arguments else "wb.RunSpec()"
    return f"import workbench as wb\n\nspec = {call}\nrun = wb.run(spec)\nprint(run.row())\n"


def value_text(value: Any) -> str:
    """Formats a plain value as ``parse_value`` reads it: as in TOML, with strings unquoted where possible."""
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and parse_value(value) == value else _toml(value)
    return _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {_toml(v)}" for key, v in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _changed(options: Options, default: Options, where: str) -> dict[str, Any]:
    """Returns path → value where the two differ."""
    defaults = dict(_leaves(default, where))
    return {p: v for p, v in _leaves(options, where) if v is not None and (p not in defaults or defaults[p] != v)}


def _leaves(options: Options, where: str) -> Iterator[tuple[str, Any]]:
    plain = options.model_dump(mode="json", exclude_none=True)
    for name in type(options).model_fields:
        if not hasattr(options, name):  # one without a default
            continue
        value = getattr(options, name)
        if isinstance(value, Options):  # a schedule's options are given beside the pipeline's
            yield from _leaves(value, where if name == "schedule_options" else f"{where}.{name}")
        elif name == "schedule_options":
            continue
        else:
            yield f"{where}.{name}", plain.get(name)
