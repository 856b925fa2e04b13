"""Context parallelism of a user's module: recognised by a trial, equal to one worker, else refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models.user import attention_zoo, sequence_zoo
from workbench.errors import SplitError
from workbench.models.user import UserModel, UserModelOptions
from workbench.models.user.inspect_modules import inspected
from workbench.plan import compatibility
from workbench.plan.resolve import plan
from workbench.registry import DATASETS
from workbench.runtime.sequence_trial import sequence_split_of
from workbench.spec import RunSpec
from workbench.testing.conformance import assert_conforms

LLAMA = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 16,
    "vocab_size": 256,
}  # fmt: skip


def spec_of(split: dict[str, Any], model: dict[str, Any] | None = None, length: int = 16, **options: Any) -> dict[str, Any]:
    return {
        "model": model or {"name": f"{Path(sequence_zoo.__file__)}:Decoder", "options": options},
        "dataset": {"name": "text", "sequence_length": length},
        "split": split,
        "train": compatibility.TRAIN,
        "measure": compatibility.MEASURE,
        "launch": {"device": "cpu"},
    }


@pytest.mark.parametrize(
    "split",
    [
        {"context": 2},
        pytest.param({"context": {"size": 2, "attention": "all_gather", "balance": "contiguous"}}, marks=pytest.mark.cross),
        pytest.param({"context": 4}, marks=pytest.mark.cross),
        pytest.param({"data": 2, "context": 2}, marks=pytest.mark.cross),
    ],
    ids=str,
)
def test_a_decoder_on_a_part_of_the_positions_is_one_worker_and_its_formulas(split: dict[str, Any]) -> None:
    assert_conforms(spec_of(split))


STACKED = {"name": f"{Path(sequence_zoo.__file__)}:{sequence_zoo.Stacked.__name__}"}
SLICED = {"name": f"{attention_zoo.__file__}:Decoder", "options": {"attention": "grouped", "tokens": 256}}
PIECES = {"size": 2, "num_microbatches": 2}
COMBINED: dict[str, tuple[dict[str, Any], str]] = {
    "cp2 · layer2, recomputed": ({"context": 2, "layer": 2}, "full"),
    "cp2, selective": ({"context": 2}, "selective"),
    "cp2 gathered, recomputed": ({"context": {"size": 2, "attention": "all_gather"}}, "full"),
    "cp2 · layer2": ({"context": 2, "layer": 2}, "none"),
    "cp2 · pp2": ({"context": 2, "pipeline": PIECES}, "none"),
    "cp2 · pp2, recomputed": ({"context": 2, "pipeline": PIECES}, "full"),
    "cp2 · tp2": ({"context": 2, "tensor": 2}, "none"),
    "cp2 · tp2, recomputed": ({"context": 2, "tensor": 2}, "full"),
    "cp2 · pp2 · tp2": ({"context": 2, "pipeline": PIECES, "tensor": 2}, "none"),
    "dp2 · cp2 · pp2": ({"data": 2, "context": 2, "pipeline": PIECES}, "none"),
}


@pytest.mark.parametrize(
    "combined", [pytest.param(name, marks=[] if name == "cp2 · layer2, recomputed" else pytest.mark.cross) for name in COMBINED]
)
def test_stages_and_recomputation_with_a_part_of_the_positions_are_one_worker(combined: str) -> None:
    split, checkpointing = COMBINED[combined]
    spec = spec_of(split, SLICED if "tensor" in split else STACKED)
    assert_conforms({**spec, "train": {**spec["train"], "checkpointing": checkpointing}})


@pytest.mark.cross
def test_a_transformers_decoder_with_rotary_positions_is_one_worker() -> None:
    pytest.importorskip("transformers")
    model = {"name": "hf:llama", "options": LLAMA}
    assert_conforms(spec_of({"context": {"size": 2, "balance": "contiguous"}}, model))
    with pytest.raises(
        SplitError, match=r'balance: "zigzag" is not supported by hf:llama: it fails on a part .*; use "contiguous"'
    ):
        plan(RunSpec(**spec_of({"context": 2}, model)))  # a jump between positions begins another packed sequence


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"positions": "rows"}, "depends on other positions, or on the number of a position that is not made by torch.arange"),
        ({"attention": "sum of earlier positions"}, "depends on other positions"),
        ({"attention": "mask"}, "it calls scaled_dot_product_attention with a mask"),
        ({"attention": "bidirectional"}, "it calls scaled_dot_product_attention without is_causal"),
        ({"attention": "dropout"}, "it calls scaled_dot_product_attention with dropout"),
    ],
    ids=str,
)
def test_what_depends_on_other_positions_is_refused_with_the_reason(options: dict[str, Any], reason: str) -> None:
    spec = RunSpec(**spec_of({}, **options))
    assert isinstance(spec.model, UserModelOptions)
    model = UserModel(spec.model, DATASETS.get("text")(spec.dataset).summary())
    assert reason in sequence_split_of(model, *inspected(model)).refusal


def test_what_is_not_combined_with_it_is_refused_too() -> None:
    with pytest.raises(SplitError, match=r"split\.context: sequence_zoo\.py:Decoder cannot be .*: it calls .* with a mask"):
        plan(RunSpec(**spec_of({"context": 2}, attention="mask")))
    with pytest.raises(SplitError, match="18 positions are not divisible into 4 chunks"):
        plan(RunSpec(**spec_of({"context": 2}, length=18)))
    between = {**STACKED, "options": {"attends_between": True}}
    with pytest.raises(SplitError, match=r"sequence_zoo\.py:Stacked calls attention outside of its blocks"):
        plan(RunSpec(**spec_of({"context": 2, "layer": 2}, between)))
    spec = spec_of({"context": 2})
    with pytest.raises(SplitError, match=r"train\.compile: is not supported with split\.context"):
        plan(RunSpec(**{**spec, "train": {**spec["train"], "compile": True}}))
