"""Options: frozen data with types, defaults, bounds and a sentence per field, from which forms and help are generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from workbench.bounds import LARGEST, MAX_PARTS, MAX_WORKERS
from workbench.errors import SpecError
from workbench.messages import listed, unknown_name

Count = Annotated[int, Field(ge=1, le=MAX_PARTS)]
"""A number of parts of a model, which a plan lists one by one."""
Size = Annotated[int, Field(ge=2, le=MAX_WORKERS)]
"""A number of workers."""


class Options(BaseModel):
    """Base of all options. Unknown keys are rejected with the nearest known one, and true and false where a number belongs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    message = unknown_name("key", str(key), list(cls.model_fields))
                    raise PydanticCustomError("unknown_key", "{message}", {"message": message, "key": str(key)})
        return values

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_other_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name
        kinds, numbers = _kinds(cls.model_fields[info.field_name].annotation), _numbers(value)
        if any(isinstance(number, bool) for number in numbers) and kinds & {int, float} and not kinds & {bool, Any}:
            raise PydanticCustomError("int_type" if int in kinds else "float_type", "must be a number")
        if max(numbers, default=0) > LARGEST:
            raise PydanticCustomError("too_large", "is too large")
        if min(numbers, default=0) < -LARGEST:
            raise PydanticCustomError("too_small", "is too small")
        return value


def _numbers(value: Any) -> list[int | bool]:
    """Returns the integers of a value or of a list."""
    return [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, int)]


def _kinds(annotation: Any) -> set[Any]:
    """Returns the types in an annotation."""
    parts = () if get_origin(annotation) is Literal else get_args(annotation)
    return {annotation}.union(*map(_kinds, parts)) if parts else {annotation}


class ReadsFile:
    """Marks an option that names a file or folder to read, ``Annotated[str, ReadsFile]``. A run records its absolute path and the
    hash of its contents. Pages do not offer such options, since visitors may not be allowed to read the files of the machine."""


@dataclass(frozen=True)
class AppliesIf:
    """Marks an option that has no effect unless another has one of these values; forms disable it and say why.

    ``compression_rank: Annotated[PositiveInt, AppliesIf("compression", ("powersgd",))] = 1``
    """

    option: str
    """The other option: its name in the same class, or its path in the spec, such as ``mode``."""

    values: tuple[Any, ...] = ()
    """Without any, it must be set: not None, 0, false or empty."""


@dataclass(frozen=True)
class Choices:
    """Marks a text with these values, which may also name a callable of the user's own: ``Annotated[str, Choices(("a", "b"))]``.
    Pages offer these values only."""

    values: tuple[str, ...]


class OwnCode:
    """Marks an option of the user's own code, ``Annotated[str, OwnCode]``, such as the folder with it. Forms do not offer it:
    a visitor of a page names no code."""


class NoCost:
    """Marks an option on which neither the time nor the memory of a step depends, such as a learning rate: ``Annotated[float,
    NoCost]``. Runs that differ in it do the same work, so they are compared."""


class OfSplit:
    """Marks an option of a model that says how splits divide it, ``Annotated[tuple[str, ...], OfSplit]``. One worker does not
    depend on it, and runs that differ in it do the same work."""


class PluginOptions(Options):
    """Options of a plugin that a spec selects by ``name``; the other keys are those of the plugin."""

    name: str
    """Name of the plugin; the other keys are its options."""


@dataclass(frozen=True)
class Preset:
    """A published size of a model."""

    options: Mapping[str, Any]
    """Options of the model that it sets."""

    dataset: Mapping[str, Any]
    """Dataset of the published shape: the default dataset of a spec with this preset."""

    num_parameters: int
    """Published number of parameters on that data."""

    source: str
    """Source of the sizes."""


class ModelOptions(PluginOptions):
    """Base of a model's options."""

    presets: ClassVar[Mapping[str, Preset]] = {}

    preset: str | None = None
    """Published model size that provides the defaults of the other options; `workbench models` lists the presets."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("preset") is None:
            return values
        name = str(values["preset"])
        if name not in cls.presets:
            message = unknown_name("preset", name, list(cls.presets))
            raise PydanticCustomError("unknown_key", "{message}", {"message": message, "key": "preset"})
        # None means not given, which a file cannot express.
        return {**cls.presets[name].options, **{key: value for key, value in values.items() if value is not None}}


class DatasetOptions(PluginOptions):
    """Base of a dataset's options."""


class StrategyOptions(Options):
    """Base of a strategy's options; every strategy has a size."""

    size: Size = 2
    """Number of workers along the axis of the strategy."""


