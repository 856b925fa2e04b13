"""Describes the optimizer without torch: its options, parameter groups, learning rate of each step and state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from workbench.errors import SpecError, SplitError
from workbench.messages import listed
from workbench.registry import is_source

if TYPE_CHECKING:
    from workbench.plan.model_summary import ModelSummary, ParameterSummary
    from workbench.plan.plan import Plan
    from workbench.spec.train import Train

_CLASSES = {"sgd": "SGD", "momentum": "SGD", "adam": "Adam", "adamw": "AdamW"}
_MOMENTUM = {"sgd": 0.0, "momentum": 0.9}
_ADAM = ("adam", "adamw")


def optimizer_options(train: Train) -> dict[str, Any]:
    """Returns the keyword arguments of the optimizer's class in ``torch.optim``; torch's defaults where the spec has none."""
    decay = train.weight_decay
    options: dict[str, Any] = {"lr": train.learning_rate, "weight_decay": _default_decay(train) if decay is None else decay}
    assert not is_source(train.optimizer), "the options of a user's own optimizer are its own"
    if train.optimizer in _ADAM:
        return {**options, "betas": train.betas or (0.9, 0.999), "eps": train.epsilon or 1e-8}
    return {**options, "momentum": _MOMENTUM[train.optimizer] if train.momentum is None else train.momentum}


def optimizer_class(train: Train) -> str:
    """Returns the name of the optimizer's class in ``torch.optim``."""
    return _CLASSES[train.optimizer]


def decays(train: Train, parameter: ParameterSummary) -> bool:
    """Returns whether weight decay applies to a parameter of the unsplit model.

    Without ``decay_norms_and_biases`` it applies to parameters of two or more dims that are not called ``bias`` (Radford et
    al. 2018, section 4.1; the biases of stacked experts have two dims).
    """
    is_bias = parameter.name.rpartition(".")[2].startswith("bias")
    return train.decay_norms_and_biases or (len(parameter.shape) >= 2 and not is_bias)


def learning_rate_factor(train: Train, step: int) -> float:
    """Returns the factor of ``learning_rate`` at a step, counted from 0 over all steps of a run.

    Warm-up is linear, (step + 1) / num_lr_warmup_steps (Goyal et al. 2017, section 2.2). With t, the part of the decay's
    steps that are over, and m, the minimum ratio, follows 1, m + (1 − m)(1 − t) or m + (1 − m)(1 + cos πt) / 2 (Loshchilov
    and Hutter 2017, eq. 5).
    """
    if step < train.num_lr_warmup_steps:
        return (step + 1) / train.num_lr_warmup_steps
    if train.lr_schedule == "constant":
        return 1.0
    over = min(1.0, (step - train.num_lr_warmup_steps) / _num_decay_steps(train))
    remaining = 1 - over if train.lr_schedule == "linear" else (1 + math.cos(math.pi * over)) / 2
    return train.min_lr_ratio + (1 - train.min_lr_ratio) * remaining


def optimizer_state_bytes(plan: Plan, updated: ModelSummary) -> int | None:
    """Returns the bytes of the optimizer's state of these parameters: per element two moments in Adam (Kingma and Ba 2015) or a
    momentum, and per parameter torch's step count, a float. None if the state of a user's own optimizer is not known."""
    size, parameters, own = plan.spec.train.element_bytes, updated.distinct_parameters, plan.user_optimizer
    if own is not None:
        state = own.found.state
        if state is None:
            return None
        sources = {name: source for source, names in plan.full_model.tied_names.items() for name in names}
        held = [(p, *state.get(sources.get(p.name, p.name), (0, 0))) for p in parameters]
        return sum(round(elements * p.numel) * size + more for p, elements, more in held)
    elements, more = (2, 4) if plan.spec.train.optimizer in _ADAM else (optimizer_options(plan.spec.train)["momentum"] > 0, 0)
    return elements * size * sum(p.numel for p in parameters) + more * len(parameters)


