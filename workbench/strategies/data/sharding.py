"""Sharding arithmetic: the units that are gathered together, the shard of each worker, the owner of each parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from workbench.plan.communication import ExpectedCommunication
from workbench.plan.model_summary import ModelSummary, ParameterSummary, block_of

if TYPE_CHECKING:
    from workbench.plan.rank_view import RankView


class Units(NamedTuple):
    """Blocks of a stage that are gathered together."""

    called: list[tuple[str, ...]]
    """Units that are gathered when their blocks are called: single blocks, or all blocks of a tied parameter."""

    of_stage: tuple[str, ...]
    """Blocks whose parameters the code between the blocks reads, gathered when the stage is called."""


def units(blocks: Sequence[str], model: ModelSummary) -> Units:
    """Groups the blocks of a stage into units that are gathered together."""
    unit_by_block: dict[str, tuple[str, ...]] = {block: (block,) for block in blocks}
    for names in model.tied_names.values():
        holders = list(dict.fromkeys(unit_by_block[block_of(name)] for name in names if block_of(name) in unit_by_block))
        together = tuple(block for unit in holders for block in unit)
        unit_by_block.update(dict.fromkeys(together, together))
    read_outside = {block.name for block in model.blocks if not block.is_called}
    found = list(dict.fromkeys(unit_by_block.values()))
    called = [unit for unit in found if read_outside.isdisjoint(unit)]
    return Units(called, tuple(block for unit in found if unit not in called for block in unit))


def rows_per_worker(parameter: ParameterSummary, size: int) -> int:
    """Returns ⌈rows / size⌉: the rows of the first worker under ``torch.chunk``; later workers may have fewer or none."""
    return -(-parameter.shape[0] // size)


def shard(model: ModelSummary, index: int, size: int) -> ModelSummary:
    """Returns the ``index``-th of ``size`` shards of the model: consecutive rows of every parameter."""
    if size == 1:
        return model

    def cut(parameter: ParameterSummary) -> ParameterSummary:
        rows = rows_per_worker(parameter, size)
        num_rows = min(rows, max(0, parameter.shape[0] - index * rows))
        return replace(parameter, shape=(num_rows, *parameter.shape[1:]))

    return replace(model, blocks=tuple(replace(b, parameters=tuple(map(cut, b.parameters))) for b in model.blocks))


def padded_numel(parameter: ParameterSummary, size: int) -> int:
    """Returns the elements of a parameter in a collective over ``size`` workers, padded to the same number of rows for each."""
    return rows_per_worker(parameter, size) * size * parameter.numel // parameter.shape[0]


class StageGathers(NamedTuple):
    """How often the parameters of one stage are gathered in a step."""

    blocks: tuple[str, ...]
    forward: int
    backward: int
    forward_only: int
    """In forward passes without a backward pass: those of the blocks before the first trained one."""


def expected_fsdp(
    model: ModelSummary, rank_view: RankView, size: int, num_shards: int, gathers: Iterable[StageGathers]
) -> Iterator[ExpectedCommunication]:
    """Yields the communication of FSDP over the ``data`` axis of ``size`` workers.

    Per unit there are all-gathers of its parameters, as often per stage as in ``gathers``; one reduce-scatter of its gradients;
    and with replicated shards (HSDP) one all-reduce of the local gradient shard.

    The backward pass reaches neither the units before the first trained one nor those of which no parameter is used, but gathers
    one that precedes a unit that it reaches: the backward pass of a unit prefetches the unit before it (FSDP2, torch 2.13). The
    unit of a stage comes after all others, and is reached if anything in the stage is trained.

    Under mixed precision parameters are gathered in the compute dtype, and gradients are reduced in the dtype of the parameters.

    The payload is that of the full tensor with padded rows. gloo runs a reduce-scatter as an all-reduce, with about twice the
    bytes on the wire and the same payload.
    """
    num_replicas = size // num_shards
    trained = {block.name for block in rank_view.full_model.blocks[rank_view.full_model.first_trained_block :]}
    unused = {block.name for block in model.blocks if block.parameters and not any(p.is_used for p in block.parameters)}
    for stage in gathers:
        called, of_stage = units(stage.blocks, model)
        reached = [not trained.isdisjoint(unit) and not unused.issuperset(unit) for unit in called]
        stage_units = [*called, of_stage] if of_stage else called
        reached += [not trained.isdisjoint(stage.blocks)] if of_stage else []
        for unit, is_regathered in zip(stage_units, map(any, zip(reached, [*reached[1:], False], strict=True)), strict=True):
            local_parameters = [p for p in model.distinct_parameters if block_of(p.name) in unit]
            gathered = sum(padded_numel(p, num_shards) for p in local_parameters) * rank_view.compute_bytes
            gradients = sum(padded_numel(p, num_shards) for p in local_parameters if p.has_gradient) * rank_view.element_bytes
            forward = stage.forward if is_regathered or not rank_view.trains else stage.forward_only
            yield ExpectedCommunication("all_gather", "data", "forward", forward, gathered, num_shards)
            if rank_view.trains:
                num_regathers = stage.backward if is_regathered else 0
                yield ExpectedCommunication("all_gather", "data", "backward", num_regathers, gathered, num_shards)
                yield ExpectedCommunication("reduce_scatter", "data", "backward", int(gradients > 0), gradients, num_shards)
            if rank_view.trains and num_replicas > 1:
                yield ExpectedCommunication(
                    "all_reduce", "data", "backward", int(gradients > 0), gradients // num_shards, num_replicas
                )


def owned(model: ModelSummary, index: int, num_workers: int) -> ModelSummary:
    """Returns the part of the model that worker ``index`` updates under ZeRO-1, which assigns whole parameters to workers."""
    parameters = tuple(p for p in model.distinct_parameters if p.requires_grad)
    owner = owners([p.numel for p in parameters], num_workers)
    names = {p.name for p, worker in zip(parameters, owner, strict=True) if worker == index}
    blocks = (replace(b, parameters=tuple(p for p in b.parameters if p.name in names)) for b in model.blocks)
    return replace(model, blocks=tuple(blocks))


def owners(sizes: Sequence[int], num_workers: int) -> list[int]:
    """Returns the worker that updates each parameter under ZeRO-1.

    Assigns the parameters, largest first, to the worker with the fewest elements so far, as torch's ZeroRedundancyOptimizer does.

    Args:
        sizes: elements of each parameter.
    """
    loads, owner = [0] * num_workers, [0] * len(sizes)
    for position in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owner[position] = loads.index(min(loads))
        loads[owner[position]] += sizes[position]
    return owner
