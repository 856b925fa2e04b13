"""What workers hold and communicate of the mixtures of a user's module, whose tokens are gathered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench.errors import SplitError
from workbench.plan.communication import ExpectedCommunication
from workbench.plan.placement import Placement

if TYPE_CHECKING:
    from workbench.plan.expert_split import ExpertMixture, ExpertSplit
    from workbench.plan.model_summary import BlockSummary, ModelSummary, ParameterSummary
    from workbench.plan.rank_view import RankView
    from workbench.spec.run_spec import RunSpec


def check_user_module(name: str, split: ExpertSplit, spec: RunSpec) -> None:
    """Rejects what a user's module does not support.

    Raises:
        SplitError: the message has the mixture and the reason.
    """
    problem = split.problems if getattr(spec.model, "mixtures", ()) else split.refusal
    if problem:
        raise SplitError("split.expert", f"the experts of {name} cannot be divided: {problem}")
    if other := next((other for other, _ in spec.split.items() if other not in ("expert", "data")), None):
        raise SplitError("split.expert", f"of a model of your own is incompatible with {other}; use it alone or with data")
    if spec.train.checkpointing != "none" or spec.train.compile:
        option = "compile" if spec.train.compile else "checkpointing"
        raise SplitError(f"train.{option}", "is not supported with split.expert of a model of your own; leave it out")


def place_mixtures(model: ModelSummary, mixtures: Sequence[ExpertMixture], size: int, index: int) -> Placement:
    """Returns what worker ``index`` of a group of ``size`` holds: its experts, and everything else."""
    own, stacked, divided = set[str](), set[str](), set[str]()
    for mixture in mixtures:
        divided.update(name for names in mixture.parameters for name in names)
        if mixture.slots is not None:
            stacked.update(mixture.parameters[0])
            continue
        count = mixture.num_experts // size
        own.update(name for names in mixture.parameters[index * count : (index + 1) * count] for name in names)

    def cut(block: BlockSummary) -> Iterator[ParameterSummary]:
        for parameter in block.parameters:
            if parameter.name in stacked:
                count, *shape = parameter.shape
                yield replace(parameter, shape=(count // size, *shape), is_replicated=False)
            elif parameter.name in own:
                yield replace(parameter, is_replicated=False)
            elif parameter.name not in divided:
                yield parameter

    return Placement(replace(model, blocks=tuple(replace(block, parameters=tuple(cut(block))) for block in model.blocks)))


def expected_of_mixtures(
    mixtures: Sequence[ExpertMixture], axis: str, size: int, rank_view: RankView
) -> Iterator[ExpectedCommunication]:
    """Yields the collectives of each mixture and microbatch: what it takes is all-gathered and the sums over experts that it
    returns are reduce-scattered; backward their gradients the other way round. The full tensors have the samples of all
    ``size`` workers (Megatron Core, ``MoEAllGatherTokenDispatcher``)."""
    count = rank_view.num_microbatches
    samples = size * rank_view.num_samples // count
    for mixture in mixtures:
        summed = [tensor for tensor in mixture.returned if tensor.is_summed]
        for tensors, forward, backward in (
            (mixture.taken, "all_gather", "reduce_scatter"),
            (summed, "reduce_scatter", "all_gather"),
        ):
            for tensor in tensors:
                payload = samples * tensor.elements * (tensor.element_bytes or rank_view.compute_bytes)
                yield ExpectedCommunication(forward, axis, "forward", count, payload, size)
                if rank_view.trains and tensor.has_gradient:
                    yield ExpectedCommunication(backward, axis, "backward", count, payload, size)
