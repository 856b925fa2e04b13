"""Text from runs in the terminal: names, models and messages may hold any character, and none of them has a meaning to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from workbench.cli.output import printable


class Terminal(Console):
    """A console that shows text as it is: without markup, emoji codes and control characters. ``rich.text.Text`` has colours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
