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
from workbench.runtime.tensor_plan.names import undecided
from workbench.strategies.tensor.kinds_modules import styles_for

WHOLE = "none"


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
            raise SpecError("model.tensor_plan", unknown_name("module that can be cut", pattern, names))
        for path in found:
            allowed = [*styles_for(root.get_submodule(path)), WHOLE]
            if style not in allowed:
                raise SpecError(f"model.tensor_plan.{pattern}", unknown_name("style", style, allowed))
            styles[path] = style
    return styles


def edited_groups(
    root: nn.Module, groups: Sequence[ModuleSlices], styles: Mapping[str, str], flow: Flow
) -> tuple[list[ModuleSlices], list[ModuleSlices]]:
    """Returns the groups that no edit changes, and those that edits change or make, which are not decided yet."""
    kept, edited, remaining = [], [], dict(styles)
    for group in groups:
        new = tuple(SlicedModule(part.path, cast("Style", styles.get(part.path, part.style))) for part in group.modules)
        if all(styles.get(part.path, part.style) == part.style for part in group.modules):
            kept.append(group)
        elif group.kind == "table" and any(part.style in ("column", "row") for part in new):
            continue  # a head that becomes one of a pair
        elif not any(styles.get(part.path) == WHOLE for part in group.modules):
            edited.append(replace(group, modules=new, attributes=(), summed=(), narrowed=None))
        for part in group.modules:
            remaining.pop(part.path, None)
    return kept, [*edited, *_new_groups(root, remaining, flow)]


def _new_groups(root: nn.Module, styles: Mapping[str, str], flow: Flow) -> list[ModuleSlices]:
    """Returns the groups of modules that were in none: rows with their columns and what lies between, and others alone."""
    taken, groups = set[str](), []
    chosen = [path for path, style in styles.items() if style != WHOLE]
    for path in (*(path for path in chosen if styles[path] == "row"), *(path for path in chosen if styles[path] != "row")):
        if path not in taken:
            parts = _sliced_with(path, styles, flow) if styles[path] == "row" else [path]
            groups.append(undecided(root, [SlicedModule(part, cast("Style", styles[part])) for part in parts]))
            taken.update(parts)
    return groups


def _sliced_with(row: str, styles: Mapping[str, str], flow: Flow) -> list[str]:
    """Returns a row with the edited modules that share its slices, in the order of their calls."""
    parts, pending = set[str](), {row}
    while pending:
        parts.add(path := pending.pop())
        if styles[path] != "column":
            pending |= {source for source in flow.sources[path] if styles.get(source) in ("column", "channel")} - parts
        if styles[path] != "row":
            pending |= {reader for reader in flow.readers(path) if styles.get(reader) in ("row", "channel")} - parts
    return [path for path in flow.order if path in parts]
