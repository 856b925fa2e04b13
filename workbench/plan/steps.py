"""Defines the order of the steps of a run, and how often periodic operations occur on its trace steps."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.spec.run_spec import RunSpec


def step_kinds(spec: RunSpec) -> Iterator[str]:
    """Yields the kind of each step. With a memory budget, the first memory step comes before all long phases, after a step that
    creates the optimizer state."""
    train, measure = spec.train, spec.measure
    has_budget = measure.memory_budget_bytes is not None
    yield from ["warmup"] * max(train.num_warmup_steps, int(has_budget))
    yield from ["memory"] * has_budget
    yield from ["timed"] * train.num_steps
    yield from ["trace"] * measure.num_trace_steps
    yield from ["memory"] * measure.num_memory_steps
    yield from ["profiler"] * measure.torch_profiler


def trace_share(spec: RunSpec, every: int) -> Fraction:
    """Returns the share of trace steps that have an operation of every ``every``-th step (the k-th, the 2k-th and so on, the
    first step of the run being number 1). Without trace steps, the share of all steps."""
    trace = [number for number, kind in enumerate(step_kinds(spec), start=1) if kind == "trace"]
    return Fraction(sum(number % every == 0 for number in trace), len(trace)) if trace else Fraction(1, every)
