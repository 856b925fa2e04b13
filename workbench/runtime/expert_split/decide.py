"""Decides by computing how one mixture can be divided: what it takes and returns, and what is a sum over its experts."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models.user.state_modules import attributes, changed_attributes
from workbench.plan.expert_split import ExpertMixture, MixtureTensor
from workbench.runtime.expert_split.calls import MixtureCall, batched, copied
from workbench.runtime.expert_split.candidates import Candidate
from workbench.runtime.parity.dropout import without_random_draws
from workbench.runtime.tensor_plan.trial import failure, relative_error
from workbench.strategies.expert.gathered_mixture import StandIn, divide_mixtures
from workbench.strategies.tensor.simulated import LikeOthers, SimulatedMesh
from workbench.torch_private.dispatch import tree_flatten, tree_unflatten

_FEWEST_TOKENS = 64
"""Number of equal rows in the test of capacities: more than any least capacity."""
_MOST_PARTS = 16
"""Largest number of parts of the experts in the test of the sum: what is one over smaller parts is one over larger ones."""


@dataclass(frozen=True)
class Observed:
    """Calls of a mixture in passes of two and of three samples in fp64, and of two in single precision."""

    two: MixtureCall
    three: MixtureCall
    single: MixtureCall


class UndividedError(Exception):
    """A mixture cannot be divided; the message is a clause."""


def decided(
    module: nn.Module, with_dropout: nn.Module, candidate: Candidate, seen: Observed, ways: Sequence[int], rounding: float
) -> ExpertMixture:
    """Returns how a mixture is divided, without the names of its parameters.

    Args:
        module: The mixture, in fp64 and without dropout.
        with_dropout: The same with its dropout.
        ways: Numbers of workers that divide its experts.
        rounding: Largest error that is rounding.

    Raises:
        UndividedError: it cannot be divided.
    """
    module = copy.deepcopy(module)  # whose buffers may change
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():  # as of a low-rank addition before its first step: nothing would depend on it
                parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel(), dtype=parameter.dtype).reshape(parameter.shape))
    mixture = _described(module, candidate, seen)
    if not ways:
        raise UndividedError(f"no number of workers from 2 to 7 divides its {mixture.num_experts} experts")
    if not candidate.is_stacked:
        _check_draws(with_dropout, mixture, seen.two)
    _called(module.train(), seen.two.args, seen.two.kwargs)  # fills caches
    before = attributes(module)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for trains in (True, False):
        _check_samples(module.train(trains), mixture, seen.two, rounding)
    if changed := next((name for name, buffer in module.named_buffers() if not torch.equal(buffer, buffers[name])), ""):
        raise UndividedError(f"it changes its buffer {changed} in the forward pass, which would count the samples of all workers")
    if changed := next(iter(changed_attributes(module, before)), ""):
        raise UndividedError(
            f"it changes its attribute {changed} in the forward pass, which would count the samples of all workers"
        )
    finest = max(size for size in range(2, max(ways[0], _MOST_PARTS) + 1) if mixture.num_experts % size == 0)
    return replace(mixture, returned=_returned(module.train(), mixture, seen, finest, rounding))


def _described(module: nn.Module, candidate: Candidate, seen: Observed) -> ExpertMixture:
    if not candidate.path:
        raise UndividedError("its experts are in the model itself; put router and experts into a module of their own")
    counts = {call.count for call in (seen.two, seen.three, seen.single)}
    if counts != {1}:
        sometimes = "it is not called in every forward pass" if 0 in counts else "it is called more than once in a forward pass"
        raise UndividedError("it is not called" if counts == {0} else sometimes)
    taken = tuple(batched(seen.two.taken, seen.three.taken, seen.single.taken))
    if not any(tensor.has_gradient or tensor.element_bytes is None for tensor in taken):
        raise UndividedError("it takes no tensor with the samples, or their tokens, as dim 0")
    if candidate.is_stacked:
        count = len(next(module.parameters(recurse=False)))
        return ExpertMixture(candidate.path, candidate.experts, (), count, taken, (), 0, _slots(seen.two, taken, count))
    experts = module.get_submodule(candidate.experts.removeprefix(f"{candidate.path}."))
    features = {
        output.shape[-1] if isinstance(x, Tensor) and isinstance(output, Tensor) and x.shape[:-1] == output.shape[:-1] else None
        for x, output in seen.two.expert_outputs
    }
    if len(features) != 1 or None in features:
        raise UndividedError(
            "its code does not call its experts"
            if not features
            else "an expert does not return one tensor with a row for each of its first argument"
        )
    (last,) = features
    assert last is not None
    return ExpertMixture(candidate.path, candidate.experts, (), len(list(experts.children())), taken, (), last)


def _slots(call: MixtureCall, taken: Sequence[MixtureTensor], count: int) -> tuple[int, int, int]:
    """Returns the positions of tokens, indices of experts, and weights."""
    leaves = tree_flatten((call.args, call.kwargs))[0]
    values = {tensor.leaf: leaves[tensor.leaf] for tensor in taken}
    indices = [leaf for leaf, x in values.items() if x.dim() == 2 and not x.is_floating_point() and x.dtype != torch.bool]
    if len(values) == 3 and len(indices) == 1 and values[indices[0]].min() >= 0 and values[indices[0]].max() < count:
        floats = [leaf for leaf, x in values.items() if x.is_floating_point() and x.dim() == 2]
        weights = [leaf for leaf in floats if values[leaf].shape == values[indices[0]].shape]
        tokens = [leaf for leaf in floats if leaf not in weights]
        if len(weights) == len(tokens) == 1:
            return tokens[0], indices[0], weights[0]
    raise UndividedError(
        "its stacked experts do not take tokens (tokens, features), the indices of their experts and their weights, both"
        " (tokens, top_k), with the samples' tokens as dim 0"
    )


def _divided(module: nn.Module, mixture: ExpertMixture, size: int, rank: int) -> nn.Module:
    """Returns a copy of a mixture with the experts of one worker, which communicates nothing."""
    divided = copy.deepcopy(module)
    experts = "" if mixture.slots is not None else mixture.experts.removeprefix(f"{mixture.path}.")
    alone = replace(mixture, path="", experts=experts, taken=(), returned=())
    divide_mixtures(divided, [alone], SimulatedMesh(LikeOthers(size), rank), divided, 0)
    return divided


def _check_draws(module: nn.Module, mixture: ExpertMixture, call: MixtureCall) -> None:
    """Checks that the code besides the experts draws no random numbers, of which each worker would draw others."""
    experts = f"{mixture.experts.removeprefix(f'{mixture.path}.')}."
    without = copy.deepcopy(module).train()
    for expert in without.get_submodule(experts[:-1]).children():
        expert.forward = StandIn(mixture.output_features)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        try:
            without(*copied(call.args), **copied(call.kwargs))
        except Exception as error:
            raise UndividedError(failure(error)) from error
        if not torch.equal(before, torch.get_rng_state()):
            raise UndividedError(
                "its code draws random numbers besides its experts, as noise of the router or dropout: each worker would route"
                " the same token otherwise; move it out of the module"
            )


def _called(module: nn.Module, args: Any, kwargs: Any) -> list[Any]:
    """Returns the values that a mixture returns for copies of these arguments."""
    with torch.no_grad(), without_random_draws():
        try:
            return tree_flatten(module(*copied(args), **copied(kwargs)))[0]
        except Exception as error:
            raise UndividedError(failure(error)) from error


def _check_samples(module: nn.Module, mixture: ExpertMixture, call: MixtureCall, rounding: float) -> None:
    """Checks that what it computes of a token does not depend on other tokens, also if all of them choose the same experts, so
    that a capacity would drop some."""
    leaves, structure = tree_flatten((call.args, call.kwargs))
    rows = len(leaves[mixture.taken[0].leaf])
    times = math.ceil(_FEWEST_TOKENS / rows)
    alike, mixed = list(leaves), list(leaves)
    for tensor in mixture.taken:
        x = leaves[tensor.leaf]
        first = x.reshape(-1, x.shape[-1])[0] if x.dim() > 1 else x[0]
        alike[tensor.leaf] = first.expand(times * rows, *x.shape[1:])
        mixed[tensor.leaf] = x.repeat(times, *[1] * (x.dim() - 1))
    for values in (alike, mixed):
        part = _called(module, *tree_unflatten(values, structure))
        doubled = list(values)
        for tensor in mixture.taken:
            doubled[tensor.leaf] = torch.cat([values[tensor.leaf]] * 2)
        whole = _called(module, *tree_unflatten(doubled, structure))
        for one, two in zip(part, whole, strict=True):
            if not isinstance(one, Tensor):
                continue
            is_batched = one.dim() and two.shape == (2 * len(one), *one.shape[1:])
            if any(relative_error(half, one) > rounding for half in (two.chunk(2) if is_batched else [two])):
                raise UndividedError(
                    "what it returns depends on the other samples of the batch, as with a capacity of its experts or an auxiliary"
                    " loss"
                )


def _returned(module: nn.Module, mixture: ExpertMixture, seen: Observed, size: int, rounding: float) -> tuple[MixtureTensor, ...]:
    """Returns what the mixture returns: sums over the experts, and what it computes without them."""
    returned = {tensor.leaf: tensor for tensor in batched(seen.two.returned, seen.three.returned, seen.single.returned)}
    whole = _called(module, seen.two.args, seen.two.kwargs)
    parts = [_called(_divided(module, mixture, size, rank), seen.two.args, seen.two.kwargs) for rank in range(size)]
    found, num_sums = [], 0
    for leaf, values in enumerate(zip(whole, *parts, strict=True)):
        if not all(isinstance(value, Tensor) and value.shape == values[0].shape for value in values):
            if any(isinstance(value, Tensor) for value in values):
                raise UndividedError("the shapes of what it returns differ between workers")
            continue
        expected, *of_workers = (value.double() for value in values)
        is_sum = relative_error(sum(of_workers[1:], of_workers[0]), expected) <= rounding
        is_equal = all(relative_error(part, expected) <= rounding for part in of_workers)
        if not (is_sum or is_equal):
            which = "" if len(whole) == 1 else f" ({leaf + 1}. of {len(whole)} values)"
            raise UndividedError(
                f"what it returns{which} is not the sum over its experts, as with a shared expert, a residual or a norm inside"
            )
        if is_sum and not is_equal and leaf not in returned:
            raise UndividedError("it returns a sum over its experts without the samples, or their tokens, as dim 0")
        num_sums += is_sum and not is_equal
        if leaf in returned:
            found.append(replace(returned[leaf], is_summed=is_sum and not is_equal))
    if not num_sums:
        raise UndividedError("nothing that it returns depends on its experts")
    return tuple(found)
