"""Resolves a spec to a plan and rejects unsupported combinations, by arithmetic, before anything starts."""

from __future__ import annotations

import os
from itertools import pairwise
from shutil import which

from workbench.errors import SpecError, SplitError, UsageError
from workbench.messages import counted
from workbench.plan.layer_groups import RecurrentLayer
from workbench.plan.link_model import check_link
from workbench.plan.mesh import AXES, Mesh
from workbench.plan.model_summary import ModelSummary, with_ends_of_backward, with_resolved_ties
from workbench.plan.optimizer import check_optimizer
from workbench.plan.plan import Plan
from workbench.registry import DATASETS, MODELS, STRATEGIES
from workbench.spec.run_spec import RunSpec


def plan(spec: RunSpec) -> Plan:
    """Looks up the plugins that a spec names and checks that they work together.

    Raises:
        SpecError: the model does not accept the dataset, or options of the run are incompatible with it.
        SplitError: the split is incompatible with the model, batch size or hardware; the message includes the numbers.
        UsageError: the argument is not a RunSpec.
    """
    if not isinstance(spec, RunSpec):
        raise UsageError(f"requires a RunSpec, but got {spec!r}")
    dataset = DATASETS.get(spec.dataset.name)(spec.dataset)
    model = MODELS.get(spec.model.name)(spec.model, dataset.summary())
    strategies = [STRATEGIES.get(name)(options) for name, options in spec.split.items()]
    strategies.sort(key=lambda s: s.apply_order)
    own_axis = [s for s in strategies if not s.divides_axis]
    for first, second in pairwise(sorted(own_axis, key=lambda s: s.axis)):
        if first.axis == second.axis:
            raise SplitError("split", f"{first.name} and {second.name} both use the {first.axis} axis; use only one of them")
    sizes = {s.axis: s.options.size for s in sorted(strategies, key=lambda s: not s.divides_axis)}
    axes = dict.fromkeys((*AXES, *(s.axis for s in strategies)))  # other axes inside the built-in ones, in order of application
    mesh = Mesh({axis: sizes[axis] for axis in axes if axis in sizes})
    if hasattr(model, "is_sliced"):
        model.is_sliced, model.has_context = "tensor" in mesh.axes, "context" in mesh.axes
        model.has_experts = any(name == "expert" for name, _ in spec.split.items())
    model.generates = spec.generates
    full_model = with_ends_of_backward(with_resolved_ties(model.summary()))
    result = Plan(spec, dataset, model, tuple(strategies), full_model, mesh)
    is_endless = dataset.summary().is_streamed and not dataset.summary().num_samples
    if dataset.summary().num_samples < spec.train.global_batch_size and not is_endless:
        raise SplitError(
            "train.global_batch_size",
            f"{spec.train.global_batch_size} exceeds the {dataset.summary().num_samples} samples of the dataset"
            f" {spec.dataset.name}",
        )
    _check_trained(spec, result.full_model)
    for strategy in strategies:
        strategy.check(result.full_model, spec)
    _check_generation(result)
    check_optimizer(result)
    _check_mixed_precision(result)
    if spec.train.checkpointing == "selective" and any(isinstance(group, RecurrentLayer) for group in result.full_model.groups):
        # Measured with torch 2.13: a GRU's gradients are off by half their norm, an LSTM raises.
        raise SpecError(
            "train.checkpointing", f"{spec.model.name} has recurrent layers, which selective does not support; use full"
        )
    if spec.train.compile and not any(map(which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise SpecError("train.compile", "torch.compile requires a C++ compiler, but c++, g++ and clang++ were not found")
    check_link(result)
    return result


def _check_trained(spec: RunSpec, model: ModelSummary) -> None:
    """Rejects training without a parameter to update."""
    if spec.mode != "train" or model.trained_parameters:
        return
    problem = "has no parameters; "
    if model.parameters:
        number = counted(len(model.distinct_parameters), "parameter")
        problem = f"has {number}, all of them frozen or unused; unfreeze one with requires_grad_(), or "
    raise SpecError("model.name", f'{model.name} {problem}set mode = "inference"')


def _check_generation(plan: Plan) -> None:
    """Rejects a generation that the model or a strategy does not support."""
    spec, options, field = plan.spec, plan.spec.inference, "inference.num_new_tokens"
    if not options.num_new_tokens:
        return
    if spec.mode == "train":
        raise SpecError(field, f'{options.num_new_tokens} requires mode = "inference", but mode = "train"')
    if reason := plan.model.why_no_generation:
        raise SpecError(field, reason)
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


def _check_mixed_precision(plan: Plan) -> None:
    """Rejects options that are incompatible with mixed precision."""
    spec, train, field = plan.spec, plan.spec.train, "train.mixed_precision"
    if train.mixed_precision == "none":
        return
    if train.precision != "fp32":
        raise SpecError(
            field,
            f"bf16 requires train.precision = 'fp32', but precision = {train.precision!r};"
            " set train.precision = fp32, or remove mixed_precision",
        )
    if spec.mode == "inference":
        raise SpecError(field, 'bf16 requires mode = "train": inference has no optimizer; use train.precision = bf16')
    if train.compile:
        raise SpecError(
            field, "bf16 is incompatible with train.compile: torch.compile does not see the parameter copies; use one of them"
        )