def options_problem(cls: Any, name: str) -> str:
    """Returns what is wrong with the options of a class to be registered as the plugin ``name``; empty if nothing is."""
    options: type[Options] = cls.Options
    if issubclass(options, PluginOptions):
        allowed = get_args(options.model_fields["name"].annotation)
        if allowed and name not in allowed:
            return f'has options with the name {allowed[0]!r}; use name: Literal["{name}"] = "{name}" in {options.__name__}'
    required = [key for key, field in options.model_fields.items() if field.is_required() and key != "name"]
    if required and not issubclass(options, PluginOptions):
        return f"has the option {required[0]} without a default; add a default"
    if required and not getattr(cls, "examples", {}):
        return f"has the option {required[0]} without a default; add a default, or examples that set it"
    return ""


def describe(options: type[Options]) -> list[dict[str, str]]:
    """Returns one row per option: ``name``, ``type``, ``default``, ``bounds``, ``help``. Lists, forms and docs are generated from
    it."""
    rows = []
    for name, field in options.model_fields.items():
        if name == "name" and issubclass(options, PluginOptions):
            continue
        if name == "preset" and issubclass(options, ModelOptions) and not options.presets:
            continue
        # The bounds of an option that may be None are part of its type.
        metadata = [*field.metadata, *(m for part in get_args(field.annotation) for m in getattr(part, "__metadata__", ()))]
        default = "required" if field.is_required() else field.get_default(call_default_factory=True)
        rows.append(
            {
                "name": name,
                "type": next((" | ".join(m.values) + " | CALLABLE" for m in metadata if isinstance(m, Choices)), "")
                or _type_name(field.annotation),
                "default": f"{default}",
                "bounds": ", ".join(_bound(m) for m in metadata if _bound(m)),
                "help": " ".join((field.description or "").split()),
            }
        )
    return rows


def spec_error(error: ValidationError, where: str = "") -> SpecError:
    """Converts the first error of pydantic to one sentence: the key, the problem and the value."""
    alternatives = _nearest_alternatives(error.errors())
    first = alternatives[0]
    path = ".".join([*([where] if where else []), *map(str, _untagged(first["loc"]))])
    if first["type"] == "unknown_key":
        path = ".".join(part for part in (path, first["ctx"]["key"]) if part)
    if first["type"] in _EXPECTED:
        message = f"must be {listed(list(dict.fromkeys(map(_expected, alternatives))), 'or')}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
    if first["type"] not in ("unknown_key", "missing") and not isinstance(first["input"], dict | BaseModel):
        given = repr(first["input"])
        message += f", but got {given if len(given) <= _LONGEST else given[: _LONGEST - 1] + '…'}"
    return SpecError(path, message)


_LONGEST = 200
"""Characters of a value in a message."""
_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "an integer"),
    "int_parsing_size": "an integer of 64 bits",
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "a string",
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a table of options"),
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "greater than {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "less than {lt:g}",
    "too_large": f"at most {LARGEST}",
    "too_small": f"at least -{LARGEST}",
}
"""Type of a pydantic error → what is allowed."""


def _expected(error: ErrorDetails) -> str:
    text = _EXPECTED.get(error["type"])
    return error["msg"].removeprefix("Input should be ") if text is None else text.format_map(error.get("ctx", {}))


def _nearest_alternatives(findings: Sequence[ErrorDetails]) -> Sequence[ErrorDetails]:
    """Returns the first error; for a union, the errors of the alternatives that matched most deeply."""
    first, *others = findings
    key = _untagged(first["loc"])
    if key == first["loc"]:
        return [first]
    candidates = [first, *(other for other in others if _untagged(other["loc"])[: len(key)] == key)]
    depth = max(len(_untagged(candidate["loc"])) for candidate in candidates)
    return [candidate for candidate in candidates if len(_untagged(candidate["loc"])) == depth]


def _untagged(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Removes pydantic's names of union alternatives: ``literal['a','b']``."""
    return tuple(part for part in loc if "[" not in str(part))


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_type_name(part) for part in get_args(annotation) if part is not NoneType)
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    return getattr(annotation, "__name__", str(annotation))


def _bound(constraint: Any) -> str:
    for attribute, sign in (
        ("ge", "≥"),
        ("gt", ">"),
        ("le", "≤"),
        ("lt", "<"),
        ("multiple_of", "multiple of"),
    ):
        if (value := getattr(constraint, attribute, None)) is not None:
            return f"{sign} {value}"
    return ""
