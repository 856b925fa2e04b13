"""The state of the page Configure in its address: only what differs from the defaults, so that a link can be shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from workbench.api.offered import offered as offered_by_server
from workbench.api.plugins import DATASETS, MODELS, is_path, is_source
from workbench.api.specs import DEFAULT_MODEL, DatasetOptions, Field, RunSpec, all_fields, plugin_field, value_text
from workbench.errors import SpecError
from workbench.messages import unknown_name

LONGEST = 4000
"""Maximum number of characters of one value."""
_NAMES = ("model.name", "dataset.name")
"""Paths of the names of plugins and files, which are written as they are."""
_LARGEST = 2**53 - 1
"""Largest integer that a browser represents exactly."""


def write(paths: Mapping[str, Any]) -> dict[str, str]:
    """Returns these paths and values as query parameters. Without any, the name of the model is a parameter, because an empty
    address opens the initial spec."""
    named = paths or {"model.name": DEFAULT_MODEL}
    return {path: value if path in _NAMES else value_text(value) for path, value in named.items()}


def read(parameters: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Returns paths and values from query parameters, and a sentence for each that was ignored: what the form does not offer,
    such as a file name, cannot come from an address either."""
    model, dataset = parameters.get("model.name", DEFAULT_MODEL), parameters.get("dataset.name")
    try:
        refuse_own(model, dataset)
        default = default_dataset(model, parameters.get("model.preset"))
        form_fields = page_fields(model, dataset or default.name)
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
    if is_source(model) or any(path.startswith("dataset.") for path in paths):
        paths.setdefault("dataset.name", default.name)
    for strategy in dict.fromkeys(path.split(".")[1] for path in paths if path.startswith("split.")):
        paths.setdefault(f"split.{strategy}.size", form_fields[f"split.{strategy}.size"].default)
    return paths, problems


def refuse_own(model: str, dataset: str | None = None) -> None:
    """Refuses a user's own model and data that the server does not offer: a page executes no code and reads no file that a
    visitor names.

    Raises:
        SpecError: one is; the message has the command that runs it, and the one that offers it.
    """
    own = offered_by_server()
    of = {"model": (model, is_source(model), own.models), "dataset": (dataset, is_path(dataset), own.datasets)}
    for part, (name, is_own, allowed) in of.items():
        if name and name.startswith("live:"):
            raise SpecError(f"{part}.name", f"{name} is an object of a Python session, which no page offers; run it from there")
        if is_own and name not in allowed:
            raise SpecError(
                f"{part}.name",
                f"{name} is not offered by this server, whose pages run no code and read no file that an address names; start it"
                f" with workbench dashboard --{part} {name}, or use workbench run --{part} {name}",
            )


def page_fields(model: str, dataset: str) -> dict[str, Field]:
    """Returns the fields that pages offer with this model and dataset, by path: none that names code, unless the server offers
    it.

    Raises:
        SpecError: there is no such model or dataset.
    """
    form_fields, losses = all_fields(model, dataset), offered_by_server().losses
    if is_source(model) and losses:
        text = "Callable of (outputs, targets); by default what the model returns as loss, or else the default of the targets."
        form_fields["model.loss"] = Field("model.loss", "choice", None, text, losses, is_optional=True)
    return {**form_fields, "model.name": name_field("model"), "dataset.name": name_field("dataset")}


def name_field(part: Literal["model", "dataset"]) -> Field:
    """Returns the field that selects the model or the dataset: a built-in one, a plugin, or one that the server offers."""
    own = offered_by_server()
    field = plugin_field(MODELS if part == "model" else DATASETS)
    return replace(field, choices=(*field.choices, *(own.models if part == "model" else own.datasets)))


def default_dataset(model: str, preset: str | None = None) -> DatasetOptions:
    """Returns the dataset of a model unless another is selected; for a user's own model, the first that the server offers."""
    if not is_source(model):
        return RunSpec(model={"name": model, **({"preset": preset} if preset else {})}).dataset
    name = next(iter(offered_by_server().datasets), "text" if model.startswith("hf:") else "digits")
    return RunSpec(model=model, dataset=name).dataset


def offered(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of these paths and values that the form offers."""
    return read(write(paths))[0]


def dataset_paths(
    default: DatasetOptions | None, name: str, values: Mapping[str, Any], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the paths and values of the dataset: none if it is the default of the model, else its name and what differs from
    ``plain``, the defaults of the dataset."""
    if default and name == default.name and all(getattr(default, path.split(".")[1]) == value for path, value in values.items()):
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
