"""Finds how a user's module generates tokens, by generating some on one worker and in two stages."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.models.user.decoder_modules import CachedDecoder, WindowDecoder, cache_argument, scores_last
from workbench.models.user.outputs_modules import Result, main_output
from workbench.models.user.samples_modules import Samples
from workbench.models.user.stage_modules import UserBlocks, WholeModule
from workbench.models.user.structure_modules import Structure
from workbench.models.user.summary_modules import modules_of_blocks
from workbench.plan.batch_modules import call
from workbench.plan.generation import Generation

if TYPE_CHECKING:
    from workbench.data.base import DatasetSummary

_NO_ARGUMENT = "the module's forward takes no cache of Transformers"
_TOLERANCE = 1e-6
"""Largest error of scores that is rounding, of a module in fp64 with operations in fp32 inside."""
_NUM_CUTS = 6
"""Number of cuts that are tried; all, if one of them cannot generate."""
_NUM_TOKENS = 3
"""Number of tokens that are scored, the first after a prompt of all others."""


def generation_of(
    root: nn.Module, structure: Structure | None, data: DatasetSummary, result: Result, *, is_tried: bool = True
) -> Generation:
    """Returns how a module generates tokens. On torch's ``meta`` device, which has no values, nothing is tried.

    Args:
        root: the module, on the CPU or on ``meta``.
        is_tried: Whether it is small enough to be copied and tried.
    """
    if data.kind != "tokens" or data.target != "next":
        return Generation(refusal="generation requires a dataset of tokens whose targets are the next ones, such as text")
    device = next((p.device.type for p in root.parameters()), "cpu")
    if device != "meta" and not is_tried:
        no_cache = "" if cache_argument(root) else _NO_ARGUMENT
        return Generation("", no_cache, data.input_shape[0], not no_cache and scores_last(root))
    with torch.no_grad():
        return _found(copy.deepcopy(root).double().eval(), structure, Samples(data, device).inputs(2), result)


def _found(root: nn.Module, structure: Structure | None, tokens: Tensor, result: Result) -> Generation:
    scores, length = main_output(call(root, tokens)), tokens.shape[1]
    if scores.dim() != 3 or scores.shape[:2] != tokens.shape:
        shape = tuple(scores.shape[1:])
        return Generation(
            refusal=f"returns outputs of shape {shape} for a sample of {length} tokens, not the scores of each position"
        )
    whole = _blocks(root, structure, result)
    no_cache = _why_no_cache(whole, tokens, scores)
    found = Generation(no_cache=no_cache, sequence_length=length, scores_last=not no_cache and scores_last(root))
    if tokens.is_meta:
        return found
    if no_cache and (reason := _why_not_causal(root, tokens, scores)):
        return Generation(refusal=reason)
    if structure is None:
        return found
    cuts = sorted(structure.cut_points)
    some = {cuts[index * (len(cuts) - 1) // (_NUM_CUTS - 1)] for index in range(_NUM_CUTS)}
    reasons = {cut: _why_not_staged(whole, structure, cut, found, tokens, scores) for cut in sorted(some)}
    if any(reasons.values()):  # then each is tried
        reasons |= {
            cut: _why_not_staged(whole, structure, cut, found, tokens, scores) for cut in structure.cut_points - reasons.keys()
        }
    not_staged = tuple((structure.blocks[cut].name, reason) for cut, reason in sorted(reasons.items()) if reason)
    return replace(found, not_staged=not_staged)


def _blocks(root: nn.Module, structure: Structure | None, result: Result) -> UserBlocks | WholeModule:
    modules = OrderedDict(modules_of_blocks(root, structure))
    blocks = WholeModule(modules, result) if structure is None else UserBlocks(modules, root, structure, result)
    blocks.eval()
    return blocks


def _why_no_cache(blocks: UserBlocks | WholeModule, tokens: Tensor, scores: Tensor) -> str:
    """Returns why a module does not use a cache; empty if it does."""
    if cache_argument(blocks.code) is None:
        return _NO_ARGUMENT
    if tokens.is_meta:
        return ""
    try:
        is_equal = _decodes([CachedDecoder(blocks)], tokens, scores)
    except Exception as error:  # noqa: BLE001 - the user's code
        return f"with one the module fails: {_first_line(error)}"
    return "" if is_equal else "with one the module computes other scores"


def _why_not_causal(root: nn.Module, tokens: Tensor, scores: Tensor) -> str:
    """Returns why the scores of the first positions are not those of a window whose later tokens are unknown."""
    first = max(1, tokens.shape[1] // 2)
    changed = torch.cat([tokens[:, :first], tokens[:, first:].roll(1, 0)], dim=1)
    if _is_close(main_output(call(root, changed))[:, :first], scores[:, :first]):
        return ""
    return "the scores of a position depend on later tokens, which a generation does not have"


def _why_not_staged(
    whole: UserBlocks | WholeModule, structure: Structure, cut: int, generation: Generation, tokens: Tensor, scores: Tensor
) -> str:
    """Returns why the module does not generate in two stages, cut after a block; empty if it does."""
    assert isinstance(whole, UserBlocks)
    names = [block.name for block in structure.blocks]
    try:
        parts = [whole.part(part).eval() for part in (names[: cut + 1], names[cut + 1 :])]
        if generation.no_cache:
            decoders: list[Any] = [WindowDecoder(part, tokens.shape[1], _prompt_length(tokens)) for part in parts]
        else:
            decoders = [CachedDecoder(part) for part in parts]
        is_equal = _decodes(decoders, tokens, scores)
    except Exception as error:  # noqa: BLE001 - the user's code
        return f"cut after {structure.blocks[cut].path}, the module fails: {_first_line(error)}"
    return (
        "" if is_equal else f"cut after {structure.blocks[cut].path}, it computes other scores without the values of the tokens"
    )


def _decodes(decoders: Sequence[Callable[..., Any]], tokens: Tensor, scores: Tensor) -> bool:
    """Whether stages that get a prompt and then tokens one after the other compute the scores of one pass over all."""
    start = 0
    for end in range(_prompt_length(tokens), tokens.shape[1] + 1):
        x: Any = tokens[:, start:end]
        for decoder in decoders:
            x = decoder(*(x if isinstance(x, tuple) else (x,)))
        if not _is_close(x, scores[:, end - 1 : end]):
            return False
        start = end
    return True


def _prompt_length(tokens: Tensor) -> int:
    return max(1, tokens.shape[1] + 1 - _NUM_TOKENS)


def _is_close(some: Tensor, others: Tensor) -> bool:
    return some.shape == others.shape and float((some - others).norm()) <= _TOLERANCE * float(others.norm())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