def optimizer_text(train: Train) -> str:
    """Returns the optimizer with all its options in one line."""
    is_own = is_source(train.optimizer)
    options: dict[str, Any] = train.optimizer_options if is_own else optimizer_options(train)
    parts = [f"learning rate {options.get('lr', train.learning_rate):g}"]
    if train.num_lr_warmup_steps:
        parts.append(f"linear warm-up over {train.num_lr_warmup_steps} steps")
    if train.lr_schedule != "constant":
        parts.append(
            f"then {train.lr_schedule} decay to {train.min_lr_ratio:g} × learning rate over {_num_decay_steps(train)} steps"
        )
    if is_own:
        others = [f"{name} {value}" for name, value in options.items() if name != "lr"]
        return ", ".join([train.optimizer, *parts, *others])
    parts += [f"betas {', '.join(f'{beta:g}' for beta in options['betas'])}"] if "betas" in options else []
    parts += [f"epsilon {options['eps']:g}"] if "eps" in options else []
    parts += [f"momentum {options['momentum']:g}"] if options.get("momentum") else []
    if options["weight_decay"]:
        of = "" if train.decay_norms_and_biases else " (except norms and biases)"
        parts.append(f"weight decay {options['weight_decay']:g}{of}")
    return f"{optimizer_class(train)}, {', '.join(parts)}"


def check_optimizer(plan: Plan) -> None:
    """Rejects options that the optimizer or the learning-rate schedule does not take.

    Raises:
        SpecError: such an option, or a schedule without steps to decay over.
    """
    train = plan.spec.train
    _check_user_optimizer(plan)
    taken_by = {
        "betas": (train.betas is not None, _ADAM),
        "epsilon": (train.epsilon is not None, _ADAM),
        "momentum": (train.momentum is not None, tuple(_MOMENTUM)),
    }
    for option, (is_given, optimizers) in taken_by.items():
        if is_given and train.optimizer not in optimizers:
            raise SpecError(
                f"train.{option}",
                f"got {getattr(train, option)}, but optimizer = {train.optimizer!r} has no {option};"
                f" remove it, or use {listed(optimizers, 'or')}",
            )
    if not is_source(train.optimizer) and not train.decay_norms_and_biases and not optimizer_options(train)["weight_decay"]:
        raise SpecError(
            "train.decay_norms_and_biases",
            f"false requires weight decay, but the default of optimizer = {train.optimizer!r} is 0;"
            " remove it, or set train.weight_decay",
        )
    if train.lr_schedule == "constant":
        for option, value in (("min_lr_ratio", train.min_lr_ratio or None), ("num_lr_decay_steps", train.num_lr_decay_steps)):
            if value is not None:
                raise SpecError(
                    f"train.{option}",
                    f"got {value:g}, but lr_schedule = 'constant' does not decay; remove it, or use linear or cosine",
                )
    elif _num_decay_steps(train) < 1:
        raise SpecError(
            "train.num_lr_warmup_steps",
            f"{train.num_lr_warmup_steps} leaves no step to decay over, since the run has {train.num_warmup_steps} warm-up and"
            f" {train.num_steps} timed steps; use at most {train.num_warmup_steps + train.num_steps - 1},"
            " or set train.num_lr_decay_steps",
        )


def _check_user_optimizer(plan: Plan) -> None:
    """Rejects options of the other kind of optimizer: torch's by name, or a user's own."""
    train, own = plan.spec.train, plan.user_optimizer
    if not is_source(train.optimizer):
        if train.optimizer_options:
            raise SpecError(
                "train.optimizer_options",
                f"got {', '.join(train.optimizer_options)}, but optimizer = {train.optimizer!r} is no callable of your own;"
                " use train.weight_decay, momentum, betas and epsilon",
            )
        return
    for option, default in (("weight_decay", None), ("decay_norms_and_biases", True)):
        if (value := getattr(train, option)) != default:
            raise SpecError(
                f"train.{option}", f"got {value}, but {train.optimizer} has options of its own; use train.optimizer_options"
            )
    if own is None:
        return
    if not own.found.has_learning_rate and (train.num_lr_warmup_steps or train.lr_schedule != "constant"):
        raise SpecError(
            "train.lr_schedule",
            f"scales the lr of each parameter group, but those of {own.source.label} have none; use a constant learning rate",
        )
    for strategy in plan.strategies:
        if getattr(strategy.options, "shard", "") == "optimizer" and not own.found.can_shard:
            raise SplitError(
                f"split.{strategy.name}.shard",
                f'"optimizer" builds the optimizer of each worker from its part of the parameter groups, which the class that'
                f" {own.source.label} returns does not take; use none, gradients or parameters",
            )


def _default_decay(train: Train) -> float:
    return 0.01 if train.optimizer == "adamw" else 0.0


def _num_decay_steps(train: Train) -> int:
    """Returns the number of steps of the decay, by default until the last timed step."""
    return train.num_lr_decay_steps or train.num_warmup_steps + train.num_steps - train.num_lr_warmup_steps
