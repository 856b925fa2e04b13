"""Which keyword arguments a user's callable takes, found in a process of its own: no front end executes a user's code."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.sources.arguments import Argument
from workbench.sources.inspection import Inspector
from workbench.sources.source import Source


@dataclass(frozen=True)
class Found:
    """What is known of a callable without calling it."""

    arguments: tuple[Argument, ...]


INSPECTOR = Inspector("workbench.runtime.arguments_process", Found)
"""The inspector of callables, which keeps the answers in this process."""


def arguments_in(source: Source) -> tuple[Argument, ...]:
    """Returns the keyword arguments of a callable. Asks a process of its own, unless they were found before and the code is the
    same.

    Raises:
        SpecError: it cannot be loaded; the message has the user's own file and line.
    """
    found = INSPECTOR.inspect(source, "", {"field": source.field}).found
    assert found is not None, "a refused callable raises"
    return found.arguments
