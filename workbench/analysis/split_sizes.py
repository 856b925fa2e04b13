"""All splits of a number of workers by formula: memory, communication, and what makes more of them fit a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.analysis.device_memory import exceeded
from workbench.errors import SpecError
from workbench.plan.all_splits import all_splits
from workbench.plan.memory import expected_memory
from workbench.plan.nearest_valid import with_change
from workbench.plan.resolve import plan
from workbench.spec.paths import differences, spec_of
from workbench.spec.run_spec import RunSpec


def split_sizes(specs: Sequence[RunSpec]) -> pd.DataFrame:
    """Returns the formulas of these specs.

    Returns:
        One row per spec, least memory first: its ``number`` in ``specs``, ``split``, expected ``memory`` of the largest worker
        and ``communication`` of a step in bytes, whether it ``exceeds`` this machine or the memory budget, and whether its
        memory is ``without_activations``, which have no formula.
    """
    rows = []
    for number, planned in enumerate(map(plan, specs)):
        memory = [expected_memory(planned, rank) for rank in range(planned.num_workers)]
        bytes_of = {rank: expected.total_bytes for rank, expected in enumerate(memory)}
        rows.append(
            {
                "number": number,
                "split": planned.spec.split.label,
                "memory": max(bytes_of.values()),
                "communication": round(sum(operation.bytes_per_step for operation in planned.expected_communication)),
                "exceeds": bool(exceeded(planned, bytes_of)),
                "without_activations": any(expected.activations is None for expected in memory),
            }
        )
    return pd.DataFrame(rows).sort_values("memory", kind="stable", ignore_index=True)


@dataclass(frozen=True)
class Saving:
    """A change of the spec that makes more of its splits fit."""

    change: dict[str, Any]
    """Option path → value."""

    num_fitting: int
    num_splits: int


def savings(spec: RunSpec, num_workers: int, limit_bytes: int, *, variants: bool = False) -> list[Saving]:
    """Returns the changes with which splits fit: recomputed activations, half the batch, bf16.

    Args:
        spec: of which no split of ``num_workers`` workers fits.
        limit_bytes: memory that a worker may use.
        variants: as of ``all_splits``.
    """
    paths, useful = differences(spec), []
    for change in changes(spec):
        try:
            specs = all_splits(spec_of(with_change(paths, change)), num_workers, variants=variants)
        except SpecError:
            continue
        if specs and (fitting := int((split_sizes(specs)["memory"] <= limit_bytes).sum())):
            useful.append(Saving(change, fitting, len(specs)))
    return useful


def changes(spec: RunSpec) -> list[dict[str, Any]]:
    """Returns the changes that reduce memory, those that change the result last."""
    halves: dict[str, Any] = {"train.precision": "bf16"} if spec.train.precision != "bf16" else {}
    if spec.mode != "train":
        return [halves] if halves else []
    recomputes: dict[str, Any] = {"train.checkpointing": "full"} if spec.train.checkpointing != "full" else {}
    half = spec.train.global_batch_size // 2
    smaller: dict[str, Any] = {"train.global_batch_size": half} if half else {}
    both = {**recomputes, **halves} if recomputes and halves else {}
    return [change for change in (recomputes, smaller, halves, both) if change]
