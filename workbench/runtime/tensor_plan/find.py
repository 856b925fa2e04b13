"""Finds the tensor plan of a module: nominated by its data flow, decided by computing, and verified as a whole."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from math import gcd
from typing import Any

from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.messages import listed
from workbench.plan.tensor_plan import (
    DividedAttribute,
    ModuleSlices,
    RejectedSlices,
    SliceCommunication,
    SlicedModule,
    SlicedParameter,
    TensorPlan,
)
from workbench.runtime.tensor_plan.candidates import Candidate, Flow, candidates, flow_of, owner_of, size_of
from workbench.runtime.tensor_plan.edits import edited_groups, styles_of
from workbench.runtime.tensor_plan.trial import Call, Trial, cut_twice
from workbench.strategies.tensor.sliced_modules import dims_of, is_linear, is_table
from workbench.torch_private.dispatch import tree_map

TIME_LIMIT_S = 25.0
"""Most time of the processor for finding a plan; what is not decided then stays whole."""
_WAYS = (2, 4)
_MANY = 64
"""Number of groups above which the whole module is compared on the fewest workers alone."""
_MOST_ATTRIBUTES, _MOST_AT_ONCE, _MOST_TRIALS = 10, 3, 8


@dataclass(frozen=True)
class Subject:
    """A module with its samples.

    Args:
        inputs: Given a number of samples, returns inputs on the CPU.
        targets: Likewise.
        output: Selects what is compared, given what the module returns and the targets.
    """

    root: nn.Module
    inputs: Callable[[int], Any]
    targets: Callable[[int], Any] = lambda count: None
    output: Callable[[Any, Any], Any] = lambda output, targets: output

    def call(self, count: int) -> Call:
        """Returns a call with so many samples."""
        inputs, targets = tree_map(_double, self.inputs(count)), tree_map(_double, self.targets(count))
        args = () if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else (inputs,)
        kwargs = inputs if isinstance(inputs, Mapping) else {}
        return Call(tuple(args), kwargs, lambda output: self.output(output, targets))


def find_plan(subject: Subject, edits: Mapping[str, str] | None = None, limit_s: float = TIME_LIMIT_S) -> TensorPlan:
    """Returns the groups of modules that can be cut, with paths in the place of the names of the summary, and those that look as
    if they could.

    Args:
        edits: Path of modules, in which ``*`` is any name → how they are cut, or ``none``.

    Raises:
        SpecError: an edit is wrong.
    """
    return _Search(subject, edits or {}, time.process_time() + limit_s).plan()


class _Search:
    def __init__(self, subject: Subject, edits: Mapping[str, str], deadline: float) -> None:
        self.subject, self.edits, self.deadline = subject, edits, deadline
        self.whole = Trial(subject.root, subject.call(2))
        self.flow, self.larger = Flow(), Flow()  # of two and of three samples
        self.rejected: list[RejectedSlices] = []
        self.calls: dict[str, Call] = {}
        """Of the modules that contain all of a candidate."""
        self.communication: dict[tuple[SlicedModule, ...], list[SliceCommunication]] = {}
        """Modules of a group → its communication in a pass of two samples."""
        self.decided: dict[Any, ModuleSlices | str] = {}

    def plan(self) -> TensorPlan:
        """Returns the plan."""
        root = self.whole.module
        self.flow, self.larger = (flow_of(root, call.outputs) for call in (self.whole.call, self.subject.call(3)))
        nominated = candidates(root, self.flow)
        self.calls = self._calls({owner_of(c.paths) for c in nominated} - {""})
        groups = []
        for candidate in nominated:
            decision = self.decision(candidate)
            if isinstance(decision, str):
                self.reject(candidate.paths, decision)
            else:
                groups.append(decision)
        if self.edits:
            groups = self._edited(groups)
        return TensorPlan(tuple(self._verified(groups)), tuple(self.rejected))

    def _edited(self, groups: list[ModuleSlices]) -> list[ModuleSlices]:
        """Returns the groups that the user has edited, after the others.

        Raises:
            SpecError: an edit is wrong.
        """
        root = self.whole.module
        kept, edited = edited_groups(groups, styles_of(root, self.flow.order, self.edits), self.flow)
        self.calls |= self._calls({owner_of([part.path for part in group.modules]) for group in edited} - {"", *self.calls})
        for group in edited:
            decision = self.decision_on(group)
            problem = decision if isinstance(decision, str) else self._difference([decision])
            if problem or isinstance(decision, str):
                cut = listed([f"{part.path} = {part.style}" for part in group.modules])
                raise SpecError("model.tensor_plan", f"{cut}: {problem}")
            kept.append(decision)
        return kept

    def reject(self, paths: Sequence[str], reason: str) -> None:
        """Notes modules that stay whole."""
        self.rejected.append(RejectedSlices(tuple(paths), reason))

    def _calls(self, owners: set[str]) -> dict[str, Call]:
        """Returns the first call of each of these modules in a forward pass."""
        calls: dict[str, Call] = {}

        def enter(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
                if path not in calls:
                    calls[path] = Call(tree_map(_kept, args), tree_map(_kept, kwargs))

            return hook

        with ExitStack() as hooks:
            module = copy.deepcopy(self.whole.module)
            for path in owners:
                hooks.callback(module.get_submodule(path).register_forward_pre_hook(enter(path), with_kwargs=True).remove)
            self.whole.call(module)
        return calls

    def decision(self, candidate: Candidate) -> ModuleSlices | str:
        """Returns how to cut a candidate, or why it cannot be cut. Layers with the same structure are decided once."""
        modules = (
            *(SlicedModule(path, "column") for path in candidate.columns),
            *(SlicedModule(path, "row") for path in candidate.rows),
            *(SlicedModule(path, "vocabulary") for path in (*candidate.tables, *candidate.heads)),
        )
        return self.decision_on(ModuleSlices("linear" if candidate.columns else "table", modules, (), 0, ()))

    def decision_on(self, group: ModuleSlices) -> ModuleSlices | str:
        """Returns a group with what else must be known to cut it, or why it cannot be cut."""
        root, paths = self.whole.module, [part.path for part in group.modules]
        units = gcd(*(size_of(root.get_submodule(part.path), part.style) for part in group.modules))
        group = replace(group, units=units)
        if not _ways(units):
            return f"{units} {'is' if units == 1 else 'are'} not divisible by the number of workers"
        if name := cut_twice(root, [group]):
            return f"{name} is tied to a parameter that is cut along another dim"
        if fixed := next((p for p in paths if 2 * self.larger.elements.get(p, 0) != 3 * self.flow.elements.get(p, 0)), None):
            return f"the input of {fixed} does not have the samples as a dim"
        columns = [part.path for part in group.modules if part.style == "column"]
        if read := next((path for path in columns if path in self.flow.branched_on), None):
            return f"what the code does next depends on the values of the output of {read}"
        if group.kind != "linear":
            return group
        owner = owner_of(paths)
        if owner and owner not in self.calls:
            return f"{owner} is never called as a module"
        key = _structure(root.get_submodule(owner), owner, group)
        if key not in self.decided:
            trial = Trial(root.get_submodule(owner), self.calls[owner]) if owner else self.whole
            self.decided[key] = self._tried(trial, _moved(group, lambda path: _relative(path, owner)))
        decision = self.decided[key]
        return decision if isinstance(decision, str) else _moved(decision, lambda path: _joined(owner, path))

    def _tried(self, trial: Trial, group: ModuleSlices) -> ModuleSlices | str:
        """Returns the group with the attributes that must be divided and the parameters whose gradients must be summed, found by
        computing; or why there are none."""
        reason = ""
        variants = list(_in_sections(trial.module, group))
        if trial is not self.whole:
            variants += [replace(variant, narrowed="") for variant in variants]
        for variant in variants:
            outcome = self._tried_attributes(trial, variant)
            if isinstance(outcome, ModuleSlices):
                return outcome
            reason = reason or outcome
        return reason

    def _tried_attributes(self, trial: Trial, group: ModuleSlices) -> ModuleSlices | str:
        """As ``_tried``, with the sections of the group."""
        size, reason, num_trials = _ways(group.units)[0], "", 0
        for attributes in _sets_of_attributes(trial.module, group, size):
            if time.process_time() > self.deadline:
                return "there was no time to decide"
            tried = replace(group, attributes=attributes)
            if problem := trial.has_shapes([tried], size):
                reason = reason or problem
                continue
            num_trials += 1
            outcome = _outcome(trial, tried, size)
            if isinstance(outcome, ModuleSlices):
                return _for_all_ways(trial, outcome)
            reason = outcome if num_trials == 1 else reason
            if num_trials == _MOST_TRIALS:
                break
        return reason

    def _verified(self, groups: list[ModuleSlices]) -> list[ModuleSlices]:
        """Returns the groups with which the whole module computes what one worker computes, with what they communicate. Narrows
        them, by structure and then one by one, until they do."""
        if not groups:
            return []
        if self._difference(groups):
            kept: list[ModuleSlices] = []
            for alike in _alike(groups):
                if not self._difference([*kept, *alike]):
                    kept += alike
                    continue
                for group in alike:
                    if problem := self._difference([*kept, group]):
                        self.reject([part.path for part in group.modules], problem)
                    else:
                        kept.append(group)
            groups = [group for group in groups if group in kept]
        return self._with_communication(groups)

    def _difference(self, groups: Sequence[ModuleSlices]) -> str:
        """Returns what the whole module computes wrongly with these groups, or why it does not run; empty if it is right."""
        parts = [part for group in groups for part in _parted(self.whole.module, group)]
        for size in sorted({size for part in parts for size in _ways(part.units)}):
            cut = [part for part in parts if part.units % size == 0]
            if len(cut) > _MANY and all(size > _ways(part.units)[0] for part in cut):
                continue  # each was compared alone
            if time.process_time() > self.deadline:
                return "there was no time to verify it"
            try:
                results = self.whole.results(cut, size, 2 if size == 2 else 1)
                difference = self.whole.difference(cut, size, results)
            except Exception as error:  # noqa: BLE001 - the user's code
                return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
            if difference is not None:
                return f"{difference} on {size} workers"
            self.communication |= dict(zip((part.modules for part in cut), results[0].communication, strict=True))
        return ""

    def _with_communication(self, groups: Sequence[ModuleSlices]) -> list[ModuleSlices]:
        """Returns the groups with what they communicate for one sample; tables and heads that were decided together as groups of
        their own."""
        parts = [part for group in groups for part in _parted(self.whole.module, group)]
        found: dict[int, ModuleSlices] = {}
        larger = Trial(self.subject.root, self.subject.call(3))
        for ways in dict.fromkeys(_ways(part.units)[0] for part in parts):
            cut = {i: part for i, part in enumerate(parts) if _ways(part.units)[0] == ways}
            of_three = larger.results(list(cut.values()), ways, num_steps=1)[0].communication
            for (index, part), three in zip(cut.items(), of_three, strict=True):
                two = self.communication[part.modules]
                if [replace(c, elements=3 * c.elements) for c in two] == [replace(c, elements=2 * c.elements) for c in three]:
                    found[index] = replace(part, communication=tuple(replace(c, elements=c.elements // 2) for c in two))
                else:
                    self.reject([m.path for m in part.modules], "what it communicates is not proportional to the samples")
        if len(found) == len(parts):
            return [found[index] for index in range(len(parts))]
        kept = {m.path for part in found.values() for m in part.modules}
        return self._verified([group for group in groups if all(m.path in kept for m in group.modules)])


def _outcome(trial: Trial, group: ModuleSlices, size: int) -> ModuleSlices | str:
    """Returns the group with the parameters whose gradients must be summed, if it is then right; else what is wrong."""
    try:
        results = trial.results([group], size)
        summed = trial.summed(results)
        if summed:
            group = replace(group, summed=summed)
            results = trial.results([group], size)
        difference = trial.difference([group], size, results)
    except Exception as error:  # noqa: BLE001 - the user's code
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return group if difference is None else str(difference)


def _for_all_ways(trial: Trial, group: ModuleSlices) -> ModuleSlices:
    """Returns the group with the number that the number of workers must divide: the largest with which the code runs."""
    values = (getattr(trial.module.get_submodule(a.path), a.name) for a in group.attributes)
    most, least = gcd(group.units, *values), _ways(group.units)[0]
    for size in sorted((d for d in range(least + 1, most + 1) if most % d == 0 and d % least == 0), reverse=True):
        if trial.has_shapes([group], size):
            continue
        verified = [ways for ways in _WAYS if ways > least and size % ways == 0]
        if not any(isinstance(_outcome(trial, group, ways), str) for ways in verified):
            return replace(group, units=size)
    return replace(group, units=least)


def _ways(units: int) -> list[int]:
    """Returns the numbers of workers for which a group is verified."""
    ways = [size for size in _WAYS if units % size == 0]
    return ways or [size for size in (3, 5, 7) if units % size == 0][:1]


def _sets_of_attributes(module: nn.Module, group: ModuleSlices, size: int) -> Iterator[tuple[DividedAttribute, ...]]:
    """Yields sets of integer attributes that may have to be divided, small ones first."""
    found = []
    for path, part in module.named_modules():
        if is_linear(part) or is_table(part):
            continue
        for name, value in vars(part).items():
            if type(value) is int and value >= size and value % size == 0 and not name.startswith("_"):
                found.append((DividedAttribute(path, name), "head" in name or "group" in name))
    found.sort(key=lambda item: not item[1])
    attributes = [attribute for attribute, _ in found[:_MOST_ATTRIBUTES]]
    for count in range(_MOST_AT_ONCE + 1):
        yield from combinations(attributes, count)


def _in_sections(module: nn.Module, group: ModuleSlices) -> Iterator[ModuleSlices]:
    """Yields the group as it is and, if one column layer has more output features than its row layer takes, with sections: equal
    ones, or query, key and value with fewer heads of keys."""
    yield group
    parts = {part.style: part for part in group.modules}
    if len(group.modules) != 2 or parts.keys() != {"column", "row"}:
        return
    features, taken = (size_of(module.get_submodule(part.path), style) for style, part in parts.items())
    options = [(taken,) * (features // taken)] if features % taken == 0 else []
    if features > taken and (features - taken) % 2 == 0 and features != 3 * taken:
        options.append((taken, *((features - taken) // 2,) * 2))
    for sections in options:
        if len(sections) > 1 and _ways(units := gcd(group.units, *sections)):
            column = replace(parts["column"], sections=sections)
            yield replace(group, modules=(column, parts["row"]), units=units)


def _structure(module: nn.Module, owner: str, group: ModuleSlices) -> Any:
    """Returns what is equal for modules that are decided once: class, relative paths and shapes."""
    parts = tuple((_relative(part.path, owner), part.style) for part in group.modules)
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict(keep_vars=True).items())
    frozen = tuple(name for name, parameter in module.named_parameters() if not parameter.requires_grad)
    return type(module), parts, shapes, frozen


def _alike(groups: Sequence[ModuleSlices]) -> list[list[ModuleSlices]]:
    """Returns the groups by structure: equal but for the numbers in their paths."""
    alike: dict[Any, list[ModuleSlices]] = {}
    for group in groups:
        paths = tuple(".".join("*" if name.isdigit() else name for name in part.path.split(".")) for part in group.modules)
        alike.setdefault((group.kind, paths), []).append(group)
    return list(alike.values())


def _parted(root: nn.Module, group: ModuleSlices) -> list[ModuleSlices]:
    """Returns each table and head as a group of its own, since each takes and returns whole tensors."""
    if group.kind == "linear":
        return [group]
    return [replace(group, modules=(module,), kind=_kind(root, module)) for module in group.modules]


def _kind(root: nn.Module, part: SlicedModule) -> str:
    return "embedding" if isinstance(root.get_submodule(part.path), nn.Embedding) else "head"


def _moved(group: ModuleSlices, to: Callable[[str], str]) -> ModuleSlices:
    return replace(
        group,
        modules=tuple(replace(part, path=to(part.path)) for part in group.modules),
        attributes=tuple(replace(attribute, path=to(attribute.path)) for attribute in group.attributes),
        summed=tuple(map(to, group.summed)),
        narrowed=None if group.narrowed is None else to(group.narrowed),
    )


def _relative(path: str, owner: str) -> str:
    return path[len(owner) + 1 :] if owner else path


def _joined(owner: str, path: str) -> str:
    return ".".join(filter(None, (owner, path)))


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return copy.deepcopy(value)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def cut_parameters(root: nn.Module, group: ModuleSlices) -> list[SlicedParameter]:
    """Returns the parameters that a group cuts, by their names in the module."""
    return [
        SlicedParameter(f"{part.path}.{name}", dim, part.sections)
        for part in group.modules
        for name, dim in dims_of(root.get_submodule(part.path), part.style).items()
    ]
