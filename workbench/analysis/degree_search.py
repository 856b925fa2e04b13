"""Lists all splits of a number of workers over some axes, by formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from workbench.analysis.expected import expected_communication, held
from workbench.errors import SplitError
from workbench.plan.all_splits import factors
from workbench.plan.resolve import plan
from workbench.spec.run_spec import RunSpec

_MIB = 2**20


def choices(spec: RunSpec, num_workers: int, axes: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Returns one row per combination of sizes whose product is ``num_workers``, least memory first.

    Args:
        spec: The work; its own split is ignored.
        axes: Strategy → its options other than the size, in the order in which they are written.

    Returns:
        The size along each axis; ``split``, the label; ``memory_mib``, expected on the largest worker; ``communication_mib``,
            expected per step over all workers; ``refused``, why the split is rejected, with the other columns then empty.
    """
    rows = []
    for sizes in factors(num_workers, len(axes)):
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
