"""JSON files as typed records: frozen dataclasses that are built from plain values, with their types checked.

pydantic would do it, but supervisors and workers start without it: importing it would delay the start of every run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from functools import cache, partial
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

R = TypeVar("R", bound="Record")

_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


class InvalidRecordError(ValueError):
    """The values are not those of the record: the message names the field, what it is and what it should be."""


class NewerVersionError(ValueError):
    """The file was written by a later version of the workbench."""


@dataclass(frozen=True)
class Record:
    """Base class of the JSON files and their parts.

    Fields are plain values, ``StrEnum``, ``Literal``, other records, and ``tuple[X, ...]``, ``dict[str, X]`` and ``X | None`` of
    them. A field with a default may be absent from the file; keys without a field are ignored.
    """

    schema_version: ClassVar[int] = 1
    """Of the file, where the record is a whole one. A file without ``schema_version`` has version 0."""

    @classmethod
    def upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values, with those of older versions in the form of this one."""
        return values

    def problem(self) -> str:
        """Returns what is wrong with the values, besides their types; empty if nothing is."""
        return ""

    if not TYPE_CHECKING:  # type checkers know attributes only; scripts and notebooks written for dicts continue to work

        def __getitem__(self, name: str) -> Any:
            try:
                return getattr(self, name)
            except AttributeError:
                raise KeyError(name) from None


def from_json(kind: type[R], values: Any) -> R:
    """Returns the record of a whole file.

    Raises:
        NewerVersionError: the file has a later ``schema_version``.
        InvalidRecordError: a field is missing or has another type.
    """
    version = values.get("schema_version", 0) if isinstance(values, dict) else 0
    if isinstance(version, int) and version > kind.schema_version:
        raise NewerVersionError(f"has schema_version {version}, but this workbench reads versions up to {kind.schema_version}")
    record: R = _build(kind, values)
    return record


def to_json(record: Record) -> dict[str, Any]:
    """Returns the plain values of a whole file, with its version."""
    return {"schema_version": record.schema_version, **plain(record)}


def plain(record: Record) -> dict[str, Any]:
    """Returns the fields as plain values."""
    return asdict(record)


def _build(kind: Any, values: Any) -> Any:
    decoders, required = _fields(kind)
    values = kind.upgraded(_expect(values, dict, "an object"))
    if missing := [name for name in required if name not in values]:
        raise InvalidRecordError(f"{', '.join(missing)} is missing")
    arguments = {}
    for name, decode in decoders.items():
        if name in values:
            try:
                arguments[name] = decode(values[name])
            except InvalidRecordError as error:
                raise InvalidRecordError(f"{name}: {error}") from None
    record = kind(**arguments)
    if problem := record.problem():
        raise InvalidRecordError(problem)
    return record


@cache
def _fields(kind: Any) -> tuple[dict[str, Callable[[Any], Any]], list[str]]:
    """Returns the decoders of the fields by name, and the names of those without a default."""
    hints, all_fields = get_type_hints(kind), fields(kind)
    required = [f.name for f in all_fields if f.default is MISSING and f.default_factory is MISSING]
    return {f.name: _decoder(hints[f.name]) for f in all_fields}, required


def _decoder(kind: Any) -> Callable[[Any], Any]:
    """Returns a function that checks a JSON value and converts it to this type."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if origin in (Union, UnionType):
        (other,) = (part for part in parts if part is not NoneType)
        decode = _decoder(other)
        return lambda value: None if value is None else decode(value)
    if origin is tuple:
        decode = _decoder(parts[0])
        return lambda value: tuple(map(decode, _expect(value, list, "a list")))
    if origin is dict:
        decode = _decoder(parts[1])
        return lambda value: {key: decode(item) for key, item in _expect(value, dict, "an object").items()}
    if origin is Literal:
        return partial(_one_of, {part: part for part in parts})
    if issubclass(kind, Record):
        return partial(_build, kind)
    if issubclass(kind, StrEnum):
        return partial(_one_of, {str(member): member for member in kind})
    return partial(_expect, kind=(int, float) if kind is float else kind, name=_NAMES[kind])


def _one_of(allowed: dict[Any, Any], value: Any) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise InvalidRecordError(f"{value!r:.100} is not one of {', '.join(map(str, allowed))}")
    return allowed[value]


def _expect(value: Any, kind: type | tuple[type, ...], name: str) -> Any:
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise InvalidRecordError(f"{value!r:.100} is not {name}")
