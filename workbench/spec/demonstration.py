"""The demonstration: the same work on one worker, and split over two by four strategies."""

from __future__ import annotations

from workbench.spec.run_spec import RunSpec

SPLITS = (
    {"data": {"size": 2}},
    {"layer": {"size": 2}},
    {"pipeline": {"size": 2, "schedule": "1f1b", "num_microbatches": 4}},
    {"tensor": {"size": 2}},
)


def four_strategies(spec: RunSpec) -> list[RunSpec]:
    """Returns this spec with each of the four strategies. With the default spec it is the demonstration. The run on one worker is
    added as their baseline."""
    return [spec.replace(split=split) for split in SPLITS]
