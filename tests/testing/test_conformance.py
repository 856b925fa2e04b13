"""The conformance suite over every plugin: fixed parts of the cross in the usual tests and in CI, all of it with ``-m cross``."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from math import prod
from typing import Any

import pytest

from workbench.plan import compatibility
from workbench.plan.compatibility import MODES, Case
from workbench.registry import STRATEGIES
from workbench.spec import Split
from workbench.testing import cases
from workbench.testing.conformance import (
    Outcome,
    assert_conforms,
    assert_dataset_conforms,
    assert_model_conforms,
    mesh_cases,
    run_case,
    schedule_cases,
    strategy_cases,
)
from workbench.testing.cover import cover, each_pair, each_split
from workbench.testing.workers import run_in_workers

MODELS, DATASETS, SPLITS = compatibility.models(), compatibility.datasets(), compatibility.splits()
SECONDS_PER_WORKER = {"mlp": 0.3, "cnn": 0.4, "lstm": 0.4, "moe": 0.6}
OF_ANOTHER_MODEL = 0.9
"""What a case takes, roughly: of two that cover the same, the faster one runs."""


def num_workers(case: Case) -> int:
    return prod(options.size for _, options in Split(case.spec["split"]).items())


def is_usual(case: Case) -> bool:
    return num_workers(case) <= min(4, 2 * len(case.spec["split"]))


def cost(case: Case) -> float:
    return num_workers(case) * SECONDS_PER_WORKER.get(case.spec["model"]["name"], OF_ANOTHER_MODEL)


def marked(found: list[Case]) -> list[Any]:
    """The usual tests cover every split of up to two workers a strategy and four in all, and every model with every strategy;
    CI, with the slow tests, every split of two workers and every combination of strategies with every model; ``-m cross`` runs
    what these leave out."""
    found = sorted(found, key=lambda case: case.mode != "train")
    usual = cover(filter(is_usual, found), each_split, cost=cost)
    pairwise = cover(found, each_pair, beside=usual, cost=cost)
    slow, cross = pytest.mark.slow, pytest.mark.cross
    return [
        pytest.param(case, id=str(case), marks=() if case in usual else (slow, cross) if case in pairwise else cross)
        for case in found
    ]


EVERY_CASE = marked(strategy_cases() + schedule_cases(size=4) + mesh_cases())


@pytest.mark.parametrize("case", EVERY_CASE)
def test_a_split_is_one_worker_and_its_formulas(case: Case) -> None:
    assert_conforms(case.spec)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_its_summary(model: str) -> None:
    assert_model_conforms(MODELS[model])


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_dataset_is_its_summary(dataset: str) -> None:
    assert_dataset_conforms(DATASETS[dataset])


def test_the_usual_tests_run_every_example_of_two_workers_a_strategy_that_any_model_admits() -> None:
    usual = {param.values[0].split for param in EVERY_CASE if not param.marks}
    assert usual == {param.values[0].split for param in EVERY_CASE if is_usual(param.values[0])}
    assert set(SPLITS) <= usual


def test_ci_runs_each_strategy_on_each_model_and_each_split_in_each_mode() -> None:
    def pairs(case: Case) -> set[Any]:
        model = case.spec["model"]["name"]
        return {(case.split, case.mode), *((strategy, model) for strategy, _ in Split(case.spec["split"]).items())}

    in_ci = [param.values[0] for param in EVERY_CASE if param.marks != (pytest.mark.cross,)]
    assert set.union(*map(pairs, in_ci)) == set.union(*(pairs(param.values[0]) for param in EVERY_CASE))
    assert len(in_ci) < len(EVERY_CASE) / 2, "a part"


MISTAKES = {
    "gradients not averaged": {"data": 2},
    "slice dropped": {"tensor": 2},
    "microbatch lost": {"pipeline": {"size": 2, "schedule": "gpipe", "num_microbatches": 4}},
}


def spec_of(model: str, split: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return compatibility.cases({"": split}, {model: MODELS[model]}, ["train"])[0].spec | parts


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ("mlp", "fp64"),
        ("transformer", "bf16"),
        pytest.param("transformer", "fp64", marks=pytest.mark.slow),
        pytest.param("mlp", "bf16", marks=pytest.mark.slow),
    ],
)
def test_the_parity_check_notices_a_mistake(model: str, mistake: str, precision: str) -> None:
    spec = spec_of(model, MISTAKES[mistake], measure={"parity_precision": precision})
    assert not run_in_workers(2, cases.parity, spec, mistake)[0]["ok"]


@pytest.mark.parametrize("split", [{"tensor": 2}, {"context": 2}, {"data": 4}], ids=str)
def test_a_split_in_bf16_stays_within_the_bound_of_its_roundings(split: dict[str, Any]) -> None:
    outcome = run_case(spec_of("transformer", split, train={**compatibility.TRAIN, "precision": "bf16"},
                               measure={**compatibility.MEASURE, "parity_precision": "bf16"}))  # fmt: skip
    assert not outcome.parity_mistakes() + outcome.communication_mistakes() + outcome.parameter_mistakes()
    assert outcome.parity["max_error"] > 1e-9, "these were no eight bits"


@pytest.fixture(scope="module")
def of_slices() -> Outcome:
    return run_case(spec_of("mlp", {"tensor": 2}))


@pytest.mark.parametrize("forget", ["an operation", "a parameter", "the losses", "a gradient"])
def test_the_suite_notices_formulas_and_losses_that_are_wrong(of_slices: Outcome, forget: str) -> None:
    outcome = replace(of_slices, workers=deepcopy(of_slices.workers))
    checks = (outcome.communication_mistakes, outcome.operation_mistakes, outcome.parameter_mistakes, outcome.loss_mistakes,
              outcome.memory_mistakes)  # fmt: skip
    assert not any(check() for check in checks)
    for worker in outcome.workers:
        if forget == "an operation":
            worker["communication"].pop()
        elif forget == "a parameter":
            worker["parameters"] -= 1
        elif forget == "a gradient":
            worker["held_memory_by_category"]["gradients"] -= 4
        else:
            worker["losses"][-1] += 2e-4
    wrong = {"an operation": {0, 1}, "a parameter": {2}, "the losses": {3}, "a gradient": {4}}[forget]
    assert {i for i, check in enumerate(checks) if check()} == wrong


PAIRS = {f"{a} and {b}": {a: 2, b: 2} for a, b in combinations(STRATEGIES.names(), 2)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_run_is_refused_in_one_sentence(mode: str, device: str) -> None:
    candidates = compatibility.cases(SPLITS | PAIRS | compatibility.schedules(size=4), MODELS, [mode])
    refusals = [
        compatibility.refusal(case.spec | {"launch": {"device": device}}) for case in candidates
    ]  # only a SpecError is caught
    assert None in refusals
    sentences = {refusal for refusal in refusals if refusal is not None}
    assert sentences
    for sentence in sentences:
        assert sentence.strip() == sentence
        assert "\n" not in sentence
        assert 20 < len(sentence) < 400
