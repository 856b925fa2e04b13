"""Nominates mixtures of experts: those that the user names, else modules whose experts are named so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from workbench.errors import SpecError
from workbench.messages import listed
from workbench.plan.expert_split import RejectedMixture

FIELD = "model.mixtures"


@dataclass(frozen=True)
class Candidate:
    """A module that may be a mixture, and the list of its experts; of stacked ones the module itself."""

    path: str
    experts: str

    @property
    def is_stacked(self) -> bool:
        """Whether the experts are slices of parameters."""
        return self.path == self.experts


def candidates(root: nn.Module, patterns: Sequence[str]) -> tuple[list[Candidate], list[RejectedMixture]]:
    """Returns the candidates, and what the user named that is none.

    Args:
        patterns: Paths of modules, in which ``*`` is any name; empty to recognise them.

    Raises:
        SpecError: a path leads to no module.
    """
    paths = [path for path, _ in root.named_modules() if path]
    found, rejected = dict[Candidate, None](), list[RejectedMixture]()
    for path in () if patterns else paths:
        if candidate := _experts_at(root, path, named=True):
            found[candidate] = None
    for pattern in patterns:
        expression = re.compile(r"[^.]+".join(map(re.escape, pattern.split("*"))))
        if not (matching := [path for path in paths if expression.fullmatch(path)]):
            raise SpecError(FIELD, f"{pattern!r} is the path of no module; modules are {listed(_general(paths), 'and')}")
        for path in matching:
            inside = _inside(root, path)
            if len(inside) == 1:
                found[inside[0]] = None
                continue
            several = listed([candidate.experts for candidate in inside])
            reason = f"has several modules that may be its experts, {several}; name one of them"
            none = (
                "has no nn.ModuleList of two or more modules with parameters of the same shapes, and no parameters with the"
                " experts as dim 0"
            )
            rejected.append(RejectedMixture(path, reason if inside else none))
    return list(found), rejected


def _general(paths: Sequence[str], most: int = 8) -> list[str]:
    general = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", path) for path in paths))
    return general if len(general) <= most else [*general[:most], f"{len(general) - most} more"]


def _inside(root: nn.Module, path: str) -> list[Candidate]:
    """Returns the experts at a path, else those below it that are named so, else all below it."""
    if candidate := _experts_at(root, path, named=False):
        return [candidate]
    below = [each for each, _ in root.named_modules() if each.startswith(f"{path}.")]
    for named in (True, False):
        inside = [candidate for each in below if (candidate := _experts_at(root, each, named))]
        outermost = [c for c in inside if not any(c.experts.startswith(f"{other.experts}.") for other in inside)]
        if outermost:
            return outermost
    return []


def _experts_at(root: nn.Module, path: str, named: bool) -> Candidate | None:
    """Returns the candidate whose experts are the module at a path.

    Args:
        named: Whether it must be named as experts.
    """
    module, (parent, _, name) = root.get_submodule(path), path.rpartition(".")
    if isinstance(module, nn.ModuleList):
        return Candidate(parent, path) if _are_alike(module) and (not named or _is_named(name)) else None
    if _are_stacked(module) and (not named or _is_named(name) or _is_named(type(module).__name__)):
        return Candidate(path, path)
    return None


def _is_named(name: str) -> bool:
    return "expert" in name.lower() and "shared" not in name.lower()


def _are_alike(experts: nn.ModuleList) -> bool:
    """Whether these are two or more modules with parameters of the same names and shapes."""
    shapes = [[(name, parameter.shape) for name, parameter in expert.named_parameters()] for expert in experts]
    return len(shapes) > 1 and bool(shapes[0]) and all(each == shapes[0] for each in shapes)


def _are_stacked(module: nn.Module) -> bool:
    """Whether the parameters of a module have the experts as dim 0, and one of them is a matrix for each."""
    parameters = list(module.parameters())
    own = list(module.parameters(recurse=False))
    if len(own) != len(parameters) or not any(parameter.dim() > 2 for parameter in own):
        return False
    counts = {len(parameter) if parameter.dim() else 0 for parameter in own}
    return len(counts) == 1 and min(counts) > 1 and all(parameter.dim() > 1 for parameter in own)
