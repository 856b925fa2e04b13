"""Tensor slicing: pairs of layers are cut along their feature dims, every worker computes a slice of each."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, cast

from workbench.errors import SplitError
from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.summary import ModelSummary, ParameterSummary
from workbench.plan.transfer import Transfer
from workbench.spec.options import StrategyOptions
from workbench.strategies.base import Strategy, strategy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import ParallelStyle

    from workbench.plan.share import Share
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel


class TensorOptions(StrategyOptions):
    pass


@strategy("tensor")
class TensorStrategy(Strategy[TensorOptions]):
    """Column/row pairs cut by DTensor (Megatron-LM): attention by heads, feed-forward by features, vocabulary by entries."""

    Options = TensorOptions
    axis = "tensor"
    apply_order = 1

    @property
    def label(self) -> str:
        return f"tp{self.options.size}"

    @staticmethod
    def _pairs(model: ModelSummary) -> list[ColumnRowPair]:
        return [group for group in model.groups if isinstance(group, ColumnRowPair)]

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        size = self.options.size
        if not self._pairs(model):
            raise SplitError("split.tensor", f"{model.name} names no column/row pairs to slice")
        for pair in self._pairs(model):
            if pair.width % size:
                raise SplitError(
                    "split.tensor.size",
                    f"{pair.width} {pair.width_name} of {pair.column or pair.row} over {size} workers leaves"
                    f" {pair.width % size} over; use a size that divides {pair.width}",
                )

    def place(self, model: ModelSummary, index: int) -> ModelSummary:
        cut_dim: dict[str, int] = {}
        for pair in self._pairs(model):
            if pair.column:
                cut_dim |= {f"{pair.column}.weight": 0, f"{pair.column}.bias": 0}
            if pair.row:
                # nn.Embedding's weight is (vocabulary, hidden), nn.Linear's (out, in): rows are cut by what is summed over.
                cut_dim[f"{pair.row}.weight"] = 1 if pair.column else 0

        def cut(parameter: ParameterSummary) -> ParameterSummary:
            if parameter.name not in cut_dim:
                return parameter
            shape, dim = list(parameter.shape), cut_dim[parameter.name]
            shape[dim] //= self.options.size
            return replace(parameter, shape=tuple(shape))

        blocks = [replace(b, parameters=tuple(map(cut, b.parameters))) for b in model.blocks]
        return replace(model, blocks=tuple(blocks))

    def expected(self, model: ModelSummary, share: Share) -> list[Transfer]:
        """A pair costs one all-reduce of its output forward and one of its input's gradient backward; a row layer alone
        (the embedding) only the first; a column layer alone (the head) an all-gather of its output instead."""
        unit, size = share.num_samples * share.element_bytes, self.options.size
        transfers = []
        for pair in self._pairs(model):
            forward = "all_reduce" if pair.row else "all_gather"
            transfers.append(Transfer(forward, self.axis, "forward", 1, unit * prod(pair.output_shape), size))
            if pair.column and share.trains:
                transfers.append(Transfer("all_reduce", self.axis, "backward", 1, unit * prod(pair.input_shape), size))
        return transfers

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        layers = dict(worker.blocks.named_modules())
        plan: dict[str, ParallelStyle] = {}
        for pair in self._pairs(worker.summary):
            if pair.column:
                plan[pair.column] = ColwiseParallel(output_layouts=None if pair.row else Replicate())
            if pair.row:
                plan[pair.row] = RowwiseParallel(input_layouts=None if pair.column else Replicate())
        held = [t for t in worker.summary.ties if {t.parameter.rsplit(".", 1)[0], t.source.rsplit(".", 1)[0]} <= set(layers)]
        tied = {t: layers[t.source.rsplit(".", 1)[0]] for t in held}
        parallelize_module(worker.blocks, mesh[self.axis], {path: style for path, style in plan.items() if path in layers})
        for pair in self._pairs(worker.summary):
            if pair.column is None and pair.row in layers:
                layers[pair.row].weight.register_post_accumulate_grad_hook(_keep_own_slice)
        for tie, source in tied.items():  # slicing replaced both; they are one parameter again
            layers[tie.parameter.rsplit(".", 1)[0]].weight = source.weight


def _keep_own_slice(parameter: DTensor) -> None:
    """DTensor leaves an embedding's gradient whole on every worker (torch 2.13); each needs its slice of it."""
    gradient = cast("DTensor", parameter.grad)
    parameter.grad = gradient.redistribute(placements=parameter.placements)
