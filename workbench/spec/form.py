"""Derives form fields from options classes, without drawing them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from workbench.messages import listed
from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES, Family
from workbench.spec.files import parse_value
from workbench.spec.options import AppliesIf, Choices, ModelOptions, NoCost, Options, OwnCode, PluginOptions, ReadsFile
from workbench.spec.paths import value_text
from workbench.spec.run_spec import RunSpec
from workbench.spec.units import Quantity

Kind = Literal["integer", "number", "quantity", "flag", "choice", "text", "value"]
TOP = ("name", "mode")
_UNITS = {"_bytes_per_s": " (bytes/s)", "_flops_per_s": " (FLOP/s)", "_bytes": " (bytes)", "_mib": " (MiB)", "_s": " (s)"}
"""Endings of names that are units, as the labels of numbers that are written without one."""
_WRITTEN_OUT = {"kv": "key/value", "lr": "learning-rate"}


@dataclass(frozen=True)
class Field:
    """One option as a form field."""

    path: str
    """Dotted path in the spec: ``split.pipeline.num_microbatches``."""

    kind: Kind
    """Kind of field; ``quantity`` is a number written with a unit, ``value`` a list or table, written as in TOML."""

    default: Any
    help: str
    """Help text."""

    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    is_exclusive: bool = False
    """Whether ``minimum`` itself is excluded."""

    is_optional: bool = False
    """Whether it may be left empty."""

    quantity: Quantity | None = None
    """Units in which it is written, for the kind ``quantity``."""

    applies_if: tuple[AppliesIf, ...] = ()
    """When it has an effect, by the paths of other options."""

    has_cost: bool = True
    """Whether the time or the memory of a step depends on it."""

    title: str = ""
    """Its label, unless that is its name."""

    @property
    def label(self) -> str:
        """Name in words, with the unit of numbers that are written without one; for nested options ``Within: latency``."""
        if self.title:
            return self.title
        *parents, name = self.path.split(".")
        within, name = parents[2 if parents[:1] == ["split"] else 1 :], name.removeprefix("num_")
        unit = next((suffix for suffix in _UNITS if name.endswith(suffix)), "")
        words = " ".join([*(f"{inner}:" for inner in within), name.removesuffix(unit)])
        return _sentence(words) + ("" if self.quantity else _UNITS.get(unit, ""))

    @property
    def hint(self) -> str:
        """Help, bounds and default in one text."""
        bounds = [] if self.minimum is None else [f"{'more than' if self.is_exclusive else 'at least'} {self.minimum:g}"]
        bounds += [] if self.maximum is None else [f"at most {self.maximum:g}"]
        default = {True: "yes", False: "no"}.get(self.default) if isinstance(self.default, bool) else self.default
        if self.quantity and default is not None:
            default = self.text(self.default)
        defaults = [] if default in (None, "", (), {}) else [f"default {default}"]
        facts = ", ".join([*bounds, *defaults])
        return self.help + (f" ({facts})" if facts else "")

    def text(self, value: Any) -> str:
        """Formats a value of the kinds ``quantity`` and ``value`` for an input field; empty for None and empty lists."""
        if value in (None, "", (), {}, []):
            return ""
        if self.quantity and isinstance(value, int | float):
            return self.quantity.text(value)
        return value_text(list(value) if isinstance(value, tuple) else value)

    def parse(self, text: str) -> Any:
        """Returns the value of such a text. A text that is no quantity is returned as it is: the spec refuses it."""
        if self.quantity:
            with contextlib.suppress(ValueError):
                value = self.quantity.parse(text)
                return parse_value(value) if isinstance(value, str) else value
            return text
        return parse_value(text)

    def no_effect(self, values: Mapping[str, Any]) -> str:
        """Returns why it has no effect with these values of the other options, by path; empty if it has one."""
        for condition in self.applies_if:
            value = values.get(condition.option)
            if value not in condition.values if condition.values else not value:
                name = condition.option.split(".")[-1]
                return f"No effect: requires {name}" + (
                    f" = {listed([*map(str, condition.values)], 'or')}" if condition.values else ""
                )
        return ""


def fields(options: type[Options], where: str, defaults: Options | None = None, with_own_code: bool = False) -> Iterator[Field]:
    """Yields the fields of an options class at the path ``where`` of the spec, including nested options.

    Args:
        defaults: Options whose values are the defaults, such as those of a preset; by default those of the class.
        with_own_code: Whether to yield what no form offers, the options of the user's own code.
    """
    for name, info in options.model_fields.items():
        if not _is_in_form(options, name, info) or (OwnCode in info.metadata and not with_own_code):
            continue
        default = getattr(defaults, name) if defaults is not None else _default(info)
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, Options):
            conditions = _conditions(options, where, info.metadata)
            for field in fields(inner, f"{where}.{name}", default):
                yield replace(field, applies_if=conditions + field.applies_if)
            continue
        yield _field(options, where, name, info, default)
        if SCHEDULES in info.metadata:
            yield from _schedule_fields(where, f"{where}.{name}")


def _schedule_fields(where: str, chosen_by: str) -> Iterator[Field]:
    """Yields the options of schedules, each name once; a split gives them beside those of the pipeline."""
    named: dict[str, Field] = {}
    schedules: dict[str, tuple[str, ...]] = {}
    for schedule in SCHEDULES.names():
        for field in fields(SCHEDULES.get(schedule).Options, where):
            named.setdefault(field.path, replace(field, help=f"Schedule {schedule} only: {field.help}"))
            schedules[field.path] = (*schedules.get(field.path, ()), schedule)
    for path, field in named.items():
        yield replace(field, applies_if=(AppliesIf(chosen_by, schedules[path]), *field.applies_if))


def plugin_field(family: Family) -> Field:
    """Returns the field that selects a plugin, ``model.name`` or ``dataset.name``."""
    default = getattr(RunSpec(), family.kind).name
    return Field(f"{family.kind}.name", "choice", default, f"Name of the {family.kind}.", tuple(family.names()))


def parts() -> dict[str, type[Options]]:
    """Returns the parts of a spec that are plain options, by name: train, inference, measure and so on."""
    annotations = {name: info.annotation for name, info in RunSpec.model_fields.items()}
    return {
        n: a
        for n, a in annotations.items()
        if isinstance(a, type) and issubclass(a, Options) and not issubclass(a, PluginOptions)
    }


def top_fields() -> list[Field]:
    """Returns the fields outside all parts: name and mode."""
    return [_field(RunSpec, "", name, RunSpec.model_fields[name], _default(RunSpec.model_fields[name])) for name in TOP]


def all_fields(model: str, dataset: str) -> dict[str, Field]:
    """Returns every field of a spec with this model and dataset by path, regardless of the split.

    Raises:
        SpecError: there is no such model or dataset.
    """
    form_fields = [*top_fields(), plugin_field(MODELS), plugin_field(DATASETS)]
    form_fields += fields(MODELS.get(model, "model.name").Options, "model")
    form_fields += fields(DATASETS.get(dataset, "dataset.name").Options, "dataset")
    for name in STRATEGIES.names():
        form_fields += fields(STRATEGIES.get(name).Options, f"split.{name}")
    for name, options in parts().items():
        form_fields += fields(options, name)
    return {field.path: field for field in form_fields}


def _is_in_form(options: type[Options], name: str, info: FieldInfo) -> bool:
    if ReadsFile in info.metadata:
        return False
    if issubclass(options, PluginOptions) and name == "name":
        return False
    if name == "schedule_options":
        return False  # each option of a schedule is a field of its own
    return not (issubclass(options, ModelOptions) and name == "preset" and not options.presets)


def _default(info: FieldInfo) -> Any:
    return None if info.is_required() else info.get_default(call_default_factory=True)


def _conditions(options: type[Options], where: str, marks: Iterable[Any]) -> tuple[AppliesIf, ...]:
    """Returns the conditions among the marks of an option, with paths for the names of other options of the same class."""
    conditions = (mark for mark in marks if isinstance(mark, AppliesIf))
    return tuple(replace(c, option=f"{where}.{c.option}") if c.option in options.model_fields else c for c in conditions)


def _field(options: type[Options], where: str, name: str, info: FieldInfo, default: Any) -> Field:
    annotation, marks, is_optional = _plain(info.annotation)
    marks = [*info.metadata, *marks]
    family = next((mark for mark in marks if isinstance(mark, Family)), None)
    choices: tuple[str, ...] = tuple(family.names()) if family else ()
    choices = next((mark.values for mark in marks if isinstance(mark, Choices)), choices)
    if get_origin(annotation) is Literal:
        choices = tuple(map(str, get_args(annotation)))
    if issubclass(options, ModelOptions) and name == "preset":
        choices = tuple(options.presets)
    simple: dict[Any, Kind] = {int: "integer", float: "number", bool: "flag", str: "text"}
    quantity = next((mark for mark in marks if isinstance(mark, Quantity)), None)
    kind: Kind = "choice" if choices else "quantity" if quantity else simple.get(annotation, "value")
    bounds = {sign: getattr(m, sign) for m in marks for sign in ("ge", "gt", "le") if getattr(m, sign, None) is not None}
    minimum, is_exclusive = bounds.get("ge", bounds.get("gt")), "gt" in bounds
    if kind == "integer" and is_exclusive and minimum is not None:
        minimum, is_exclusive = minimum + 1, False
    return Field(
        path=f"{where}.{name}" if where else name,
        kind=kind,
        default=default,
        help=" ".join((info.description or "").split()),
        choices=choices,
        minimum=minimum,
        maximum=bounds.get("le"),
        is_exclusive=is_exclusive,
        is_optional=is_optional,
        quantity=quantity,
        applies_if=_conditions(options, where, marks),
        has_cost=NoCost not in marks,
        title=next((mark.title for mark in (info, *marks) if isinstance(mark, FieldInfo) and mark.title), ""),
    )


def _plain(annotation: Any) -> tuple[Any, list[Any], bool]:
    """Returns the type without None and Annotated, the marks of the latter, and whether None is allowed."""
    is_optional, marks = False, []
    if get_origin(annotation) in (Union, UnionType):
        options = [part for part in get_args(annotation) if part is not NoneType]
        is_optional = len(options) < len(get_args(annotation))
        annotation = options[0] if len(options) == 1 else annotation
    if get_origin(annotation) is Annotated:
        annotation, *marks = get_args(annotation)
    return annotation, marks, is_optional


def _sentence(name: str) -> str:
    words = " ".join(_WRITTEN_OUT.get(word, word) for word in name.replace("_", " ").split(" "))
    return words[:1].upper() + words[1:]
