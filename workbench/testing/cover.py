"""Selects a small, deterministic subset of many cases in which every pair of their properties occurs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from math import prod
from typing import TypeVar

from workbench.plan.compatibility import Case
from workbench.spec import Split

Pairs = set[Hashable]
T = TypeVar("T")


def cover(
    candidates: Iterable[T],
    pairs: Callable[[T], Pairs],
    beside: Iterable[T] = (),
    cost: Callable[[T], float] = lambda _: 1.0,
) -> list[T]:
    """Returns a greedy cover of all pairs: each next case has the most new pairs per cost, the first of equals.

    The same cases give the same cover, and a case with a new pair (an example of a new plugin) is selected without being named
    anywhere. The greedy cover costs at most ``ln(largest number of pairs of a case) + 1`` times the optimum (Chvátal, "A greedy
    heuristic for the set-covering problem", 1979).

    Args:
        candidates: Cases in order of preference.
        pairs: Returns the pairs of a case that must occur at least once.
        beside: Cases that run anyway, whose pairs are covered.
        cost: Returns the cost of a case, in any unit.
    """
    cases, covered = list(candidates), set[Hashable]().union(*map(pairs, beside))
    costs = [cost(case) for case in cases]
    remaining = {index: pairs(case) - covered for index, case in enumerate(cases)}
    chosen = []
    while remaining:
        best = max(remaining, key=lambda index: len(remaining[index]) / costs[index])  # the first of equals, in order
        covered = remaining.pop(best)
        if not covered:
            break
        chosen.append(best)
        for missing in remaining.values():
            missing -= covered
    return [cases[index] for index in sorted(chosen)]


def each_split(case: Case) -> Pairs:
    """Returns pairs that cover every split, and every model with every strategy and in every mode."""
    model = _plugin(case.model)
    return {case.split, (model, case.mode), *((strategy, model) for strategy, _ in Split(case.spec["split"]).items())}


def each_pair(case: Case) -> Pairs:
    """Returns pairs that cover every split of two workers and every combination of strategies on every model, and every example
    of splits and models in every mode."""
    sizes = {strategy: options.size for strategy, options in Split(case.spec["split"]).items()}
    split = case.split if prod(sizes.values()) <= 2 else frozenset(sizes)
    return {(split, _plugin(case.model)), (case.split, case.mode), (case.model, case.mode)}


def _plugin(model: str) -> str:
    """Returns the model of an example: ``"transformer, tied"`` → ``"transformer"``."""
    return model.partition(",")[0]
