"""What a class must have to be registered as a plugin; what it lacks is said in one sentence, before anything uses it."""

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
    """How it is written: ``axis = "data"``."""

    types: tuple[type, ...] = ()
    """The value is an instance of one of these; empty: see ``subclass_of``."""

    subclass_of: type | None = None
    """The value is this class or a subclass of it."""

    def problem(self, cls: type) -> str:
        """What is wrong with it, a clause that follows the class's name; empty where nothing is."""
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
    """The decorator of a kind of plugin: ``@strategy("averaging")`` registers a class as the strategy ``averaging``.

    Args:
        kind: what one of them is called in messages: ``model``, ``strategy``.
        base: the contract; its abstract methods and properties must be defined.
        attributes: class attributes that must be defined.
        other_problem: of a class and its name, what else is wrong, a clause; empty where nothing is.

    Raises:
        PluginError: from the decorator, when a class does not keep the contract; one sentence.
    """

    def decorator(name: str) -> Callable[[C], C]:
        """Registers the class below it under this name."""
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
