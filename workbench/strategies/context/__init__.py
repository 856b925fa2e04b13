"""Context parallelism: every worker holds the full model and computes a part of each sequence; keys and values are exchanged."""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import SplitError
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.layer_groups import ColumnRowPair, LayerGroup
from workbench.plan.placement import Placement
from workbench.plan.tensor_plan import ModuleSlices
from workbench.spec.options import StrategyOptions
from workbench.strategies.base import ApplyOrder, Caption, Limiting, Strategy, strategy
from workbench.strategies.data.ddp import average_gradients, check_all_trained, check_replicas, expected_average

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.model_summary import BlockSummary, ModelSummary
    from workbench.plan.rank_view import RankView
    from workbench.plan.sequence_split import SequenceSplit
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel


_STAGED = {"layer", "pipeline"}


class ContextOptions(StrategyOptions):
    attention: Literal["ring", "all_gather"] = "ring"
    """How queries attend to the keys and values of other workers: passed around a ring, overlapped with computation (ring), or
    gathered before attention (all_gather)."""

    balance: Literal["zigzag", "contiguous"] = "zigzag"
    """Positions of each worker: the i-th of 2n chunks from the front and the i-th from the back, which balances causal attention
    (zigzag), or the i-th of n chunks (contiguous)."""


@strategy("context")
class ContextStrategy(Strategy[ContextOptions]):
    """Context parallelism: splits each sequence over the workers, with ring attention (Liu et al. 2023) or all-gathered keys and
    values (Llama 3)."""

    Options = ContextOptions
    axis = "context"
    apply_order = ApplyOrder.SEQUENCES
    examples = {
        "": {},
        "contiguous": {"balance": "contiguous"},
        "gathered": {"attention": "all_gather"},
        "gathered, contiguous": {"attention": "all_gather", "balance": "contiguous"},
    }
    captions = {
        ("context", "send", "forward"): Caption(
            "Keys and values pass around the ring, so that each query attends to all earlier positions."
        ),
        ("context", "send", "backward"): Caption("Keys and values pass around the ring again, with their gradients."),
        ("context", "all_reduce", "backward"): Caption("Parameters are replicated; their gradients are averaged."),
    }
    lessons = ("lesson.md",)
    lesson_order = 4

    @property
    def label(self) -> str:
        label = f"cp{self.options.size}-{self.options.attention}"
        return label if self.options.balance == "zigzag" else f"{label}-{self.options.balance}"

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        is_limiting = (limit, axis) == ("communication", self.axis)
        return "Try the other split.context.attention or longer sequences." if is_limiting else ""

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        check_replicas(model, spec, "split.context")
        check_all_trained(model, spec, "split.context")
        length, size = model.sequence_length, self.options.size
        if model.sequence is not None:
            self._check_user_module(model.name, model.sequence, spec)
        if length is None:
            raise SplitError(
                "split.context",
                f"{model.name} cannot be split along the sequence, which requires that only causal attention mixes positions (no"
                " recurrence, router statistics or class token); use the model transformer",
            )
        num_chunks = self._num_chunks
        if length % num_chunks:
            each = "two per worker with zigzag" if num_chunks > size else "one per worker"
            raise SplitError(
                "split.context.size",
                f"{length} positions are not divisible into {num_chunks} chunks ({each}): the remainder is {length % num_chunks};"
                f" use a sequence length of {length - length % num_chunks or num_chunks} or another multiple of {num_chunks}",
            )

    def _check_user_module(self, name: str, sequence: SequenceSplit, spec: RunSpec) -> None:
        """Rejects what a user's module does not support."""
        if sequence.refusal:
            raise SplitError("split.context", f"{name} cannot be split along the sequence: {sequence.refusal}")
        if problem := sequence.balances[self.options.balance]:
            balance = next(balance for balance, why_not in sequence.balances.items() if not why_not)
            text = f'"{self.options.balance}" is not supported by {name}: {problem}; use "{balance}"'
            raise SplitError("split.context.balance", text)
        others = {other for other, _ in spec.split.items()} - {self.name, "data"}
        if other := next(iter(sorted(others - _STAGED - {"tensor"})), None):
            text = f"of a model of your own is incompatible with {other}; use it alone or with data, layer, pipeline or tensor"
            raise SplitError("split.context", text)
        if "tensor" in others and sequence.not_sliced:
            raise SplitError("split.context", f"{name} cannot be split by tensor slicing, too: {sequence.not_sliced}")
        if others & _STAGED and not all(attention.block for attention in sequence.attention):
            raise SplitError(
                "split.context",
                f"{name} calls attention outside of its blocks, which every stage would run; use it without stages",
            )
        if spec.train.compile:
            raise SplitError("train.compile", "is not supported with split.context of a model of your own; leave it out")

    @property
    def why_no_generation(self) -> str:
        return "does not support generation, since a new token is a single position; use data, layer, pipeline or tensor"

    @property
    def _num_chunks(self) -> int:
        return self.options.size * (2 if self.options.balance == "zigzag" else 1)

    def position_ranges(self, length: int) -> list[tuple[range, ...]]:
        """Returns for each worker the ranges of positions that it computes, of a sequence of ``length``."""
        size, chunk = self.options.size, length // self._num_chunks
        chunks = [range(start, start + chunk) for start in range(0, length, chunk)]
        if self.options.balance == "zigzag":
            return [(chunks[i], chunks[-1 - i]) for i in range(size)]
        return [(chunk,) for chunk in chunks]

    def place(self, model: ModelSummary, index: int) -> Placement:
        assert model.sequence_length is not None
        size = self.options.size

        def part(shape: tuple[int, ...]) -> tuple[int, ...]:
            return (shape[0] // size, *shape[1:]) if shape else shape  # a user's module has no shapes between its cuts

        def cut(group: LayerGroup) -> LayerGroup:
            if isinstance(group, ModuleSlices):
                return group.of_positions(size)
            assert isinstance(group, ColumnRowPair)
            return replace(group, input_shape=part(group.input_shape), output_shape=part(group.output_shape))

        def cut_block(block: BlockSummary) -> BlockSummary:
            crossing = None if block.crossing is None else tuple(map(part, block.crossing))
            return replace(
                block, output_shape=part(block.output_shape), crossing=crossing, forward_flops=block.forward_flops // size
            )

        blocks = list(map(cut_block, model.blocks))
        groups, length = tuple(map(cut, model.groups)), model.sequence_length // size
        return Placement(replace(model, blocks=tuple(blocks), groups=groups, sequence_length=length))

    def expected(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        """Returns the communication per attention layer, with n workers and s bytes of keys and values at a worker's positions.

        ring: each worker sends n − 1 parts of s forward. Backward it sends the parts again and the partial sums of their
        gradients: 2 (n − 1) sends of s.
        all_gather: keys and values are gathered forward and, since only the local ones are kept, again backward; then their
        gradients are reduce-scattered. The full tensors have n s bytes.

        Activation checkpointing repeats the forward communication in backward.
        """
        n, expected = self.options.size, []
        is_checkpointed = rank_view.spec.train.checkpointing != "none"
        assert rank_view.local_model.sequence_length is not None
        for features, is_recomputed in _key_value_features(rank_view.local_model):
            visits = 2 if is_checkpointed and is_recomputed else 1  # rotations or gathers of keys and values in backward
            part = rank_view.num_samples * rank_view.local_model.sequence_length * features * rank_view.compute_bytes
            if self.options.attention == "ring":
                expected.append(ExpectedCommunication("send", self.axis, "forward", n - 1, part))
                backward = [ExpectedCommunication("send", self.axis, "backward", (visits + 1) * (n - 1), part)]
            else:
                expected.append(ExpectedCommunication("all_gather", self.axis, "forward", 1, n * part, n))
                backward = [ExpectedCommunication("all_gather", self.axis, "backward", visits, n * part, n)]
                backward.append(ExpectedCommunication("reduce_scatter", self.axis, "backward", 1, n * part, n))
            expected += backward if rank_view.trains else []
        return expected if "data" in rank_view.mesh.axes else expected + expected_average(rank_view)

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        import torch

        from workbench.strategies.context.split_attention import split_attention
        from workbench.strategies.context.user_module import LocalPositions

        assert worker.full_model.sequence_length is not None
        workers, position_ranges = mesh[self.axis], self.position_ranges(worker.full_model.sequence_length)
        worker.sequence_part = position_ranges[workers.get_local_rank()]
        positions = torch.tensor(list(chain.from_iterable(worker.sequence_part)), device=worker.device)
        attention_fn = split_attention(self.options.attention, position_ranges, workers.get_group())
        blocks: Any = worker.blocks
        if worker.full_model.sequence is not None:
            for part in (blocks, *worker.stages):
                part.surrounding = functools.partial(LocalPositions, positions, attention_fn)
            for dropout in worker.dropout_keys.dropouts:
                dropout.positions = positions
            return
        for group in worker.rank_view.local_model.groups:
            if group.kind == "attention":
                assert isinstance(group, ColumnRowPair) and group.column is not None
                attention: Any = worker.blocks.get_submodule(group.column.rpartition(".")[0])
                attention.attention_fn = attention_fn
        module: Any
        for module in worker.blocks.modules():
            if getattr(module, "positions", ...) is None:  # those of its input, by default 0, 1, …
                module.positions = positions

    def finish(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        if "data" not in (mesh.mesh_dim_names or ()):  # else the data strategy averages over both
            average_gradients(worker, mesh)


def _key_value_features(model: ModelSummary) -> Iterator[tuple[int, bool]]:
    """Yields the features of keys and values together of each attention layer, and whether checkpointing recomputes it."""
    if model.sequence is not None:
        held = {block.name for block in model.blocks}
        calls = (call for call in model.sequence.attention if not call.block or call.block in held)
        yield from ((call.features, call.is_recomputed) for call in calls)
    shapes = {p.name: p.shape for p in model.parameters}
    for layer in (group for group in model.groups if group.kind == "attention" and model.sequence is None):
        assert isinstance(layer, ColumnRowPair)
        # The column layer makes queries, keys and values; the row layer takes as many features as there are queries.
        yield shapes[f"{layer.column}.weight"][0] - shapes[f"{layer.row}.weight"][1], True
