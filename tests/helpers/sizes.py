"""Which parametrized cases are slow: those of many workers, and those that are named."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from math import prod
from typing import Any, TypeVar

import pytest

from workbench.spec import Split

T = TypeVar("T")


def larger_are_slow(
    cases: Iterable[T], split_of: Callable[[T], dict[str, Any]], limit: int = 2, slow: Collection[T] = ()
) -> list[Any]:
    """The cases as parameters; one whose split takes more than ``limit`` workers runs with the slow tests, as do those that are
    ``slow``."""

    def parameter(case: T) -> Any:
        num_workers = prod(options.size for _, options in Split(split_of(case)).items())
        values = case if isinstance(case, tuple) else (case,)
        return pytest.param(*values, marks=[pytest.mark.slow] if num_workers > limit or case in slow else [])

    return [parameter(case) for case in cases]
