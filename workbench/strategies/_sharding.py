"""The arithmetic of sharding: which blocks are gathered together, what a worker holds of a parameter, who updates it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.plan.summary import ModelSummary, ParameterSummary, Tie, block_of
from workbench.plan.transfer import Transfer

if TYPE_CHECKING:
    from workbench.plan.share import Share


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


def expected_of_units(
    model: ModelSummary, share: Share, size: int, num_shards: int, gathers: Iterable[tuple[tuple[str, ...], int, int]]
) -> Iterator[Transfer]:
    """What FSDP moves over the ``data`` axis of ``size`` workers. Per unit: all-gathers of its parameters, as many in forward
    and in backward passes as ``gathers`` says of each stage's blocks; one reduce-scatter of its gradients; and where shards
    are replicated (HSDP) one all-reduce of what that leaves on a worker.

    The payload is the full tensor's, rows filled up until they divide. gloo runs a reduce-scatter as an all-reduce, with
    about twice the bytes on the wire; the payload is the same.
    """
    num_replicas = size // num_shards
    for blocks, forward, backward in gathers:
        for unit in units(blocks, model.ties):
            mine = [p for p in model.distinct_parameters if block_of(p.name) in unit]
            payload = sum(padded_numel(p, num_shards) for p in mine) * share.element_bytes
            yield Transfer("all_gather", "data", "forward", forward, payload, num_shards)
            if share.trains:
                yield Transfer("all_gather", "data", "backward", backward, payload, num_shards)
                yield Transfer("reduce_scatter", "data", "backward", 1, payload, num_shards)
            if share.trains and num_replicas > 1:
                yield Transfer("all_reduce", "data", "backward", 1, payload // num_shards, num_replicas)


def owners(sizes: Sequence[int], num_workers: int) -> list[int]:
    """The worker that updates each parameter under ZeRO-1: the largest first, each to the worker with the fewest elements
    so far (as torch's ZeroRedundancyOptimizer does). Whole parameters are dealt out, so shares are only nearly equal."""
    loads, owner = [0] * num_workers, [0] * len(sizes)
    for position in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owner[position] = loads.index(min(loads))
        loads[owner[position]] += sizes[position]
    return owner
