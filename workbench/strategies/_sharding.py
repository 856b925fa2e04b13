"""The arithmetic of sharding: which blocks are gathered together, what a worker holds of a parameter, who updates it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from workbench.plan.summary import ModelSummary, ParameterSummary, Tie, block_of


def units(blocks: Sequence[str], ties: Iterable[Tie]) -> list[tuple[str, ...]]:
    """Blocks of one stage that are gathered together: each by itself, but those that share a tied parameter as one."""
    unit_of: dict[str, tuple[str, ...]] = {block: (block,) for block in blocks}
    for tie in ties:
        first, second = block_of(tie.source), block_of(tie.parameter)
        if first in unit_of and second in unit_of and unit_of[first] != unit_of[second]:
            together = unit_of[first] + unit_of[second]
            unit_of.update(dict.fromkeys(together, together))
    return list(dict.fromkeys(unit_of.values()))


def rows_per_worker(parameter: ParameterSummary, size: int) -> int:
    """⌈rows / size⌉: what ``torch.chunk`` gives the first of ``size`` workers of dim 0; later ones may have less or none."""
    return -(-parameter.shape[0] // size)


def shard(model: ModelSummary, index: int, size: int) -> ModelSummary:
    """The ``index``-th of ``size`` shards: of every parameter a run of consecutive rows."""

    def cut(parameter: ParameterSummary) -> ParameterSummary:
        rows = rows_per_worker(parameter, size)
        mine = min(rows, max(0, parameter.shape[0] - index * rows))
        return replace(parameter, shape=(mine, *parameter.shape[1:]))

    return replace(model, blocks=tuple(replace(b, parameters=tuple(map(cut, b.parameters))) for b in model.blocks))


def padded_numel(parameter: ParameterSummary, size: int) -> int:
    """Elements that a collective over ``size`` workers moves: rows are filled up until every worker has equally many."""
    return rows_per_worker(parameter, size) * size * parameter.numel // parameter.shape[0]


def owners(sizes: Sequence[int], num_workers: int) -> list[int]:
    """The worker that updates each parameter under ZeRO-1: the largest first, each to the worker with the fewest elements
    so far (as torch's ZeroRedundancyOptimizer does). Whole parameters are dealt out, so shares are only nearly equal."""
    loads, owner = [0] * num_workers, [0] * len(sizes)
    for position in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owner[position] = loads.index(min(loads))
        loads[owner[position]] += sizes[position]
    return owner
