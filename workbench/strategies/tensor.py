"""Tensor slicing: layers are cut along one of their dims, every worker computes a slice of each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.plan.summary import ModelSummary, ParameterSummary, block_of
from workbench.plan.transfer import Transfer
from workbench.registry import unknown
from workbench.spec.options import StrategyOptions
from workbench.strategies.base import Strategy, strategy
from workbench.strategies.slicing import Slicing, slicing_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.share import Share
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel

WHOLE = "none"


class TensorOptions(StrategyOptions):
    cut: dict[str, str] = {}
    """Kind of layers → dim along which they are cut, such as convolution = "rows"; "none": whole on every worker."""


@strategy("tensor")
class TensorStrategy(Strategy[TensorOptions]):
    """Layers cut in slices (Megatron-LM): attention by heads, feed-forward by features, convolutions by channels or rows."""

    Options = TensorOptions
    axis = "tensor"
    apply_order = 1

    @property
    def label(self) -> str:
        return "-".join([f"tp{self.options.size}", *(f"{kind}.{dim}" for kind, dim in sorted(self.options.cut.items()))])

    def _slicings(self, model: ModelSummary) -> list[Slicing[Any]]:
        slicings = []
        for group in model.groups:
            slicing = slicing_of(group)
            dim = self.options.cut.get(group.kind, slicing.dims[0])
            if dim != WHOLE:
                slicings.append(slicing(group, dim, self.options.size))
        return slicings

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        dims = {group.kind: [*slicing_of(group).dims, WHOLE] for group in model.groups}
        for kind, dim in self.options.cut.items():
            if kind not in dims:
                raise SplitError("split.tensor.cut", unknown("kind of layers", kind, sorted(dims)))
            if dim not in dims[kind]:
                raise SplitError(f"split.tensor.cut.{kind}", unknown("dim", dim, dims[kind]))
        slicings = self._slicings(model)
        if not slicings:
            raise SplitError("split.tensor", f"{model.name} names no layers to slice, or all are kept whole")
        for slicing in slicings:
            slicing.check()
        cut = self._cut(model)
        for tie in model.ties:
            if cut.get(tie.parameter) != cut.get(tie.source):
                raise SplitError("split.tensor.cut", f"{tie.parameter} is {tie.source}; cut both alike")
        apart = [s.dim for s in slicings if not s.keeps_block_shapes]
        if apart and {"layer", "pipeline"} & {name for name, _ in spec.split.items()}:
            raise SplitError("split.tensor.cut", f"{apart[0]} leaves parts of activations between blocks; stages need them whole")

    def _cut(self, model: ModelSummary) -> dict[str, int]:
        return {name: dim for slicing in self._slicings(model) for name, dim in slicing.cut().items()}

    def place(self, model: ModelSummary, index: int) -> ModelSummary:
        dims = self._cut(model)

        def cut(parameter: ParameterSummary) -> ParameterSummary:
            if parameter.name not in dims:
                return parameter
            shape, dim = list(parameter.shape), dims[parameter.name]
            shape[dim] //= self.options.size
            return replace(parameter, shape=tuple(shape))

        blocks = [replace(b, parameters=tuple(map(cut, b.parameters))) for b in model.blocks]
        return replace(model, blocks=tuple(blocks))

    def expected(self, model: ModelSummary, share: Share) -> list[Transfer]:
        """What each group of layers says of itself, which every worker of the axis takes part in. Full activation
        checkpointing moves in backward once more what a block moves forward, but for its last layers: recomputing stops
        once the last activation is there that backward needs."""
        transfers = []
        slicings = self._slicings(model)
        for slicing, after in zip(slicings, [*slicings[1:], None], strict=True):
            moved = slicing.transfers(share.num_samples, share.element_bytes, self.axis)
            transfers += [t for t in moved if share.trains or t.phase == "forward"]
            if share.trains and share.spec.train.checkpointing == "full" and after and after.group.block == slicing.group.block:
                transfers += [replace(t, phase="backward") for t in moved if t.phase == "forward"]
        return [replace(t, group_size=self.options.size) for t in transfers]

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        held = dict(worker.blocks.named_children())
        for slicing in self._slicings(worker.summary):
            if slicing.group.block in held:
                slicing.apply(worker.blocks, mesh[self.axis])
        for stage in worker.stages:  # a slicing may put another module in a block's place
            for name in held.keys() & dict(stage.named_children()).keys():
                setattr(stage, name, getattr(worker.blocks, name))
        for tie in worker.summary.ties:
            if {block_of(tie.parameter), block_of(tie.source)} <= set(held):
                # Slicing replaced both; they are one parameter again.
                (layer, attribute), (source, name) = (path.rsplit(".", 1) for path in (tie.parameter, tie.source))
                setattr(worker.blocks.get_submodule(layer), attribute, getattr(worker.blocks.get_submodule(source), name))
