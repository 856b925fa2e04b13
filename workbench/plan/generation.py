"""Checks whether the model and the split support the generation that a spec requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import SpecError, SplitError

if TYPE_CHECKING:
    from workbench.plan.plan import Plan


def check_generation(plan: Plan) -> None:
    """Rejects a generation that the model or a strategy does not support.

    Raises:
        SpecError: the model cannot generate these tokens; the message includes the numbers.
        SplitError: a strategy does not support generation.
    """
    spec, options, field = plan.spec, plan.spec.inference, "inference.num_new_tokens"
    if not options.num_new_tokens:
        return
    if spec.mode == "train":
        raise SpecError(field, f'{options.num_new_tokens} requires mode = "inference", but mode = "train"')
    if not plan.model.has_cache:
        of = f" with capacity_factor = {capacity}" if (capacity := getattr(spec.model, "capacity_factor", None)) else ""
        raise SpecError(
            field,
            f"{spec.model.name}{of} does not support generation with a key/value cache; use transformer, or moe without"
            " capacity_factor",
        )
    (sequence,) = plan.dataset.summary().input_shape
    prompt, new = options.prompt_length, options.num_new_tokens
    if prompt + new > sequence:
        raise SpecError(
            field,
            f"a prompt of {prompt} and {new} new tokens need {prompt + new} positions, but the model has {sequence};"
            f" generate at most {max(0, sequence - prompt)} tokens, or set dataset.sequence_length = {prompt + new}",
        )
    if spec.train.compile:
        raise SpecError("train.compile", "generation would recompile for every cache length; set it to false")
    for strategy in plan.strategies:
        if reason := strategy.why_no_generation:
            raise SplitError(f"split.{strategy.name}", reason)
