"""The lessons of the page Learn: a Markdown file each in ``learn/``, headed by its title, spec, formulas and scripts as TOML."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.spec.run_spec import RunSpec

FOLDER = Path(__file__).parent / "learn"
NAMES = ("why", "data", "sharded", "layer", "pipeline", "tensor", "context", "expert", "combined")
"""In the order in which they are offered."""
SMALL: dict[str, Any] = {"train": {"num_steps": 10}, "measure": {"num_trace_steps": 2}}
"""What a lesson's run has not by default: it takes seconds."""


@dataclass(frozen=True)
class Formula:
    """In TeX, with what it says and who derived it."""

    tex: str
    says: str
    source: str


@dataclass(frozen=True)
class Lesson:
    """One short page."""

    name: str
    title: str
    short: str
    formulas: tuple[Formula, ...]
    scripts: tuple[str, ...]
    """File names of the plain script and of the split one; empty where the lesson is about no strategy."""

    parts: Mapping[str, Any]
    """Of the spec that the diagram shows and the button runs."""

    sections: Mapping[str, str]
    """Heading → text, in order."""

    @property
    def spec(self) -> RunSpec | None:
        """The spec, where it has one."""
        return RunSpec(name=f"Learn: {self.short}", **SMALL, **self.parts) if self.parts else None


@functools.cache
def lesson(name: str) -> Lesson:
    """One of ``NAMES``."""
    _, head, text = (FOLDER / f"{name}.md").read_text(encoding="utf-8").split("+++\n", 2)
    values = tomllib.loads(head)
    formulas = tuple(Formula(**formula) for formula in values["formulas"])
    sections = dict(_section(part) for part in text.split("\n### ")[1:])
    scripts = tuple(values.get("scripts", ()))
    return Lesson(name, values["title"], values["short"], formulas, scripts, values.get("spec", {}), sections)


def _section(part: str) -> tuple[str, str]:
    heading, _, text = part.partition("\n")
    return heading, text.strip()
