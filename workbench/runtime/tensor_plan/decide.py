"""Decides by computing how a group of modules can be cut: with which sections, divided attributes and summed gradients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from math import gcd

from torch import nn

from workbench.plan.tensor_plan import DividedAttribute, ModuleSlices, SlicedModule
from workbench.runtime.tensor_plan.trial import Trial, failure
from workbench.strategies.tensor.kinds_modules import can_be_cut, dims_of, size_of

NO_TIME = "there was no time to decide"
_WAYS = (2, 4)
_MOST_ATTRIBUTES, _MOST_AT_ONCE, _MOST_TRIALS = 10, 3, 8


def ways(units: int) -> list[int]:
    """Returns the numbers of workers for which a group is verified."""
    found = [size for size in _WAYS if units % size == 0]
    return found or [size for size in (3, 5, 7) if units % size == 0][:1]


def decided(trial: Trial, group: ModuleSlices, deadline: float, is_part: bool) -> ModuleSlices | str:
    """Returns the group with its sections, the attributes that must be divided and the parameters whose gradients must be summed;
    or why there are none with which it is right.

    Args:
        deadline: Time of the processor after which nothing more is tried.
        is_part: Whether the module of the trial is a part of the user's, which may be given a narrower input.
    """
    reason = ""
    variants = list(_in_sections(trial.module, group))
    if is_part:
        variants += [replace(variant, narrowed="") for variant in variants]
    for variant in variants:
        outcome = _with_attributes(trial, variant, deadline)
        if isinstance(outcome, ModuleSlices):
            return outcome
        reason = reason or outcome
    return reason


def _with_attributes(trial: Trial, group: ModuleSlices, deadline: float) -> ModuleSlices | str:
    """As ``decided``, with the sections of the group."""
    size, reason, num_trials = ways(group.units)[0], "", 0
    for attributes in _sets_of_attributes(trial.module, group, size):
        if time.process_time() > deadline:
            return NO_TIME
        tried = replace(group, attributes=attributes)
        if problem := trial.has_shapes([tried], size):
            reason = reason or problem
            continue
        num_trials += 1
        outcome = _outcome(trial, tried, size)
        if isinstance(outcome, ModuleSlices):
            return _for_all_ways(trial, outcome)
        reason = outcome if num_trials == 1 else reason
        if num_trials == _MOST_TRIALS:
            break
    return reason


def _outcome(trial: Trial, group: ModuleSlices, size: int) -> ModuleSlices | str:
    """Returns the group with the parameters whose gradients must be summed, if it is then right; else what is wrong."""
    try:
        results = trial.results([group], size)
        summed = trial.summed(results)
        if summed:
            group = replace(group, summed=summed)
            results = trial.results([group], size)
        difference = trial.difference([group], size, results)
    except Exception as error:  # noqa: BLE001 - the user's code
        return failure(error)
    return group if difference is None else str(difference)


def _for_all_ways(trial: Trial, group: ModuleSlices) -> ModuleSlices:
    """Returns the group with the number that the number of workers must divide: the largest with which the code runs."""
    values = (getattr(trial.module.get_submodule(a.path), a.name) for a in group.attributes)
    most, least = gcd(group.units, *values), ways(group.units)[0]
    for size in sorted((d for d in range(least + 1, most + 1) if most % d == 0 and d % least == 0), reverse=True):
        if trial.has_shapes([group], size):
            continue
        verified = [number for number in _WAYS if number > least and size % number == 0]
        if not any(isinstance(_outcome(trial, group, number), str) for number in verified):
            return replace(group, units=size)
    return replace(group, units=least)


def _sets_of_attributes(module: nn.Module, group: ModuleSlices, size: int) -> Iterator[tuple[DividedAttribute, ...]]:
    """Yields sets of integer attributes that may have to be divided, small ones first."""
    found = []
    for path, part in module.named_modules():
        if can_be_cut(part):
            continue
        for name, value in vars(part).items():
            if type(value) is int and value >= size and value % size == 0 and not name.startswith("_"):
                found.append((DividedAttribute(path, name), "head" in name or "group" in name))
    found.sort(key=lambda item: not item[1])
    attributes = [attribute for attribute, _ in found[:_MOST_ATTRIBUTES]]
    for count in range(_MOST_AT_ONCE + 1):
        yield from combinations(attributes, count)


def _in_sections(module: nn.Module, group: ModuleSlices) -> Iterator[ModuleSlices]:
    """Yields the group as it is; if one column layer has more output features than its row layer takes, with sections: equal
    ones, or query, key and value with fewer heads of keys; if row layers take the outputs of several columns side by side, with
    these as sections."""
    yield group
    sizes = {part.path: size_of(module.get_submodule(part.path), part.style) for part in group.modules}
    columns, rows = ([part.path for part in group.modules if part.style == style] for style in ("column", "row"))
    options: list[tuple[int, ...]] = []
    if len(columns) == len(rows) == 1:
        features, taken = sizes[columns[0]], sizes[rows[0]]
        options = [(taken,) * (features // taken)] if features % taken == 0 else []
        if features > taken and (features - taken) % 2 == 0 and features != 3 * taken:
            options.append((taken, *((features - taken) // 2,) * 2))
    elif len(columns) > 1:
        options = [tuple(sizes[path] for path in columns), tuple(sizes[path] for path in reversed(columns))]
    for sections in dict.fromkeys(options):
        whole = [part for part in group.modules if _features(module, part) == sum(sections)]
        if len(sections) > 1 and whole and ways(units := gcd(group.units, *sections)):
            parts = tuple(replace(part, sections=sections) if part in whole else part for part in group.modules)
            yield replace(group, modules=parts, units=units)


def _features(module: nn.Module, part: SlicedModule) -> int:
    """Returns the number of features that a module is cut along."""
    cut = module.get_submodule(part.path)
    if isinstance(cut, nn.GroupNorm):
        return cut.num_channels
    return cut.get_parameter("weight").shape[dims_of(cut, part.style)["weight"]]
