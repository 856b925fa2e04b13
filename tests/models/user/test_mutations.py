"""Mutations of a split of a user's module: parity catches what it accepted before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.models.user import zoo
from workbench.plan import compatibility
from workbench.plan.parity import Verdict
from workbench.runtime.inspection_process import answer
from workbench.runtime.tracing.recorder import Recorder
from workbench.sources import inspection
from workbench.sources.process import Answer
from workbench.testing import cases
from workbench.testing.workers import run_in_workers

PIPELINE = {"pipeline": {"size": 2, "num_microbatches": 2}}
PADDED = {"name": "synthetic", "kind": "tokens", "sequence_length": 6, "vocabulary_size": 20, "num_samples": 64, "padded": True}
TEXT = {**PADDED, "padded": False}
MUTATIONS: dict[str, tuple[type[nn.Module], Any, dict[str, Any], Verdict]] = {
    "gradients kept": (zoo.Shared, "digits", {"data": 2}, "wrong"),
    "gradients not averaged": (zoo.Shared, "digits", {"data": 2}, "wrong"),
    "tie forgotten": (zoo.TiedTransformer, TEXT, {"layer": 2}, "wrong"),
    "microbatch shifted": (zoo.Shared, "digits", PIPELINE, "wrong"),
    "microbatch lost": (zoo.Shared, "digits", PIPELINE, "wrong"),
    "weights left out": (zoo.Recurrent, PADDED, {"data": 2}, "wrong"),
    "ignored targets counted": (zoo.Recurrent, PADDED, {"data": 2}, "equal per shard"),
    "dropout streams of its own": (zoo.Dropped, "digits", {"data": 2}, "wrong"),
}
"""Mutation → class in zoo.py, data, split, and the verdict. A wrong count is the same mistake in the shards of one worker: parity
says that they are not the whole batch."""


def verdicts(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any], mutation: str) -> list[Any]:
    """Returns the reports on the split as it is, and with the mutation."""
    asked: Any = inspection
    asked.ask = lambda source, module, request, limit_s: Answer(answer(request), "", "")  # this process is as good as another
    return [cases.parity(rank, recorder, control, spec, mistake) for mistake in (None, mutation)]


LIKE_ANOTHER = ("gradients not averaged", "microbatch lost")
"""The suite of the built-in models has them, too."""


@pytest.mark.parametrize(
    "mutation", [pytest.param(name, marks=[pytest.mark.cross] * (name in LIKE_ANOTHER)) for name in MUTATIONS]
)
def test_parity_catches_a_mutation_of_a_split_that_it_accepted(mutation: str) -> None:
    model, dataset, split, verdict = MUTATIONS[mutation]
    spec = {
        "model": {"name": f"{Path(zoo.__file__)}:{model.__name__}"},
        "dataset": dataset,
        "split": split,
        "train": compatibility.TRAIN,
        "launch": {"device": "cpu"},
    }
    accepted, mutated = run_in_workers(2, verdicts, spec, mutation)[0]
    assert (accepted["verdict"], mutated["verdict"]) == ("equal", verdict), mutated
