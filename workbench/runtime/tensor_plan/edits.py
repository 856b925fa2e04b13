"""What a user changes of a tensor plan: ``model.tensor_plan``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from torch import nn

from workbench.errors import SpecError
from workbench.messages import unknown_name
from workbench.plan.tensor_plan import ModuleSlices, SlicedModule, Style
from workbench.runtime.tensor_plan.flow import Flow
from workbench.strategies.tensor.sliced_modules import is_table

WHOLE = "none"
_STYLES = {True: ("vocabulary", "hidden", WHOLE), False: ("column", "row", "vocabulary", WHOLE)}
"""Whether it is a table → how it can be cut."""


def styles_of(root: nn.Module, paths: Sequence[str], edits: Mapping[str, str]) -> dict[str, str]:
    """Returns the edited modules among ``paths``, each with its style; later edits count.

    Raises:
        SpecError: an edit names no module that can be cut, or a style that it does not have.
    """
    styles = {}
    for pattern, style in edits.items():
        expression = re.compile(r"[^.]+".join(map(re.escape, pattern.split("*"))))
        if not (found := [path for path in paths if expression.fullmatch(path)]):
            names = sorted({re.sub(r"\b\d+\b", "*", path) if "*" in pattern else path for path in paths})
            raise SpecError("model.tensor_plan", unknown_name("linear layer or table", pattern, names))
        for path in found:
            allowed = _STYLES[is_table(root.get_submodule(path))]
            if style not in allowed:
                raise SpecError(f"model.tensor_plan.{pattern}", unknown_name("style", style, list(allowed)))
            styles[path] = style
    return styles


def edited_groups(
    groups: Sequence[ModuleSlices], styles: Mapping[str, str], flow: Flow
) -> tuple[list[ModuleSlices], list[ModuleSlices]]:
    """Returns the groups that no edit changes, and those that edits change or make, which are not decided yet."""
    kept, edited, remaining = [], [], dict(styles)
    for group in groups:
        new = tuple(SlicedModule(part.path, cast("Style", styles.get(part.path, part.style))) for part in group.modules)
        if all(styles.get(part.path, part.style) == part.style for part in group.modules):
            kept.append(group)
        elif not any(styles.get(part.path) == WHOLE for part in group.modules):
            edited.append(replace(group, modules=new, attributes=(), summed=(), narrowed=None))
        for part in group.modules:
            remaining.pop(part.path, None)
    return kept, [*edited, *_new_groups(remaining, flow)]


def _new_groups(styles: Mapping[str, str], flow: Flow) -> list[ModuleSlices]:
    """Returns the groups of modules that were in none: each row with its columns, and others alone."""
    taken, groups = set[str](), []
    for row in (path for path, style in styles.items() if style == "row"):
        columns = [path for path in flow.order if path in flow.sources[row] and styles.get(path) == "column"]
        modules = (*(SlicedModule(path, "column") for path in columns), SlicedModule(row, "row"))
        groups.append(ModuleSlices("linear", modules, (), 0, ()))
        taken.update(part.path for part in modules)
    for path, style in styles.items():
        if path not in taken and style != WHOLE:
            kind = "linear" if style in ("column", "row") else "table"
            groups.append(ModuleSlices(kind, (SlicedModule(path, cast("Style", style)),), (), 0, ()))
    return groups
