"""Linear layers cut by each of their dims: equal to one worker, bytes as by formula; ties are cut alike."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import cases
from workbench.errors import SplitError
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.spec.files import override

LSTM = {"name": "lstm", "num_layers": 1, "hidden_dim": 12}
TRANSFORMER = {"name": "transformer", "num_layers": 1, "hidden_dim": 12, "num_heads": 2, "feedforward_dim": 24}
TIED = {**TRANSFORMER, "tied_head": True}
HIDDEN = {"embedding": "hidden", "head": "hidden"}
CUTS: dict[str, tuple[dict[str, Any], dict[str, str], int]] = {
    "embedding and head by hidden features, 3 workers": (LSTM, {**HIDDEN, "recurrent": "none"}, 3),
    "embedding by entries, head with a bias whole": (LSTM, {"head": "none", "recurrent": "none"}, 2),
    "embedding whole, head with a bias by entries": (LSTM, {"embedding": "none", "recurrent": "none"}, 2),
    "tied embedding by hidden features": (TIED, HIDDEN, 2),
    "tied embedding whole": (TIED, {"embedding": "none", "head": "none"}, 2),
    "attention alone": (TRANSFORMER, {"embedding": "none", "head": "none", "feedforward": "none"}, 2),
}


def spec_of(model: dict[str, Any], cut: dict[str, str], size: int) -> dict[str, Any]:
    return {
        "model": model,
        "dataset": {"name": "text", "sequence_length": 6},
        "split": {"tensor": {"size": size, "cut": cut}},
        "train": {"num_steps": 1, "num_warmup_steps": 0, "global_batch_size": 4},
    }


@pytest.mark.parametrize("name", CUTS)
def test_sliced_linear_layers_equal_one_worker_and_their_formulas(name: str) -> None:
    cases.assert_split_as_by_formula(spec_of(*CUTS[name]))


def test_a_stage_without_sliced_layers_communicates_nothing_along_tensor() -> None:
    spec = spec_of(TRANSFORMER, {"head": "none"}, 2)
    spec["split"]["layer"] = {"size": 2, "partition": [2, 1]}  # the second stage is the head
    cases.assert_split_as_by_formula(spec)
    communication = [list(plan(RunSpec(**spec)).expected_communication_of(rank)) for rank in (0, 2)]
    assert ["tensor" in {c.axis for c in of_worker} for of_worker in communication] == [True, False]


def test_what_is_tied_must_be_cut_alike() -> None:
    with pytest.raises(SplitError, match="cut both in the same way"):
        plan(RunSpec(**spec_of(TIED, {"embedding": "hidden"}, 2)))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"attention": "hidden"}, "unknown dim 'hidden'.*Allowed: heads, none"),
        ({"convolution": "rows"}, "unknown kind of layers 'convolution'.*attention, embedding, feedforward, head"),
        (dict.fromkeys(("attention", "feedforward", "embedding", "head"), "none"), "all of them are set to none"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(cut: dict[str, str], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        plan(RunSpec(**spec_of(TRANSFORMER, cut, 2)))


def test_a_single_head_cannot_be_divided_and_may_be_kept_whole() -> None:
    spec = RunSpec(model={**TRANSFORMER, "num_heads": 1}, split={"tensor": 2})
    with pytest.raises(
        SplitError, match=r'\(remainder 1\); set split\.tensor\.cut\.attention = "none" to replicate these layers$'
    ):
        plan(spec)
    assert plan(spec.replace(split={"tensor": {"size": 2, "cut": {"attention": "none"}}})).num_workers == 2


def test_hidden_features_that_do_not_divide_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(SplitError, match=r"12 hidden features of input\.token are not divisible by 5 workers \(remainder 2\)"):
        plan(RunSpec(**spec_of(LSTM, {**HIDDEN, "recurrent": "none"}, 5)))


def test_all_kinds_of_layers_that_do_not_divide_are_named_at_once() -> None:
    with pytest.raises(SplitError, match=r"these layers; the same applies to attention, feedforward and head$"):
        plan(RunSpec(model="transformer", split={"tensor": 3}))


def test_a_cut_is_given_beside_the_size_on_the_command_line() -> None:
    table = override({}, model=None, dataset=None, splits=["tensor=2,cut.head=none,cut.embedding=hidden"], sets=[])
    assert table["split"] == {"tensor": {"size": 2, "cut": {"head": "none", "embedding": "hidden"}}}
