"""The state of the page Configure in its address: only what differs from the defaults, so that a link can be shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.api.plugins import is_path, is_source
from workbench.api.specs import DEFAULT_MODEL, DatasetOptions, Field, RunSpec, all_fields, value_text
from workbench.errors import SpecError
from workbench.messages import unknown_name

LONGEST = 4000
"""Maximum number of characters of one value."""
_LARGEST = 2**53 - 1
"""Largest integer that a browser represents exactly."""


def write(paths: Mapping[str, Any]) -> dict[str, str]:
    """Returns these paths and values as query parameters. Without any, the name of the model is a parameter, because an empty
    address opens the initial spec."""
    return {path: value_text(value) for path, value in (paths or {"model.name": DEFAULT_MODEL}).items()}


def read(parameters: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Returns paths and values from query parameters, and a sentence for each that was ignored: what the form does not offer,
    such as a file name, cannot come from an address either."""
    model, dataset = parameters.get("model.name", DEFAULT_MODEL), parameters.get("dataset.name")
    try:
        refuse_own(model, dataset)
        default = RunSpec(model={"name": model, **({"preset": p} if (p := parameters.get("model.preset")) else {})})
        form_fields = all_fields(model, dataset or default.dataset.name)
    except SpecError as error:
        return {}, [str(error)]
    paths, problems = {}, []
    for path, text in parameters.items():
        try:
            if path not in form_fields:
                raise SpecError(path, unknown_name("key", path, list(form_fields)))
            paths[path] = _value(form_fields[path], text)
        except SpecError as error:
            problems.append(str(error))
    if paths.get("model.name") == DEFAULT_MODEL:
        del paths["model.name"]
    if any(path.startswith("dataset.") for path in paths):
        paths.setdefault("dataset.name", default.dataset.name)
    for strategy in dict.fromkeys(path.split(".")[1] for path in paths if path.startswith("split.")):
        paths.setdefault(f"split.{strategy}.size", form_fields[f"split.{strategy}.size"].default)
    return paths, problems


def refuse_own(model: str, dataset: str | None = None) -> None:
    """Refuses a user's own model and data: a page executes no code and reads no file that a visitor names.

    Raises:
        SpecError: one is; the message has the command that runs it.
    """
    if is_source(model):
        raise SpecError("model.name", f"this page runs no code of your own; use the command line: workbench run --model {model}")
    if dataset and (is_source(dataset) or is_path(dataset)):
        raise SpecError(
            "dataset.name", f"this page reads no files of your own; use the command line: workbench run --dataset {dataset}"
        )


def offered(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of these paths and values that the form offers."""
    return read(write(paths))[0]


def dataset_paths(default: DatasetOptions, name: str, values: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the paths and values of the dataset: none if it is the default of the model, else its name and what differs from
    ``plain``, the defaults of the dataset."""
    if name == default.name and all(getattr(default, path.split(".")[1]) == value for path, value in values.items()):
        return {}
    return {"dataset.name": name, **{path: value for path, value in values.items() if value != plain[path]}}


def _number(value: float) -> str:
    return f"{value:,d}" if isinstance(value, int) else f"{value:,.0f}" if value.is_integer() else f"{value:g}"


def _value(field: Field, text: str) -> Any:
    """Returns the value of a field.

    Raises:
        SpecError: the field cannot have this value.
    """
    if len(text) > LONGEST:
        raise SpecError(field.path, f"takes at most {LONGEST} characters, but got {len(text)}")
    value = field.parse(text)
    if field.quantity and isinstance(value, str):
        raise SpecError(field.path, f"{field.quantity.allowed}, but got {text!r}")
    if field.kind in ("text", "choice"):
        value = value if isinstance(value, str) else text
    if field.kind == "choice" and value not in field.choices:
        raise SpecError(field.path, unknown_name("choice", value, list(field.choices)))
    if field.kind == "flag" and not isinstance(value, bool):
        raise SpecError(field.path, f"takes true or false, but got {text!r}")
    if field.kind in ("integer", "number", "quantity"):
        if isinstance(value, bool) or not isinstance(value, int if field.kind == "integer" else int | float):
            raise SpecError(field.path, f"takes a number, but got {text!r}")
        low = -_LARGEST if field.minimum is None else field.minimum
        high = _LARGEST if field.maximum is None else field.maximum
        if not low <= value <= high:
            raise SpecError(field.path, f"takes a number from {_number(low)} to {_number(high)}, but got {text}")
    return value
