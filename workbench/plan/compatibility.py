"""Determines which plugins work together: combines their examples, and accepts or rejects each by their checks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from workbench.errors import SpecError
from workbench.plan.resolve import plan
from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES, Family
from workbench.spec.run_spec import RunSpec
from workbench.spec.split import Split

MODES = ("train", "inference")
TRAIN = {
    "num_steps": 4, "num_warmup_steps": 0, "global_batch_size": 8, "weight_decay": 0.1, "decay_norms_and_biases": False,
    "lr_schedule": "cosine", "num_lr_warmup_steps": 2,
}  # fmt: skip
MEASURE = {"num_trace_steps": 1}

Parts = dict[str, Any]
"""Parts of a spec, such as ``{"model": …, "dataset": …}``."""


@dataclass(frozen=True)
class Case:
    """An example of a strategy with an example of a model."""

    split: str
    model: str
    mode: str
    spec: Parts

    def __str__(self) -> str:
        """Returns its name, for the id of a test."""
        return f"{self.model} - {self.split}" + ("" if self.mode == "train" else f" - {self.mode}")


def models(*names: str) -> dict[str, Parts]:
    """Returns the examples of these models, by default of all: ``{"transformer, tied": {"model": …, "dataset": …}}``."""
    results = {}
    for name, label, parts in _examples(MODELS, names):
        dataset = parts.get("dataset", MODELS.get(name).default_dataset)
        results[label] = {"model": {"name": name, **parts.get("model", {})}, "dataset": dataset}
    return results


def datasets(*names: str) -> dict[str, Parts]:
    """Returns the examples of these datasets, by default of all: ``{"text, characters": {"name": "text", …}}``."""
    return {label: {"name": name, **options} for name, label, options in _examples(DATASETS, names)}


def strategies(*names: str) -> dict[str, Parts]:
    """Returns the examples of these strategies on two workers, by default of all: ``{"data, fsdp": {"data": …}}``."""
    return {label: {name: {"size": 2, **options}} for name, label, options in _examples(STRATEGIES, names)}


def schedules(*names: str, size: int = 2) -> dict[str, Parts]:
    """Returns the examples of these schedules, by default of all, with the number of microbatches that the most demanding one
    needs."""
    of = "" if size == 2 else f" of {size}"
    return {
        f"pipeline{of}, {label}": {"pipeline": {"size": size, "schedule": name, "num_microbatches": 2 * size, **options}}
        for name, label, options in _examples(SCHEDULES, names)
    }


def splits() -> dict[str, Parts]:
    """Returns the distinct examples of all strategies and schedules on two workers."""
    distinct: dict[str, Parts] = {}
    for label, split in {**schedules(), **strategies()}.items():
        if Split(split) not in map(Split, distinct.values()):
            distinct[label] = split
    return dict(sorted(distinct.items()))


def cases(splits: Mapping[str, Parts], of_models: Mapping[str, Parts], modes: Iterable[str] = MODES) -> list[Case]:
    """Returns every split on every model in every mode, on CPU."""
    return [
        Case(
            split,
            model,
            mode,
            {**of_models[model], "mode": mode, "split": splits[split], "train": TRAIN, "measure": MEASURE,
             "launch": {"device": "cpu"}},
        )
        for split, model, mode in product(splits, of_models, modes)
    ]  # fmt: skip


def refusal(spec: Parts) -> str | None:
    """Returns why a spec is rejected, in one sentence; None if it is accepted. A lack of GPUs on this machine is ignored."""
    try:
        plan(RunSpec(**spec))
    except SpecError as error:
        return None if error.field == "launch.device" else error.message
    return None


def admitted(candidates: Iterable[Case]) -> list[Case]:
    """Returns the cases that the checks accept."""
    return [case for case in candidates if refusal(case.spec) is None]


def _examples(family: Family, names: Iterable[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yields the examples of each plugin: the name of the plugin, the name of the example, and its options."""
    for name in names or family.names():
        for label, example in (family.get(name).examples or {"": {}}).items():
            yield name, f"{name}, {label}" if label else name, example


@dataclass(frozen=True)
class Support:
    """Support of a split on a model."""

    works: frozenset[str]
    """Supported modes."""

    refusals: tuple[str, ...]
    """Why the other modes are not supported; one sentence each."""


def support_table() -> dict[str, dict[str, Support]]:
    """Returns the support on CPU of every split of ``splits()`` on the first example of every model."""
    of_models = {name: next(iter(models(name).values())) for name in MODELS.names()}
    results: dict[tuple[str, str], dict[str, str | None]] = {}
    for case in cases(splits(), of_models):
        answer = refusal(case.spec)
        # Models that a split rejects for the same reason share one sentence.
        results.setdefault((case.split, case.model), {})[case.mode] = answer and answer.replace(case.model, "the model", 1)
    table: dict[str, dict[str, Support]] = {}
    for (split, model), answers in results.items():
        works = frozenset(mode for mode, answer in answers.items() if answer is None)
        refusals = tuple(dict.fromkeys(answer for answer in answers.values() if answer is not None))
        table.setdefault(split, {})[model] = Support(works, refusals)
    return table
