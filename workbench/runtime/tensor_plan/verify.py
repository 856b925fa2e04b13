"""Verifies the groups of a plan together in the whole module, and counts what they communicate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from workbench.plan.tensor_plan import ModuleSlices, RejectedSlices, SliceCommunication, SlicedModule
from workbench.runtime.tensor_plan.decide import ways
from workbench.runtime.tensor_plan.names import alike, parted
from workbench.runtime.tensor_plan.recomputation import Recomputation
from workbench.runtime.tensor_plan.trial import Trial, failure

MANY = 64
"""Number of groups above which the whole module is compared on the fewest workers alone."""


class Verification:
    """The whole module with slices, beside itself.

    Args:
        whole: With ``num_samples`` samples.
        larger: With half as many more.
        recomputation: With as many as ``whole``.
        deadline: Time of the processor after which nothing more is computed.
    """

    def __init__(self, whole: Trial, larger: Trial, recomputation: Recomputation, num_samples: int, deadline: float) -> None:
        self.whole, self.larger, self.recomputation = whole, larger, recomputation
        self.num_samples, self.deadline = num_samples, deadline
        self.rejected: list[RejectedSlices] = []
        self.communication: dict[tuple[SlicedModule, ...], list[SliceCommunication]] = {}
        """Modules of a group → its communication in a pass of these samples."""

    def verified(self, groups: list[ModuleSlices]) -> list[ModuleSlices]:
        """Returns the groups with which the whole module computes what one worker computes, with what they communicate. Narrows
        them, by structure and then one by one, until they do."""
        if not groups:
            return []
        if self.difference(groups):
            kept: list[ModuleSlices] = []
            for similar in alike(groups):
                if not self.difference([*kept, *similar]):
                    kept += similar
                    continue
                for group in similar:
                    if problem := self.difference([*kept, group]):
                        self._reject(group, problem)
                    else:
                        kept.append(group)
            groups = [group for group in groups if group in kept]
        return self._with_communication(groups)

    def difference(self, groups: Sequence[ModuleSlices]) -> str:
        """Returns what the whole module computes wrongly with these groups, or why it does not run; empty if it is right."""
        parts = [part for group in groups for part in parted(self.whole.module, group)]
        for size in sorted({size for part in parts for size in ways(part.units)}):
            cut = [part for part in parts if part.units % size == 0]
            if len(cut) > MANY and all(size > ways(part.units)[0] for part in cut):
                continue  # each was compared alone
            if time.process_time() > self.deadline:
                return "there was no time to verify it"
            try:
                results = self.whole.results(cut, size)
                difference = self.whole.difference(cut, size, results)
            except Exception as error:  # noqa: BLE001 - the user's code
                return failure(error)
            if difference is not None:
                return f"{difference} on {size} workers"
            self.communication |= dict(zip((part.modules for part in cut), results[0].communication, strict=True))
        return ""

    def _with_communication(self, groups: Sequence[ModuleSlices]) -> list[ModuleSlices]:
        """Returns the groups with what they communicate for one sample; tables and heads that were decided together as groups of
        their own."""
        parts = [part for group in groups for part in parted(self.whole.module, group)]
        found: dict[int, ModuleSlices] = {}
        for fewest in dict.fromkeys(ways(part.units)[0] for part in parts):
            cut = {i: part for i, part in enumerate(parts) if ways(part.units)[0] == fewest}
            of_more = self.larger.communication(list(cut.values()), fewest)
            repeated = self.recomputation.repeated(list(cut.values()), fewest)
            for (index, part), more, again in zip(cut.items(), of_more, repeated, strict=True):
                counted = self.communication[part.modules]
                if [replace(c, elements=3 * c.elements) for c in counted] == [replace(c, elements=2 * c.elements) for c in more]:
                    of_one, again_of_one = (
                        tuple(replace(c, elements=c.elements // self.num_samples) for c in each) for each in (counted, again)
                    )
                    found[index] = replace(part, communication=of_one, repeated=again_of_one)
                else:
                    self._reject(part, "what it communicates is not proportional to the samples")
        if len(found) == len(parts):
            return [found[index] for index in range(len(parts))]
        kept = {m.path for part in found.values() for m in part.modules}
        return self.verified([group for group in groups if all(m.path in kept for m in group.modules)])

    def _reject(self, group: ModuleSlices, reason: str) -> None:
        self.rejected.append(RejectedSlices(tuple(part.path for part in group.modules), reason))
