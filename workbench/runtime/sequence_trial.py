"""Tries whether a user's module computes a part of the positions of each sequence, given the keys and values of all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from workbench.models.dropout_modules import SubstituteDropout, substitute_dropout
from workbench.models.user.module_model import ModuleModel
from workbench.models.user.outputs_modules import main_output
from workbench.models.user.samples_modules import Samples
from workbench.models.user.structure_modules import WHOLE, Structure
from workbench.plan.batch_modules import call
from workbench.plan.model_summary import ModelSummary
from workbench.plan.sequence_split import AttentionCall, SequenceSplit
from workbench.plan.tensor_plan import ModuleSlices
from workbench.runtime.parity.dropout import without_random_draws
from workbench.runtime.parity.lower_precision import LowerPrecision
from workbench.runtime.tensor_plan.decide import ways
from workbench.runtime.tensor_plan.of_model import MOST_PARAMETERS
from workbench.strategies.context import ContextOptions, ContextStrategy
from workbench.strategies.context.user_module import LocalPositions, UnsplitAttentionError
from workbench.strategies.tensor.simulated import LikeOthers, SimulatedMesh
from workbench.strategies.tensor.sliced_modules import cut_modules
from workbench.torch_private.modules import AnyDropout

_NUM_WORKERS, _SAMPLES = 2, 2
_ROUNDING, _LOWER_ROUNDING = 1e-9, 1e-6
"""Allowed relative error in fp64, and where something computes in fewer bits."""
BALANCES = ("zigzag", "contiguous")


def sequence_split_of(
    model: ModuleModel[Any], structure: Structure | None, summary: ModelSummary, groups: Sequence[ModuleSlices] = ()
) -> SequenceSplit:
    """Returns how the sequence of a model can be split over workers: each of two, one after the other, runs the module's own code
    on its positions and attends to the keys and values of the whole sequence, and must return the outputs of the whole.

    Args:
        groups: Of the tensor plan, if there is one.
    """
    if problem := _unsuitable(model, summary):
        return SequenceSplit(problem)
    torch.manual_seed(0)
    root = substitute_dropout(model.build()).double().train()
    for module in root.modules():
        if isinstance(module, AnyDropout | SubstituteDropout):
            module.eval()
    tokens = Samples(model.data, "cpu").inputs(_SAMPLES)
    tokens = tokens[:, : tokens.shape[1] // (2 * _NUM_WORKERS) * 2 * _NUM_WORKERS]
    keys_and_values, calls, turns = list[tuple[Tensor, Tensor]](), list[AttentionCall](), _Turns(root, structure, groups)

    def recorded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys_and_values.append((k, v))
        calls.append(AttentionCall(k.shape[1] * k.shape[3] * 2, turns.block, turns.is_inside, turns.group))
        return _causal(q, k, v, torch.arange(q.shape[-2]))

    precision = LowerPrecision(root)
    try:
        with turns, precision:
            whole = _outputs(root, tokens, torch.arange(tokens.shape[1]), recorded)
    except UnsplitAttentionError as error:
        return SequenceSplit(str(error))
    allowed = _LOWER_ROUNDING if precision.cause else _ROUNDING
    problems = {balance: _problem(root, tokens, whole.detach(), keys_and_values, balance, allowed) for balance in BALANCES}
    if all(problems.values()):
        return SequenceSplit(problems[BALANCES[-1]])
    not_sliced = _slicing_problem(root, tokens, groups, calls)
    return SequenceSplit("", tuple(calls), _cuts(structure), not_sliced, problems)


def _slicing_problem(root: nn.Module, tokens: Tensor, groups: Sequence[ModuleSlices], calls: Sequence[AttentionCall]) -> str:
    """Returns why the keys and values of slices are not those heads of the whole that the calls note, a clause."""
    for size in {ways(group.units)[0] for group in groups}:
        cut, features = [group for group in groups if group.units % size == 0], list[int]()

        def recorded(q: Tensor, k: Tensor, v: Tensor, features: list[int] = features) -> Tensor:
            features.append(k.shape[1] * k.shape[3] * 2)
            return _causal(q, k, v, torch.arange(q.shape[-2]))

        sliced, mesh = copy.deepcopy(root), SimulatedMesh(LikeOthers(size), 0)
        cut_modules(sliced, cut, partial(_same, mesh))
        try:
            with torch.no_grad():
                _outputs(sliced, tokens, torch.arange(tokens.shape[1]), recorded)
        except UnsplitAttentionError as error:
            return str(error)
        paths = {tuple(part.path for part in group.modules) for group in cut}
        if features != [call.features // (size if call.group in paths else 1) for call in calls]:
            return "its attention computes with other heads than the layers around it"
    return ""


def _cuts(structure: Structure | None) -> tuple[str, ...]:
    """Returns the names of the blocks after which stages may end."""
    if structure is None:
        return ()
    cuts = sorted(structure.cut_points)
    return tuple(structure.blocks[cut].name for cut in cuts if all(map(structure.has_positions, structure.carry(cut))))


class _Turns(ExitStack):
    """Notes, while the module runs, in whose turn it is: the block, and the group of a tensor plan, from its columns to its
    rows."""

    def __init__(self, root: nn.Module, structure: Structure | None, groups: Sequence[ModuleSlices]) -> None:
        super().__init__()
        self.group: tuple[str, ...] = ()
        for group in groups:
            paths = tuple(part.path for part in group.modules)
            for part in group.modules:
                if part.style in ("column", "row"):
                    begun = paths if part.style == "column" else ()
                    module = root.get_submodule(part.path)
                    self.callback(module.register_forward_pre_hook(partial(self._begin, begun)).remove)
        self.block, self.is_inside = (WHOLE, True) if structure is None else ("", False)
        for index, path in enumerate(structure.units if structure else ()):
            assert structure is not None
            block = next(block for block in structure.blocks if block.last_unit >= index and not block.parameters)
            unit = root.get_submodule(path)
            self.callback(unit.register_forward_pre_hook(partial(self._set, block.name, block.path == path)).remove)
            self.callback(unit.register_forward_hook(partial(self._set, "", False)).remove)

    def _begin(self, group: tuple[str, ...], *args: Any) -> None:
        self.group = group

    def _set(self, block: str, is_inside: bool, *args: Any) -> None:
        self.block, self.is_inside = block, is_inside


def _unsuitable(model: ModuleModel[Any], summary: ModelSummary) -> str:
    """Returns why the trial does not apply, a clause."""
    if model.data.kind != "tokens" or model.data.inputs or model.data.has_numbers:
        return "its samples are not sequences of tokens with a target each"
    if summary.loss_reduction is not None:
        return "it computes the loss itself, of targets at other positions"
    if summary.batch_norms:
        return "its batch norms use the statistics of all positions"
    if model.data.input_shape[0] < 2 * _NUM_WORKERS:
        return f"its sequences have {model.data.input_shape[0]} positions"
    if summary.num_parameters > MOST_PARAMETERS:
        return f"its {summary.num_parameters:,} parameters are more than {MOST_PARAMETERS:,}, up to which this is tried"
    return ""


def _problem(
    root: nn.Module, tokens: Tensor, whole: Tensor, keys_and_values: list[tuple[Tensor, Tensor]], balance: str, allowed: float
) -> str:
    """Returns why the parts of two workers are not those of the whole, a clause; empty if they are."""
    strategy = ContextStrategy(ContextOptions.model_validate({"size": _NUM_WORKERS, "balance": balance}))
    for ranges in strategy.position_ranges(tokens.shape[1]):
        positions = torch.tensor(list(chain.from_iterable(ranges)))
        attend = _Attention(positions, keys_and_values)
        try:
            with torch.no_grad():
                part = _outputs(root, tokens[:, positions], positions, attend)
        except UnsplitAttentionError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever the user's code does with another length
            return (
                f"it fails on a part of the positions: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
        if part.shape != whole[:, positions].shape:
            return "its outputs are not one for each position"
        difference = float((part - whole[:, positions]).norm() / whole.norm())
        if not difference <= allowed:
            return (
                "something besides causal scaled_dot_product_attention depends on other positions, or on the number of a position"
                f" that is not made by torch.arange: the outputs of a part of them differ by {difference:.1e}"
            )
    return ""


def _same(mesh: SimulatedMesh, group: ModuleSlices) -> SimulatedMesh:
    return mesh


class _Attention:
    """Attention of queries at some positions to the recorded keys and values of each call."""

    def __init__(self, positions: Tensor, keys_and_values: list[tuple[Tensor, Tensor]]) -> None:
        self.positions, self._calls = positions, iter(keys_and_values)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for keys, values in self._calls:
            if keys[:, :, self.positions].shape == k.shape:
                return _causal(q, keys, values, self.positions)
            break
        raise UnsplitAttentionError("it calls attention otherwise for a part of the positions")


def _outputs(root: nn.Module, tokens: Tensor, positions: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    with without_random_draws(), LocalPositions(positions, attention):
        output: Tensor = main_output(call(root, tokens))
    return output


def _causal(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
    """Returns the attention of the queries at these positions to the keys at all."""
    mask = positions[:, None] >= torch.arange(k.shape[-2])
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
