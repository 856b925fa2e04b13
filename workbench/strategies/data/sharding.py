"""The arithmetic of sharding: which blocks are gathered together, what a worker holds of a parameter, who updates it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from workbench.plan.communication import Transfer
from workbench.plan.model_summary import ModelSummary, ParameterSummary, block_of

if TYPE_CHECKING:
    from workbench.plan.rank_view import RankView


def units(blocks: Sequence[str], model: ModelSummary) -> list[tuple[str, ...]]:
    """Blocks of one stage that are gathered together: each by itself, but those that share a tied parameter as one."""
    unit_of: dict[str, tuple[str, ...]] = {block: (block,) for block in blocks}
    for names in model.tied_names.values():
        holders = list(dict.fromkeys(unit_of[block_of(name)] for name in names if block_of(name) in unit_of))
        together = tuple(block for unit in holders for block in unit)
        unit_of.update(dict.fromkeys(together, together))
    return list(dict.fromkeys(unit_of.values()))


def rows_per_worker(parameter: ParameterSummary, size: int) -> int:
    """⌈rows / size⌉: what ``torch.chunk`` gives the first of ``size`` workers of dim 0; later ones may have less or none."""
    return -(-parameter.shape[0] // size)


def shard(model: ModelSummary, index: int, size: int) -> ModelSummary:
    """The ``index``-th of ``size`` shards: of every parameter a run of consecutive rows."""

    if size == 1:
        return model

    def cut(parameter: ParameterSummary) -> ParameterSummary:
        rows = rows_per_worker(parameter, size)
        mine = min(rows, max(0, parameter.shape[0] - index * rows))
        return replace(parameter, shape=(mine, *parameter.shape[1:]))

    return replace(model, blocks=tuple(replace(b, parameters=tuple(map(cut, b.parameters))) for b in model.blocks))


def padded_numel(parameter: ParameterSummary, size: int) -> int:
    """Elements that a collective over ``size`` workers moves: rows are filled up until every worker has equally many."""
    return rows_per_worker(parameter, size) * size * parameter.numel // parameter.shape[0]


class StageGathers(NamedTuple):
    """How often the parameters of one stage are gathered in a step."""

    blocks: tuple[str, ...]
    forward: int
    backward: int
    forward_only: int
    """In forward passes that no backward pass follows: of what lies before the first trained block."""


def expected_of_units(
    model: ModelSummary, rank_view: RankView, size: int, num_shards: int, gathers: Iterable[StageGathers]
) -> Iterator[Transfer]:
    """What FSDP moves over the ``data`` axis of ``size`` workers. Per unit: all-gathers of its parameters, as many in forward
    and in backward passes as ``gathers`` says of each stage; one reduce-scatter of the gradients that it has; and where shards
    are replicated (HSDP) one all-reduce of what that leaves on a worker.

    No backward pass reaches the units before the first trained one, but the last of them is gathered all the same: a unit's
    backward pass begins with gathering the one before it (FSDP2's prefetch, torch 2.13).

    Under mixed precision copies of fewer bytes are gathered, and gradients reduced in the parameters' own.

    The payload is the full tensor's, rows filled up until they divide. gloo runs a reduce-scatter as an all-reduce, with
    about twice the bytes on the wire; the payload is the same.
    """
    num_replicas = size // num_shards
    trained = {block.name for block in rank_view.full_model.blocks[rank_view.full_model.first_trained_block :]}
    for stage in gathers:
        of_stage = units(stage.blocks, model)
        reached = [not trained.isdisjoint(unit) for unit in of_stage]
        for unit, is_gathered_again in zip(of_stage, map(any, zip(reached, [*reached[1:], False], strict=True)), strict=True):
            mine = [p for p in model.distinct_parameters if block_of(p.name) in unit]
            gathered = sum(padded_numel(p, num_shards) for p in mine) * rank_view.compute_bytes
            gradients = sum(padded_numel(p, num_shards) for p in mine if p.has_gradient) * rank_view.element_bytes
            forward = stage.forward if is_gathered_again or not rank_view.trains else stage.forward_only
            yield Transfer("all_gather", "data", "forward", forward, gathered, num_shards)
            if rank_view.trains:
                again = stage.backward if is_gathered_again else 0
                yield Transfer("all_gather", "data", "backward", again, gathered, num_shards)
                yield Transfer("reduce_scatter", "data", "backward", int(gradients > 0), gradients, num_shards)
            if rank_view.trains and num_replicas > 1:
                yield Transfer("all_reduce", "data", "backward", int(gradients > 0), gradients // num_shards, num_replicas)


def owners(sizes: Sequence[int], num_workers: int) -> list[int]:
    """The worker that updates each parameter under ZeRO-1: the largest first, each to the worker with the fewest elements
    so far (as torch's ZeroRedundancyOptimizer does). Whole parameters are dealt out, so shares are only nearly equal."""
    loads, owner = [0] * num_workers, [0] * len(sizes)
    for position in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owner[position] = loads.index(min(loads))
        loads[owner[position]] += sizes[position]
    return owner
