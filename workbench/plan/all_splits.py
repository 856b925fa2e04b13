"""Lists the splits of a number of workers that the checks accept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from workbench.errors import SpecError
from workbench.plan.resolve import plan
from workbench.registry import STRATEGIES
from workbench.spec.run_spec import RunSpec

Options = dict[str, Any]


def all_splits(spec: RunSpec, num_workers: int, *, variants: bool = False) -> list[RunSpec]:
    """Returns the spec with every split of ``num_workers`` workers that the checks accept: first one strategy alone, then several
    along different axes. Each strategy has the options that the split of ``spec`` gives it, else its plain ones.

    Args:
        variants: Whether to include the variants of strategies that have a name of their own, such as zero1 and fsdp of data.

    Raises:
        SpecError: none is accepted, and one worker is refused, too: what is wrong is no split, such as a model that cannot be
            built.
    """
    given = {name: options.model_dump(mode="json", exclude_none=True) for name, options in spec.split.items()}
    accepted = []
    for sizes in sorted(_sizes(num_workers), key=len):
        choices = [list(_choices(name, size, given.get(name), variants)) for name, size in sizes.items()]
        for options in product(*choices):
            candidate = spec.replace(split=dict(zip(sizes, options, strict=True)))
            try:
                planned = plan(candidate)
            except SpecError:
                continue
            if planned.num_workers == num_workers and candidate not in accepted:
                accepted.append(candidate)
    if not accepted:
        plan(spec.replace(split={}, link={}))
    return accepted


def factors(number: int, count: int) -> Iterator[tuple[int, ...]]:
    """Yields every tuple of ``count`` numbers whose product is ``number``."""
    if count == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            yield from ((first, *rest) for rest in factors(number // first, count - 1))


def _sizes(num_workers: int) -> Iterator[dict[str, int]]:
    """Yields strategy → size: on each axis at most one strategy of its own, and one that divides the axis."""
    axes: dict[str, list[Any]] = {}
    for strategy in map(STRATEGIES.get, STRATEGIES.names()):
        axes.setdefault(strategy.axis, []).append(strategy)
    for lengths in factors(num_workers, len(axes)):
        alternatives = [list(_along(axes[axis], length)) for axis, length in zip(axes, lengths, strict=True) if length > 1]
        for parts in product(*alternatives):
            yield {name: size for part in parts for name, size in part.items()}


def _along(strategies: list[Any], length: int) -> Iterator[dict[str, int]]:
    """Yields the strategies with their sizes that can split an axis of this length."""
    own = [s.name for s in strategies if not s.divides_axis]
    dividing = [s.name for s in strategies if s.divides_axis]
    yield from ({name: length} for name in (*own, *dividing))
    divisors = [size for size in range(2, length + 1) if length % size == 0]
    yield from ({name: length, other: size} for name in own for other in dividing for size in divisors)


def _choices(name: str, size: int, given: Options | None, variants: bool) -> Iterator[Options]:
    strategy = STRATEGIES.get(name)
    plain = strategy.plain_options(size)
    yield {**(given or plain), "size": size}
    if variants:
        named = {key for options in strategy.aliases.values() for key in options}
        others = {key: value for key, value in (given or plain).items() if key not in named}
        yield from ({**others, **options, "size": size} for options in ({}, *strategy.aliases.values()))
