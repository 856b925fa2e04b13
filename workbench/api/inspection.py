"""What a model consists of, which strategies can split it, and which arguments a user's own takes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from workbench.models.user import UserModel
from workbench.plan.compatibility import refusal
from workbench.plan.expert_split import ExpertSplit
from workbench.plan.model_summary import ModelSummary
from workbench.plan.resolve import plan
from workbench.plan.tensor_plan import TensorPlan
from workbench.registry import STRATEGIES
from workbench.sources.argument_inspection import arguments_in
from workbench.sources.arguments import Argument
from workbench.sources.config_source import model_source
from workbench.spec.form import Field
from workbench.spec.run_spec import RunSpec

__all__ = ["ExpertSplit", "ModelReport", "PlanRow", "TensorPlan", "argument_fields", "inspect_model", "plan_rows", "shape_text"]

_LOSSES = {
    "mean": "a mean over samples",
    "targets": "a mean over the targets that are not −100",
    "next targets": "a mean over the targets from the second position on that are not −100",
    "sum": "a sum over samples",
    "batch": "a function of the whole batch: replicas and microbatches are equal per shard only",
}
"""Reduction of a loss of one's own → its description."""


@dataclass(frozen=True)
class ModelReport:
    """What ``workbench inspect`` shows."""

    summary: ModelSummary

    dataset: str
    """Label of the dataset."""

    num_workers: int
    """Number of workers of the splits."""

    refusals: dict[str, str | None]
    """Strategy → why it cannot split the model alone, one sentence; None if it can."""

    notes: dict[str, str]
    """Strategy that can split it → what it chooses for this model though no option says so."""

    code: dict[str, Any] | None = None
    """Of a user's own model: ``files`` with their hashes, or ``distribution`` and ``version``."""

    output: str = ""
    """What the user's code printed."""

    tensor_plan: TensorPlan | None = None
    """How modules of a user's own model can be cut along the tensor axis."""

    experts: ExpertSplit | None = None
    """Which of its mixtures of experts can be divided over workers."""

    @property
    def crossings(self) -> list[list[list[int]] | None]:
        """For each block the shapes per sample that cross a cut after it; None where the model cannot be cut."""
        *blocks, _ = self.summary.blocks
        return [*([list(shape) for shape in block.crossing_shapes] if block.is_cut_point else None for block in blocks), None]

    @property
    def output_shapes(self) -> list[list[int] | None]:
        """For each block the shape of its output per sample; None where it is not known, since the model cannot be cut there."""
        *blocks, last = self.summary.blocks
        return [*(list(block.output_shape) if block.is_cut_point else None for block in blocks), list(last.output_shape)]

    @property
    def cut_points(self) -> list[str]:
        """Paths of the modules after which the model can be cut, as ``model.cut_at`` names them."""
        return [block.name.replace("/", ".") for block in self.summary.blocks[:-1] if block.is_cut_point]

    @property
    def loss_text(self) -> str:
        """How a loss of the user's own is reduced; empty for the default loss."""
        reduction = self.summary.loss_reduction
        return "" if reduction is None else _LOSSES[reduction]

    @property
    def parameter_notes(self) -> dict[str, list[str]]:
        """The tied, frozen and unused parameters, and the state that is kept in no buffer."""
        model = self.summary
        return {
            "tied": [f"{tie.parameter} = {tie.source}" for tie in model.ties],
            "frozen": [p.name for p in model.distinct_parameters if not p.requires_grad],
            "unused": [p.name for p in model.unused_parameters],
            "state": [model.state.dependence.cause] if model.state else [],
        }


@dataclass(frozen=True)
class PlanRow:
    """Modules of a tensor plan that are cut alike."""

    path: str
    """Their path, as ``model.tensor_plan`` names them: with * for the numbers in which they differ."""

    style: str
    """How they are cut; ``none`` if they look as if they could be, but stay whole."""

    units: int
    """Number that the number of workers must divide; 0 if they stay whole."""


def plan_rows(plan: TensorPlan) -> list[PlanRow]:
    """Returns the modules of a plan, those that stay whole last: one row for all whose paths differ in numbers alone, as far as
    they are cut alike."""
    cut = {part.path: (part.style, group.units) for group in plan.groups for part in group.modules}
    rows = {path: ("none", 0) for rejected in plan.rejected for path in rejected.modules} | cut
    alike = functools.cache(lambda pattern: len({row for path, row in rows.items() if _matches(pattern, path)}) == 1)
    named = (
        PlanRow(next(filter(alike, _patterns(path))), *rows[path]) for path in [*cut, *(path for path in rows if path not in cut)]
    )
    return list(dict.fromkeys(named))


def _patterns(path: str) -> Iterator[str]:
    """Yields the path with * for its numbers: for all of them, for fewer, for none."""
    names = path.split(".")
    numbers = [index for index, name in enumerate(names) if name.isdigit()]
    for count in range(len(numbers), -1, -1):
        for starred in itertools.combinations(numbers, count):
            yield ".".join("*" if index in starred else name for index, name in enumerate(names))


def _matches(pattern: str, path: str) -> bool:
    names, parts = path.split("."), pattern.split(".")
    return len(names) == len(parts) and all(part in ("*", name) for name, part in zip(names, parts, strict=True))


def shape_text(shape: Iterable[int] | None) -> str:
    """Returns a shape per sample in words: ``8 × 64``; – if there is none."""
    return "–" if shape is None else " × ".join(map(str, shape)) or "scalar"


def inspect_model(spec: RunSpec, num_workers: int = 2) -> ModelReport:
    """Returns what the model of a spec consists of, and which strategies can split it over so many workers.

    Raises:
        SpecError: the model cannot be built, or does not accept the dataset.
    """
    splits = {name: {name: STRATEGIES.get(name).plain_options(num_workers)} for name in STRATEGIES.names()}
    # First: it finds what the others need, and the tensor plan.
    of_tensor = refusal({**spec.as_dict(), "split": splits["tensor"]})
    planned = plan(spec.replace(split={}))
    refusals = {
        name: of_tensor if name == "tensor" else refusal({**spec.as_dict(), "split": split}) for name, split in splits.items()
    }
    accepted = [name for name, why in refusals.items() if why is None]
    notes = {name: "; ".join(plan(spec.replace(split=splits[name])).notes) for name in accepted}
    if not isinstance(planned.model, UserModel):
        return ModelReport(planned.full_model, planned.dataset.label, num_workers, refusals, notes)
    of, found = planned.model.inspection, planned.model.found
    code = {"files": of.code.files, "distribution": of.code.distribution, "version": of.code.version}
    label, tensor_plan = planned.dataset.label, found.tensor_plan
    experts = planned.model.experts_found()
    return ModelReport(planned.full_model, label, num_workers, refusals, notes, code, of.output, tensor_plan, experts)


def argument_fields(name: str, part: str) -> list[Field]:
    """Returns the form's fields for the arguments of a user's own model or dataset, at the paths ``<part>.options.<argument>``.

    Args:
        part: ``model`` or ``dataset``.

    Raises:
        SpecError: the callable cannot be loaded; the message has the user's own file and line.
    """
    source = model_source(name, f"{part}.name")
    return [_field(each, f"{part}.options.{each.name}", source.label) for each in arguments_in(source)]


def _field(argument: Argument, path: str, label: str) -> Field:
    text = f"{'Required argument' if argument.is_required else 'Argument'} {argument.name} of {label}"
    return Field(
        path, argument.kind, argument.default, text, argument.choices,
        is_optional=argument.default is None, title=argument.name + (" (required)" if argument.is_required else ""),
    )  # fmt: skip
