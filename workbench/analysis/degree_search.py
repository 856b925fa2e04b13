"""All ways to share work among so many workers, by formula, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from workbench.analysis.expected import expected_communication, held
from workbench.errors import SplitError
from workbench.plan.resolve import plan
from workbench.spec.run_spec import RunSpec

_MIB = 2**20


def choices(spec: RunSpec, num_workers: int, axes: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a way in which the sizes of these strategies multiply to ``num_workers``.

    Args:
        spec: the work; its own split does not count.
        axes: strategy → its options other than the size, in the order in which they are written.

    Returns:
        The size along each axis; ``split``, its label; ``memory_mib``, expected of the largest worker; ``communication_mib``,
        of a step over the whole run; ``refused``, why it cannot be, and then the others are empty. What needs least memory
        comes first.
    """
    rows = []
    for sizes in _factors(num_workers, len(axes)):
        row: dict[str, Any] = dict(zip(axes, sizes, strict=True))
        split = {name: {**options, "size": row[name]} for name, options in axes.items() if row[name] > 1}
        try:
            planned = plan(spec.replace(split=split))
        except SplitError as error:
            rows.append({**row, "refused": str(error)})
            continue
        largest = held(planned).groupby("worker")["bytes"].sum().max()
        figures = {"memory_mib": largest / _MIB, "communication_mib": expected_communication(planned)["bytes"].sum() / _MIB}
        rows.append({**row, "split": planned.spec.split.label, **figures, "refused": ""})
    columns = [*axes, "split", "memory_mib", "communication_mib", "refused"]
    return pd.DataFrame(rows, columns=columns).sort_values("memory_mib", ignore_index=True)


def _factors(number: int, count: int) -> Iterator[tuple[int, ...]]:
    """Every ``count`` numbers, in order, whose product is ``number``."""
    if count == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            yield from ((first, *rest) for rest in _factors(number // first, count - 1))
