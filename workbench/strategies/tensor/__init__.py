"""Tensor slicing: layers are cut along one of their dims, and every worker computes one slice of each."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from workbench.plan.communication import ExpectedCommunication
from workbench.plan.generation import Generation
from workbench.plan.layer_groups import ColumnRowPair, LayerGroup
from workbench.plan.model_summary import BlockSummary, ModelSummary, ParameterSummary, block_of
from workbench.plan.placement import Placement
from workbench.spec.options import StrategyOptions
from workbench.strategies.base import ApplyOrder, Caption, Limiting, Strategy, strategy
from workbench.strategies.tensor.checks import check_tensor
from workbench.strategies.tensor.linear import OutputHeadSlicing
from workbench.strategies.tensor.modules import ModuleSlicing
from workbench.strategies.tensor.slicings import cut_dims, slicings_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.rank_view import RankView
    from workbench.plan.sequence_split import SequenceSplit
    from workbench.spec.run_spec import Inference, RunSpec
    from workbench.strategies.worker_model import WorkerModel


class TensorOptions(StrategyOptions):
    cut: dict[str, str] = {}
    """Dim along which each kind of layer is cut, such as convolution = "rows"; "none" replicates the layers of that kind."""

    sequence_parallel: bool = False
    """Whether norms and residual connections between cut layers are split along the sequence (Korthikanti et al. 2022): less
    activation memory with the same communication volume."""

    parallel_loss: bool = False
    """Whether the cross-entropy is computed from the slices of a head cut by vocabulary (Shoeybi et al. 2019), which communicates
    three numbers per position instead of one per vocabulary entry."""


@strategy("tensor")
class TensorStrategy(Strategy[TensorOptions]):
    """Tensor parallelism: slices layers (Megatron-LM), attention by heads, feed-forward by features, convolutions by channels or
    rows."""

    Options = TensorOptions
    axis = "tensor"
    apply_order = ApplyOrder.TENSORS
    examples = {
        "": {},
        "embedding and head by hidden features": {"cut": {"embedding": "hidden", "head": "hidden"}},
        "embedding and head whole": {"cut": {"embedding": "none", "head": "none"}},
        "head by hidden features": {"cut": {"head": "hidden"}},
        "convolutions by output channels": {"cut": {"convolution": "output_channels"}},
        "convolutions by input channels": {"cut": {"convolution": "input_channels"}},
        "convolutions by rows": {"cut": {"convolution": "rows"}},
        "recurrent layers by hidden features": {"cut": {"recurrent": "hidden"}},
        "loss of slices": {"parallel_loss": True},
    }
    captions = {
        ("tensor", "all_reduce", "forward"): Caption(
            "Each worker has partial sums; an all-reduce adds them up to the whole activation."
        ),
        ("tensor", "all_reduce", "backward"): Caption("An all-reduce adds up the partial gradients of the activations."),
        ("tensor", "all_gather", "forward"): Caption(
            "Each worker has the logits of a part of the vocabulary; the loss needs all of them."
        ),
    }
    lessons = ("lesson.md",)
    lesson_order = 3

    @property
    def label(self) -> str:
        o = self.options
        names = [name for name, is_on in (("sp", o.sequence_parallel), ("loss", o.parallel_loss)) if is_on]
        return "-".join([f"tp{o.size}", *names, *(f"{kind}.{dim}" for kind, dim in sorted(o.cut.items()))])

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        is_limiting = (limit, axis) == ("communication", self.axis)
        return "Try fewer workers along tensor and more along data or pipeline, which communicate less." if is_limiting else ""

    @property
    def why_no_generation(self) -> str:
        if self.options.sequence_parallel:
            return "sequence_parallel does not support generation, since a new token is a single position"
        return (
            "parallel_loss does not support generation, which needs the logits of all tokens"
            if self.options.parallel_loss
            else ""
        )

    def _partial_gradients(self, model: ModelSummary, local_model: ModelSummary) -> list[ParameterSummary]:
        """Returns the replicated parameters of which each worker computes a partial gradient, from its part of the sequence or
        from its part of what a user's module computes with them."""
        summed = {name for s in slicings_of(model, self.options) if isinstance(s, ModuleSlicing) for name in s.group.summed}
        if summed:
            return [p for p in local_model.parameters if p.name in summed]
        cut = {layer for group in model.groups if isinstance(group, ColumnRowPair) for layer in (group.column, group.row)}
        return [p for p in local_model.parameters if self.options.sequence_parallel and p.name.rpartition(".")[0] not in cut]

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        check_tensor(self.options, model, spec)

    def place(self, model: ModelSummary, index: int) -> Placement:
        dims = cut_dims(model, self.options)

        def cut(parameter: ParameterSummary) -> ParameterSummary:
            if parameter.name not in dims:
                return parameter
            shape, dim = list(parameter.shape), dims[parameter.name]
            shape[dim] //= self.options.size
            return replace(parameter, shape=tuple(shape))

        heads = {group.block for group in model.groups if group.kind == "head"}

        def handed_on(block: BlockSummary) -> tuple[int, ...]:
            shape, o = list(block.output_shape), self.options
            if block.name in heads and o.parallel_loss:
                shape[-1] //= o.size
            if block.name not in heads and o.sequence_parallel:
                shape[0] //= o.size
            return tuple(shape)

        blocks = [replace(b, parameters=tuple(map(cut, b.parameters)), output_shape=handed_on(b)) for b in model.blocks]
        norms = [
            replace(n, num_features=n.num_features // self.options.size) if f"{n.path}.weight" in dims else n
            for n in model.batch_norms
        ]
        sequence = model.sequence and self._sequence_of_slices(model, model.sequence)
        return Placement(replace(model, blocks=tuple(blocks), batch_norms=tuple(norms), sequence=sequence))

    def _sequence_of_slices(self, model: ModelSummary, sequence: SequenceSplit) -> SequenceSplit:
        """Returns the attention of a user's module with the heads of one worker."""
        groups = {tuple(part.path for part in s.group.modules) for s in slicings_of(model, self.options)}
        calls = (replace(c, features=c.features // self.options.size) if c.group in groups else c for c in sequence.attention)
        return replace(sequence, attention=tuple(calls))

    def expected(self, model: ModelSummary, rank_view: RankView) -> list[ExpectedCommunication]:
        """Returns the communication of each group of sliced layers; all workers of the axis take part.

        Sequence parallelism adds one all-reduce of the gradients of the replicated parameters between the cut layers. Full
        activation checkpointing repeats the forward communication of a block in backward, except that of its output:
        recomputation stops at the last activation that backward needs. Of a user's module, recomputation was counted, and that
        of ``selective`` repeats the same. Generation has the communication of its forward passes.
        """
        expected = []
        slicings = slicings_of(model, self.options)
        for slicing, next_slicing in zip(slicings, [*slicings, None][1:], strict=True):
            of_group = slicing.expected(rank_view.num_samples, rank_view.compute_bytes, self.axis)
            if rank_view.spec.generates:
                of_group = _expected_of_generation(of_group, slicing.group, model.generation, rank_view.spec.inference)
            expected += [t for t in of_group if rank_view.trains or t.phase == "forward"]
            checkpointing = rank_view.spec.train.checkpointing if rank_view.trains else "none"
            if checkpointing != "none" and isinstance(slicing, ModuleSlicing):
                expected += slicing.expected_of_recomputation(rank_view.num_samples, rank_view.compute_bytes, self.axis)
            elif checkpointing == "full":
                forward = [t for t in of_group if t.phase == "forward"]
                ends_block = next_slicing is None or next_slicing.group.block != slicing.group.block
                repeated = forward[:-1] if ends_block and slicing.communicates_output else forward
                expected += [replace(t, phase="backward") for t in repeated]
            if rank_view.trains and self.options.parallel_loss and isinstance(slicing, OutputHeadSlicing):
                expected += slicing.expected_of_loss(rank_view.num_samples, rank_view.element_bytes, self.axis)
        if rank_view.trains and (with_partial := self._partial_gradients(rank_view.full_model, rank_view.local_model)):
            gradients = sum(p.numel for p in with_partial) * rank_view.element_bytes
            expected.append(ExpectedCommunication("all_reduce", self.axis, "backward", 1, gradients))
        return [replace(t, group_size=self.options.size) for t in expected]

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        if self.options.parallel_loss:
            from workbench.strategies.tensor.vocab_parallel_loss import cross_entropy_of_slices

            worker.loss = partial(cross_entropy_of_slices, mesh=mesh[self.axis])
            worker.classes_part = (mesh.get_local_rank(self.axis), self.options.size)
        local_blocks = dict(worker.blocks.named_children())
        for slicing in slicings_of(worker.full_model, self.options):
            if slicing.group.block in local_blocks:
                slicing.apply(worker.blocks, mesh[self.axis])
                worker.stored_order |= slicing.stored_order
        if self.options.sequence_parallel:
            from workbench.strategies.tensor.sequence_parallel import set_local_positions

            assert worker.full_model.sequence_length is not None
            for dropout in worker.dropout_keys.dropouts:  # all dropouts are between the cut layers
                set_local_positions(dropout, worker.full_model.sequence_length, mesh[self.axis])
        for stage in worker.stages:  # a slicing may replace a block
            for name in local_blocks.keys() & dict(stage.named_children()).keys():
                setattr(stage, name, getattr(worker.blocks, name))
        for names in worker.full_model.tied_names.values():
            # Slicing replaced each parameter of a tie; tie them again.
            paths = [name.rsplit(".", 1) for name in names if block_of(name) in local_blocks]
            for layer, attribute in paths[1:]:
                first = getattr(worker.blocks.get_submodule(paths[0][0]), paths[0][1])
                setattr(worker.blocks.get_submodule(layer), attribute, first)

    def finish(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        if worker.trains and (with_partial := self._partial_gradients(worker.full_model, worker.rank_view.local_model)):
            from workbench.strategies.tensor.sequence_parallel import sum_gradients

            sum_gradients(worker, {p.name for p in with_partial}, mesh[self.axis])


def _expected_of_generation(
    of_group: list[ExpectedCommunication], group: LayerGroup, generation: Generation, options: Inference
) -> list[ExpectedCommunication]:
    """Converts the communication of a pass over full samples into that of generation."""
    sequence = group.output_shape[0] if isinstance(group, ColumnRowPair) else generation.sequence_length
    passes = generation.head_passes(options) if group.kind == "head" else generation.passes(options)
    return [replace(t, count=t.count * n, payload_bytes=t.payload_bytes // sequence * p) for t in of_group for p, n in passes]
