"""Registers classes as plugins and states in one sentence what a class lacks, before anything uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from workbench.errors import PluginError

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Attribute:
    """A class attribute that a plugin must define."""

    name: str
    example: str
    """Example of a definition: ``axis = "data"``."""

    types: tuple[type, ...] = ()
    """Allowed types of the value; empty if ``subclass_of`` applies."""

    subclass_of: type | None = None
    """Class of which the value must be a subclass, or the class itself."""

    def problem(self, cls: type) -> str:
        """Returns what is wrong with the attribute of a class, a clause that follows its name; empty if nothing is."""
        if not hasattr(cls, self.name):
            return f"does not define {self.name}; add {self.example} to the class"
        value = getattr(cls, self.name)
        if self.subclass_of is not None:
            fits = isinstance(value, type) and issubclass(value, self.subclass_of)
        else:
            fits = isinstance(value, self.types) and not isinstance(value, bool)
        if fits:
            return ""
        requirement = (
            f"a subclass of {_path(self.subclass_of)}" if self.subclass_of else " or ".join(t.__name__ for t in self.types)
        )
        return f"has {self.name} = {value!r}, which is not {requirement}; use {self.example}"


def register(
    kind: str,
    base: type,
    attributes: Sequence[Attribute] = (),
    other_problem: Callable[[Any, str], str] = lambda cls, name: "",
) -> Callable[[str], Callable[[C], C]]:
    """Returns the decorator of a kind of plugin: ``@strategy("averaging")`` registers a class as the strategy ``averaging``.

    Args:
        kind: Name of the kind in messages: ``model``, ``strategy``.
        base: The contract; its abstract methods and properties must be defined.
        attributes: Class attributes that must be defined.
        other_problem: Given a class and its name, returns another problem as a clause; empty if there is none.

    Raises:
        PluginError: from the decorator, if a class violates the contract; one sentence.
    """

    def decorator(name: str) -> Callable[[C], C]:
        """Registers the decorated class under this name."""
        if not isinstance(name, str) or not name:
            raise PluginError(f'@{kind} requires the name of the {kind}, such as @{kind}("averaging"), but got {name!r}')

        def stamp(cls: C) -> C:
            problems = (_contract_problem(cls, base), *(a.problem(cls) for a in attributes), _examples_problem(cls))
            if problem := next(filter(None, problems), "") or other_problem(cls, name):
                raise PluginError(f"{kind} {name!r}: class {getattr(cls, '__name__', cls)} {problem}")
            cls.plugin_kind = kind  # type: ignore[attr-defined]
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return stamp

    return decorator


def _contract_problem(cls: Any, base: type) -> str:
    if not (isinstance(cls, type) and issubclass(cls, base)):
        return f"is not a subclass of {_path(base)}"
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    return f"does not define {' and '.join(missing)}, required by {_path(base)}" if missing else ""


def _examples_problem(cls: type) -> str:
    examples = getattr(cls, "examples", {})
    is_table = isinstance(examples, Mapping) and all(isinstance(example, Mapping) for example in examples.values())
    return "" if is_table else f'has examples = {examples!r}, which is not a dict from names to options, such as {{"": {{}}}}'


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"
