"""Finds the tensor plan of a module: nominated by its data flow, decided by computing, and verified as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.messages import listed
from workbench.plan.tensor_plan import ModuleSlices, RejectedSlices, TensorPlan
from workbench.runtime.tensor_plan.candidates import candidates, gathered
from workbench.runtime.tensor_plan.decide import decided, ways
from workbench.runtime.tensor_plan.edits import WHOLE, edited_groups, styles_of
from workbench.runtime.tensor_plan.flow import elements_of, flow_of
from workbench.runtime.tensor_plan.names import joined, moved, owner_of, relative, structure_of, undecided
from workbench.runtime.tensor_plan.recomputation import Recomputation
from workbench.runtime.tensor_plan.trial import Call, Trial, cut_twice, prepared
from workbench.runtime.tensor_plan.verify import MANY, Verification
from workbench.strategies.tensor.kinds_modules import size_of, styles_for, why_whole
from workbench.torch_private.dispatch import tree_map
from workbench.torch_private.modules import AnyBatchNorm

TIME_LIMIT_S = 25.0
"""Most time of the processor for finding a plan; what is not decided then stays whole."""


@dataclass(frozen=True)
class Subject:
    """A module with its samples.

    Args:
        inputs: Given a number of samples, returns inputs on the CPU.
        targets: Likewise.
        output: Selects what is compared, given what the module returns and the targets.
        blocks: Paths of its blocks.
    """

    root: nn.Module
    inputs: Callable[[int], Any]
    targets: Callable[[int], Any] = lambda count: None
    output: Callable[[Any, Any], Any] = lambda output, targets: output
    blocks: Sequence[str] = ("",)

    def call(self, count: int) -> Call:
        """Returns a call with so many samples."""
        inputs, targets = tree_map(_double, self.inputs(count)), tree_map(_double, self.targets(count))
        args = () if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else (inputs,)
        kwargs = inputs if isinstance(inputs, Mapping) else {}
        return Call(tuple(args), kwargs, targets, self.output)


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
        self.edits, self.deadline, root = edits, deadline, prepared(subject.root)
        # Of two values per channel, a batch norm knows hardly more than the sign, and its gradients are mostly rounding.
        count = 4 if any(isinstance(module, AnyBatchNorm) for module in root.modules()) else 2
        self.whole, larger = Trial(root, subject.call(count)), Trial(root, subject.call(count * 3 // 2))
        recomputation = Recomputation(subject.root, self.whole.call, subject.blocks)
        self.num_samples, self.verification = count, Verification(self.whole, larger, recomputation, count, deadline)
        self.flow, self.larger = flow_of(root, self.whole.call), elements_of(root, larger.call)
        self.rejected: list[RejectedSlices] = []
        self.decided: dict[Any, ModuleSlices | str] = {}

    def plan(self) -> TensorPlan:
        """Returns the plan."""
        root = self.whole.module
        nominated, groups = candidates(root, self.flow, self.num_samples), []
        if len(nominated) > MANY:
            self.whole.num_steps = 1  # each of its layers is compared alone in two
        for candidate in nominated:
            decision = self.decision(group := undecided(root, candidate.parts))
            if isinstance(decision, str):
                self.rejected.append(RejectedSlices(tuple(part.path for part in group.modules), decision))
                nominated += gathered(candidate, root, self.flow)  # the loop goes on with them
            else:
                groups.append(decision)
        whole = ((path, why_whole(module)) for path, module in root.named_modules())
        self.rejected += [RejectedSlices((path,), reason) for path, reason in whole if reason]
        if self.edits:
            groups = self._edited(groups)
        groups = self.verification.verified(groups)
        return TensorPlan(tuple(groups), (*self.rejected, *self.verification.rejected))

    def _edited(self, groups: list[ModuleSlices]) -> list[ModuleSlices]:
        """Returns the groups that the user has edited, after the others.

        Raises:
            SpecError: an edit is wrong.
        """
        root = self.whole.module
        kept, edited = edited_groups(root, groups, styles_of(root, self.flow.order, self.edits), self.flow)
        for group in edited:
            decision = self.decision(group)
            problem = decision if isinstance(decision, str) else self.verification.difference([decision])
            if problem or isinstance(decision, str):
                before = {part.path: part.style for each in groups for part in each.modules}
                cut = listed([f"{part.path} = {part.style}" for part in group.modules])
                without = listed([f"{part.path} = {before.get(part.path, 'none')}" for part in group.modules])
                problem = self._failure_with(group) or problem
                raise SpecError("model.tensor_plan", f"{cut}: {problem}; without the edit: {without}; {self._allowed(group)}")
            kept.append(decision)
        return kept

    def _failure_with(self, group: ModuleSlices) -> str:
        """Returns where and why the code fails with an edited group as it is; empty if it runs, or is not tried."""
        group = replace(group, units=gcd(*self._sizes(group).values()))
        return "" if self._unsuitable(group) else self.whole.failure_with([group], ways(group.units)[0])

    def _sizes(self, group: ModuleSlices) -> dict[str, int]:
        return {part.path: size_of(self.whole.module.get_submodule(part.path), part.style) for part in group.modules}

    def _allowed(self, group: ModuleSlices) -> str:
        """Returns how the modules of a group may be cut, a clause."""
        by_styles: dict[str, list[str]] = {}
        for part in group.modules:
            styles = [*styles_for(self.whole.module.get_submodule(part.path)), WHOLE]
            by_styles.setdefault(listed(styles, "or"), []).append(part.path)
        return "allowed: " + listed([f"{styles} for {listed(paths)}" for styles, paths in by_styles.items()])

    def decision(self, group: ModuleSlices) -> ModuleSlices | str:
        """Returns a group with what else must be known to cut it, or why it cannot be cut. Layers with the same structure are
        decided once."""
        root, paths = self.whole.module, [part.path for part in group.modules]
        group = replace(group, units=gcd(*self._sizes(group).values()))
        if problem := self._unsuitable(group):
            return problem
        if group.kind == "table":
            return group
        owner = owner_of(paths)
        while owner and owner not in self.flow.calls:
            owner = owner.rpartition(".")[0]  # such as a list of modules, which is never called
        key = structure_of(root.get_submodule(owner), owner, group)
        if key not in self.decided:
            trial = Trial(root.get_submodule(owner), self.flow.calls[owner]) if owner else self.whole
            self.decided[key] = decided(
                trial, moved(group, lambda path: relative(path, owner)), self.deadline, is_part=trial is not self.whole
            )
        decision = self.decided[key]
        return decision if isinstance(decision, str) else moved(decision, lambda path: joined(owner, path))

    def _unsuitable(self, group: ModuleSlices) -> str:
        """Returns why a group is not tried; empty if it is."""
        if not ways(group.units):
            numbers = listed([f"{size} of {path}" for path, size in self._sizes(group).items()])
            return f"no number of workers from 2 to 7 divides {numbers}"
        if name := cut_twice(self.whole.module, [group]):
            return f"{name} is tied to a parameter that is cut along another dim"
        paths = (part.path for part in group.modules)
        if fixed := next((p for p in paths if 2 * self.larger.get(p, 0) != 3 * self.flow.elements.get(p, 0)), None):
            return f"the input of {fixed} does not have the samples as a dim"
        sliced = (part.path for part in group.modules if part.style in ("column", "channel"))
        if read := next((path for path in sliced if path in self.flow.branched_on), None):
            return f"what the code does next depends on the values of the output of {read}"
        return ""


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
