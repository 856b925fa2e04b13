"""The demonstration: the same work on one worker and split over two by each of four strategies."""

from __future__ import annotations

from workbench.spec.run_spec import RunSpec

SPLITS = (
    {"data": {"size": 2}},
    {"layer": {"size": 2}},
    {"pipeline": {"size": 2, "schedule": "1f1b", "num_microbatches": 4}},
    {"tensor": {"size": 2}},
)


def four_strategies(spec: RunSpec) -> list[RunSpec]:
    """This spec's work split by each of the strategies in turn; of the default spec it is the demonstration. The run on one
    worker comes with them, as their baseline."""
    return [spec.replace(split=split) for split in SPLITS]
