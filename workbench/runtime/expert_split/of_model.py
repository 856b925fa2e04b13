"""Which mixtures of a user's model can be divided over workers, in the names of its summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models.user.module_model import ModuleModel
from workbench.models.user.structure_modules import Structure
from workbench.plan.expert_split import ExpertMixture, ExpertSplit, RejectedMixture
from workbench.plan.model_summary import ModelSummary
from workbench.runtime.expert_split.calls import MixtureCall, observed
from workbench.runtime.expert_split.candidates import Candidate, candidates
from workbench.runtime.expert_split.decide import Observed, UndividedError, decided
from workbench.runtime.expert_split.verify import DividedTrial
from workbench.runtime.parity.dropout import without_random_draws
from workbench.runtime.tensor_plan.decide import ways
from workbench.runtime.tensor_plan.find import Subject
from workbench.runtime.tensor_plan.of_model import MOST_PARAMETERS, built_for_trial, subject_of, summary_names
from workbench.runtime.tensor_plan.trial import Trial, prepared
from workbench.torch_private.dispatch import tree_map

_LIMIT_S = 25.0
"""Time of the processor after which no further mixture is verified."""


def expert_split_of(
    model: ModuleModel[Any], structure: Structure | None, summary: ModelSummary, patterns: Sequence[str]
) -> ExpertSplit:
    """Returns which mixtures of a model can be divided over workers: computed by simulated ones, outputs, gradients and updates
    are those of the whole module.

    Args:
        structure: As ``inspected`` returns it.
        summary: Likewise.
        patterns: Paths of mixtures, in which ``*`` is any name; by default they are recognised.

    Raises:
        SpecError: a path leads to no module.
    """
    if summary.num_parameters > MOST_PARAMETERS:
        reason = f"{summary.num_parameters:,} parameters are more than {MOST_PARAMETERS:,}, up to which experts are divided"
        return ExpertSplit(rejected=(RejectedMixture("the model", reason),))
    with built_for_trial(model) as root:
        split = found_split(subject_of(model, root, structure, summary), patterns)
    names = summary_names(root, structure)

    def named(mixture: ExpertMixture) -> ExpertMixture:
        return replace(mixture, parameters=tuple(tuple(names[name] for name in each) for each in mixture.parameters))

    return replace(split, mixtures=tuple(map(named, split.mixtures)))


def found_split(subject: Subject, patterns: Sequence[str] = ()) -> ExpertSplit:
    """As ``expert_split_of``, of a module and its samples, with the names of its parameters."""
    nominated, rejected = candidates(subject.root, patterns)
    if not nominated:
        return ExpertSplit(rejected=tuple(rejected))
    root = prepared(subject.root)
    fixed = Subject(root, subject.inputs, subject.targets, subject.output)
    rounding = Trial(root, fixed.call(2)).rounding
    calls = [_observed(root, fixed, nominated, 2), _observed(root, fixed, nominated, 3)]
    calls.append(_observed(prepared(subject.root).float(), subject, nominated, 2, is_single=True))
    found: list[ExpertMixture] = []
    with_dropout = subject.root.double().train()
    for candidate in nominated:
        try:
            parameters = _parameters(root, candidate)
            seen = Observed(*(call[candidate] for call in calls))
            mixture = decided(
                root.get_submodule(candidate.path),
                with_dropout.get_submodule(candidate.path),
                candidate,
                seen,
                ways(_num_experts(root, candidate)),
                rounding,
            )
        except UndividedError as error:
            rejected.append(RejectedMixture(candidate.path or candidate.experts, str(error)))
        else:
            found.append(replace(mixture, parameters=parameters))
    kept, wrong = _verified(found, fixed, rounding)
    return ExpertSplit(tuple(kept), (*rejected, *wrong))


def _verified(
    mixtures: list[ExpertMixture], subject: Subject, rounding: float
) -> tuple[list[ExpertMixture], list[RejectedMixture]]:
    """Returns the mixtures with which the whole module is right, and the others with what differs."""
    deadline = time.process_time() + _LIMIT_S
    trials = {size: DividedTrial(subject, size, rounding) for m in mixtures for size in ways(m.num_experts)}

    def problem(some: Sequence[ExpertMixture]) -> str:
        if time.process_time() > deadline:
            return "there was no time to verify it"
        of_sizes = {size: [m for m in some if m.num_experts % size == 0] for size in trials}
        problems = (trials[size].problem(divided) for size, divided in of_sizes.items() if divided)
        return next(filter(None, problems), "")

    if not mixtures or not problem(mixtures):
        return mixtures, []
    kept, wrong = list[ExpertMixture](), list[RejectedMixture]()
    for mixture in mixtures:
        if why := problem([*kept, mixture]):
            wrong.append(RejectedMixture(mixture.path, why))
        else:
            kept.append(mixture)
    return kept, wrong


def _observed(
    root: nn.Module, subject: Subject, nominated: Sequence[Candidate], count: int, is_single: bool = False
) -> dict[Candidate, MixtureCall]:
    torch.manual_seed(0)  # for samples of which as many tokens choose an expert
    call = subject.call(count)
    if is_single:
        call = replace(call, args=_single(call.args), kwargs=_single(dict(call.kwargs)), targets=_single(call.targets))
    with observed(root, nominated) as calls, torch.enable_grad(), without_random_draws():
        call(root)
    return calls


def _single(values: Any) -> Any:
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, values)


def _num_experts(root: nn.Module, candidate: Candidate) -> int:
    module = root.get_submodule(candidate.experts)
    return len(next(module.parameters())) if candidate.is_stacked else len(list(module.children()))


def _parameters(root: nn.Module, candidate: Candidate) -> tuple[tuple[str, ...], ...]:
    path, named = candidate.experts, list(root.named_parameters(remove_duplicate=False))
    names, holders = [name for name, _ in named], Counter(parameter for _, parameter in named)
    if tied := next((name for name, p in named if name.startswith(f"{path}.") and holders[p] > 1), ""):
        raise UndividedError(f"{tied} is a parameter of something else, too")
    if candidate.is_stacked:
        return (tuple(name for name in names if name.startswith(f"{path}.")),)
    experts = [each for each, _ in root.get_submodule(path).named_children()]
    return tuple(tuple(name for name in names if name.startswith(f"{path}.{each}.")) for each in experts)
