"""The lessons of the page Learn: one Markdown file each, with title, spec, formulas and scripts in a TOML header. The lessons of
a strategy are in its folder (``Strategy.lessons``), the others in ``learn/``."""

from __future__ import annotations

import functools
import inspect
import math
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.analysis.expected import expected_communication, held
from workbench.analysis.step_walkthrough import Moment, cells, walk, wires
from workbench.api.plans import Plan, order_of_actions, plan
from workbench.api.plugins import STRATEGIES
from workbench.api.specs import RunSpec
from workbench.dashboard.complexity import difference
from workbench.errors import PluginWarning

FOLDER = Path(__file__).parent / "learn"
"""Lessons on no single strategy, and in ``scripts`` the scripts that other lessons may compare with."""
SMALL: dict[str, Any] = {"train": {"num_steps": 10}, "measure": {"num_trace_steps": 2}}
"""Settings of the run of a lesson that differ from the defaults: it takes seconds."""
_STATE, _ACTIVATIONS = ("parameters", "gradients", "optimizer_state"), ("activations",)


@dataclass(frozen=True)
class Formula:
    """A formula in TeX, with its meaning and source."""

    tex: str
    says: str
    source: str


@dataclass(frozen=True)
class Lesson:
    """A lesson: one short page."""

    name: str
    title: str
    short: str
    formulas: tuple[Formula, ...]
    scripts: tuple[Path, ...]
    """The plain script and the split one; empty if the lesson has none."""

    spec: RunSpec | None
    """Spec that the diagram shows and the button runs, if the lesson has one."""

    sections: Mapping[str, str]
    """Heading → text, in order."""


def files() -> dict[str, Path]:
    """Returns the file of each lesson, in the order in which they are offered."""
    paths = {"why": FOLDER / "why.md"}
    for strategy in sorted(map(STRATEGIES.get, STRATEGIES.names()), key=lambda s: float(s.lesson_order)):
        for file in strategy.lessons:
            path = Path(inspect.getfile(strategy)).parent / file
            paths.setdefault(strategy.name if path.stem == "lesson" else path.stem, path)
    return {**paths, "combined": FOLDER / "combined.md"}


def names() -> list[str]:
    """Returns the names of all lessons, in the order in which they are offered; skips unreadable ones with a warning."""
    readable = []
    for name, path in files().items():
        try:
            lesson(name)
        except Exception as error:  # noqa: BLE001 - a plugin's lesson must not break the others
            warnings.warn(f"skipped the lesson {path}: {error!r}", PluginWarning, stacklevel=2)
        else:
            readable.append(name)
    return readable


@functools.cache
def lesson(name: str) -> Lesson:
    """Reads a lesson; ``name`` is one of ``names()``."""
    path = files()[name]
    _, head, text = path.read_text(encoding="utf-8").split("+++\n", 2)
    values = tomllib.loads(head)
    formulas = tuple(Formula(**formula) for formula in values.get("formulas", ()))
    sections = dict(_section(part) for part in text.split("\n### ")[1:])
    scripts = tuple(_script(path.parent, script) for script in values.get("scripts", ()))
    title, short = values["title"], values["short"]
    spec = RunSpec(name=f"Learn: {short}", **SMALL, **values["spec"]) if "spec" in values else None
    return Lesson(name, title, short, formulas, scripts, spec, sections)


def _script(beside: Path, name: str) -> Path:
    """Returns a script of a lesson: from ``scripts`` in the folder of the lesson, else from that of the page."""
    local = beside / "scripts" / name
    return local if local.exists() else FOLDER / "scripts" / name


@dataclass(frozen=True)
class Walkthrough:
    """The moments of the step of a lesson."""

    planned: Plan
    moments: list[Moment]
    cells: list[pd.DataFrame]
    """Per moment, as of ``step_walkthrough.cells``."""

    wires: list[pd.DataFrame]
    """Per moment, as of ``step_walkthrough.wires``."""


@functools.cache
def walkthrough(name: str) -> Walkthrough:
    """Returns the walkthrough of the step of a lesson that has a spec."""
    spec = lesson(name).spec
    assert spec is not None
    planned = plan(spec)
    moments = walk(planned, order_of_actions(spec))
    return Walkthrough(planned, moments, [cells(planned, moment) for moment in moments], [wires(moment) for moment in moments])


@functools.cache
def overview() -> pd.DataFrame:
    """Returns one row per strategy, for the spec of its lesson: parameters, gradients and optimizer state (``state``) and
    activations (if there is a formula) of the largest worker, relative to one worker; communication of a step over all workers;
    and what its script adds to the plain one."""
    rows = []
    for name in names():
        entry = lesson(name)
        if entry.spec is None:
            continue
        planned, single = plan(entry.spec), plan(entry.spec.replace(split={}))
        code = difference(*entry.scripts) if entry.scripts else None
        rows.append(
            {
                "strategy": entry.short,
                "workers": planned.num_workers,
                "state": _largest(planned, _STATE) / _largest(single, _STATE),
                "activations": _largest(planned, _ACTIVATIONS) / _largest(single, _ACTIVATIONS),
                "communication_mib": expected_communication(planned)["bytes"].sum() / 2**20,
                "operations": int(expected_communication(planned)["count"].sum()),
                "lines": code.num_added if code else None,
                "concepts": len(code.concepts) if code else None,
            }
        )
    return pd.DataFrame(rows)


def _largest(planned: Plan, categories: tuple[str, ...]) -> float:
    """Returns the bytes of these categories on the largest worker; NaN if there is no formula."""
    frame = held(planned)
    sums = frame[frame["category"].isin(categories)].groupby("worker")["bytes"].sum()
    return float(sums.max()) if len(sums) else math.nan


def _section(part: str) -> tuple[str, str]:
    heading, _, text = part.partition("\n")
    return heading, text.strip()
