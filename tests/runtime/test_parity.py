"""The verdict of a parity check, by what the split, the same shards and the whole batch give."""

from __future__ import annotations

import pytest
import torch

from workbench.plan.lossy import Lossy
from workbench.plan.parity import Verdict
from workbench.runtime.parity.comparison import Comparison
from workbench.runtime.parity.local_tensors import LocalTensor
from workbench.runtime.parity.reference import ReferenceStep
from workbench.runtime.parity.tolerance import Tolerance

ROUNDING = 1e-9
COMPRESSION, LOCAL_SGD = Lossy(limit=0.5), Lossy(limit=0.0, changes="parameters", every=2)
NAME = "gradient of weight"


def compared(
    split: float, shards: float, batch: float | None, lossy: Lossy | None = None, hides_dependence: bool = False
) -> tuple[Comparison, bool]:
    """A step in which each side computes a tensor of one value, and whether the reference continues from the split."""
    comparison = Comparison(lossy, Tolerance(ROUNDING, global_norm_share=1e-3), hides_dependence)
    of_batch = None if batch is None else {NAME: torch.full((4,), batch)}
    reference = ReferenceStep({NAME: torch.full((4,), shards)}, of_batch)
    halves = [LocalTensor(NAME, (offset,), torch.full((2,), split)) for offset in (0, 2)]
    return comparison, comparison.add_step(0, reference, halves)


@pytest.mark.parametrize(
    ("split", "shards", "batch", "verdict", "error", "continues"),
    [
        (1.0, 1.0, None, "equal", 0.0, False),
        (1.0, 1.0, 1.0, "equal", 0.0, False),
        (1.0, 1.0, 2.0, "equal per shard", 0.0, False),
        (1.0, 2.0, 1.0, "equal", 0.0, True),  # synchronized batch norm: workers compute their shards together
        (1.0, 2.0, 2.0, "wrong", 0.5, False),
        (1.0, 2.0, 4.0, "wrong", 0.5, False),
        (1.0, 2.0, None, "wrong", 0.5, False),
    ],
)
def test_the_verdict_says_which_reference_the_split_equals(
    split: float, shards: float, batch: float | None, verdict: Verdict, error: float, continues: bool
) -> None:
    comparison, continues_from_split = compared(split, shards, batch)
    assert (comparison.verdict, continues_from_split) == (verdict, continues)
    assert comparison.reported_error.error == pytest.approx(error)
    assert comparison.batch_dependent_tensors == ({NAME} if verdict == "equal per shard" else set())


@pytest.mark.parametrize(
    ("split", "batch", "lossy", "verdict", "continues"),
    [
        (1.25, 1.0, COMPRESSION, "lossy", True),
        (1.75, 1.0, COMPRESSION, "wrong", True),
        (1.0, 1.0, COMPRESSION, "lossy", True),
        (1.0, None, LOCAL_SGD, "lossy", False),
        (1.25, None, LOCAL_SGD, "wrong", False),
    ],
)
def test_a_declared_difference_is_lossy_up_to_its_bound(
    split: float, batch: float | None, lossy: Lossy, verdict: Verdict, continues: bool
) -> None:
    comparison, continues_from_split = compared(split, 1.0, batch, lossy)
    assert (comparison.verdict, continues_from_split) == (verdict, continues)


def test_a_declared_difference_does_not_hide_that_sharding_causes_one() -> None:
    comparison, _ = compared(1.25, 1.0, 2.0, COMPRESSION)
    assert (comparison.verdict, comparison.batch_dependent_tensors) == ("lossy", {NAME})


def test_a_model_that_depends_on_the_batch_by_less_than_rounding_is_equal_per_shard() -> None:
    assert compared(1.0, 1.0, 1.0, hides_dependence=True)[0].verdict == "equal per shard"


def test_a_wrong_optimizer_is_wrong_whatever_the_gradients() -> None:
    comparison, _ = compared(1.0, 1.0, 1.0)
    comparison.add_optimizer({"parameter weight after steps of adam": 1e-3}, ROUNDING)
    assert (comparison.verdict, comparison.reported_error.tensor) == ("wrong", "parameter weight after steps of adam")
