"""Splits of modules as people write them compute what one worker computes and communicate what the formulas say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.models.user import attention_zoo, convolution_zoo, zoo
from workbench.errors import SplitError
from workbench.plan import compatibility
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.testing.conformance import assert_conforms, run_case

TEXT = {"name": "text", "sequence_length": 6}
IMAGES = "digit_images"
MODELS: dict[str, tuple[dict[str, Any], Any]] = {
    "ResidualsOutside": ({}, "digits"),
    "UNet": ({}, IMAGES),
    "UNet, batch norm": ({"norm": True}, IMAGES),
    "TiedTransformer": ({"tokens": 256}, TEXT),
    zoo.NeverCalled.__name__: ({"tokens": 256}, TEXT),
    "Recurrent": ({"tokens": 256}, TEXT),
    "DependsOnValues": ({}, "digits"),
    "Shared": ({}, "digits"),
    "FrozenBackbone": ({}, "digits"),
    "FrozenSkip": ({}, "digits"),
    "Unused": ({}, "digits"),
    "Branches": ({}, "digits"),
    "SecondName": ({}, "digits"),
    "WeightOfAnother": ({"tokens": 256}, TEXT),
}
"""Class in zoo.py → its arguments and the data."""
PIECES = {"size": 2, "num_microbatches": 2}
SPLITS: dict[str, dict[str, Any]] = {
    "dp2": {"data": 2},
    "zero1": {"zero1": 2},
    "fsdp2": {"fsdp": 2},
    "layer2": {"layer": 2},
    "1f1b": {"pipeline": PIECES},
    "zbv": {"pipeline": {**PIECES, "schedule": "zbv_zero_bubble"}},
    "dp2 · pp2": {"data": 2, "pipeline": PIECES},
    "fsdp2 · layer2": {"fsdp": 2, "layer": 2},
    "fsdp2 · pp2": {"fsdp": 2, "pipeline": PIECES},
    "tp2": {"tensor": 2},
}
STAGED = [split for split, options in SPLITS.items() if "layer" in options or "pipeline" in options]
REFUSED = {
    ("SecondName", "fsdp2"): "bias of zoo.py:SecondName is one of them under another name",
    ("ResidualsOutside", "zbv"): "only where one tensor crosses each cut, but",
    ("UNet", "zbv"): "only where one tensor crosses each cut, but 2 cross that of zoo.py:UNet after ",
    ("UNet, batch norm", "zbv"): "only where one tensor crosses each cut, but",
    ("Shared", "zbv"): "can be cut into 2 parts, too few",
    ("FrozenSkip", "zbv"): "can be cut into 2 parts, too few",
    **{("DependsOnValues", split): "; it cannot be cut: what a returns decides what the code does; use data" for split in STAGED},
}
"""Model and split → a part of the reason."""
ONLY = {"Unused": ("dp2", "zero1"), "Branches": (), zoo.SecondName.__name__: ("layer2",), "WeightOfAnother": ("fsdp2",)}
"""Model → the splits that show what is particular to it; of Branches, optimizer state depends on values, too."""
DEFAULT = {("ResidualsOutside", "1f1b"), ("ResidualsOutside", "fsdp2"), ("NeverCalled", "layer2")}
SLOW = {("UNet, batch norm", "1f1b"), ("NeverCalled", "fsdp2"), ("FrozenBackbone", "fsdp2 · layer2")}
"""The others are part of the cross product."""


def marks_of(model: str, split: str) -> list[pytest.MarkDecorator]:
    if (model, split) in DEFAULT:
        return []
    return [pytest.mark.slow if (model, split) in SLOW else pytest.mark.cross]


def spec_of(model: str, split: str) -> dict[str, Any]:
    options, dataset = MODELS[model]
    return {
        "model": {"name": f"{Path(zoo.__file__)}:{model.partition(',')[0]}", "options": options},
        "dataset": dataset,
        "split": SPLITS[split],
        "train": {**compatibility.TRAIN, "num_warmup_steps": 1},
        "measure": compatibility.MEASURE,
        "launch": {"device": "cpu"},
    }


@pytest.mark.parametrize(
    ("model", "split"),
    [
        pytest.param(model, split, marks=marks_of(model, split), id=f"{model} - {split}")
        for model in MODELS
        for split in SPLITS
        if (model, split) not in REFUSED and split in ONLY.get(model, SPLITS)
    ],
)
def test_a_split_of_a_module_is_one_worker_and_its_formulas(model: str, split: str) -> None:
    assert_conforms(spec_of(model, split))


def test_ddp_waits_for_no_layer_that_values_leave_out() -> None:
    outcome = run_case(spec_of(zoo.Branches.__name__, "dp2"))
    assert (outcome.parity["verdict"], outcome.parity["max_error"] < 1e-9) == ("equal per shard", True), outcome.parity
    assert not outcome.communication_mistakes()


SEARCHES = {
    "Unused": "does not use other.weight and other.bias",
    "Branches": r"does not use model.(left|right).weight and ",
    "DependsOnValues": "reads values of tensors",
    "ResidualsOutside": "",
}
"""Model → why DDP searches for unused parameters."""


@pytest.mark.parametrize("model", SEARCHES)
def test_ddp_searches_for_unused_parameters_where_there_may_be_some_and_says_so(model: str) -> None:
    notes = plan(RunSpec(**spec_of(model, "dp2"))).notes
    assert len(notes) == bool(SEARCHES[model])
    assert not notes or re.search(SEARCHES[model], notes[0])
    explicit = spec_of(model, "dp2") | {"split": {"data": {"size": 2, "find_unused_parameters": False}}}
    if "does not use" not in SEARCHES[model]:
        assert not plan(RunSpec(**explicit)).notes
        return
    with pytest.raises(SplitError, match="set it to true or leave it out"):
        plan(RunSpec(**explicit))


@pytest.mark.parametrize(
    ("model", "split"),
    [
        pytest.param(model, split, marks=[pytest.mark.slow if (model, split) in SLOW else pytest.mark.cross])
        for model in MODELS
        for split in SPLITS
        if (model, split) not in REFUSED and split not in ("zero1", "zbv")  # which are about training
    ],
)
def test_a_module_runs_forward_only_as_on_one_worker(model: str, split: str) -> None:
    outcome = run_case({**spec_of(model, split), "mode": "inference"})
    mistakes = outcome.parity_mistakes() + outcome.communication_mistakes() + outcome.parameter_mistakes()
    assert not mistakes + outcome.memory_mistakes()
    assert {loss for worker in outcome.workers for loss in worker["losses"]} == {None}


DECODERS = ("normed", "fused, sizes of the input", "fused, grouped")
"""Attention in attention_zoo.py, in a decoder with a tied head."""
SLICED: dict[str, dict[str, Any]] = {
    "tp2": {"tensor": 2},
    "dp2 · tp2": {"data": 2, "tensor": 2},
    "fsdp2 · tp2": {"fsdp": 2, "tensor": 2},
    "pp2 · tp2": {"pipeline": PIECES, "tensor": 2},
}


@pytest.mark.parametrize(
    ("attention", "split"),
    [
        pytest.param(attention, split, marks=[] if (attention, split) == ("normed", "tp2") else pytest.mark.cross)
        for attention in DECODERS
        for split in SLICED
    ],
)
def test_a_sliced_decoder_is_one_worker_and_its_formulas(attention: str, split: str) -> None:
    model = {"name": f"{attention_zoo.__file__}:Decoder", "options": {"attention": attention, "tokens": 256}}
    assert_conforms({**spec_of("TiedTransformer", "dp2"), "model": model, "split": SLICED[split]})


@pytest.mark.parametrize("split", [pytest.param(name, marks=[] if name == "tp2" else pytest.mark.cross) for name in SLICED])
def test_sliced_attention_of_torch_is_one_worker_and_its_formulas(split: str) -> None:
    model = {"name": f"{attention_zoo.__file__}:Translator", "options": {"tokens": 256}}
    assert_conforms({**spec_of("TiedTransformer", "dp2"), "model": model, "split": SLICED[split]})


RECOMPUTED: list[tuple[str, dict[str, Any], str]] = [
    ("fused, sizes of the input", {"tensor": 2}, "full"),
    *((attention, {"tensor": 2}, "selective") for attention in DECODERS),
    *(("normed", {other: size, "tensor": 2}, "full") for other, size in (("layer", 2), ("fsdp", 2), ("data", 2))),
    ("fused, grouped", {"pipeline": PIECES, "tensor": 2}, "full"),
    ("fused, grouped", {"pipeline": PIECES, "tensor": 2}, "selective"),
]


@pytest.mark.parametrize(
    ("attention", "split", "checkpointing"),
    [("normed", {"tensor": 2}, "full"), *(pytest.param(*case, marks=pytest.mark.cross) for case in RECOMPUTED)],
    ids=str,
)
def test_a_sliced_decoder_is_recomputed_with_its_communication(attention: str, split: dict[str, Any], checkpointing: str) -> None:
    model = {"name": f"{attention_zoo.__file__}:Decoder", "options": {"attention": attention, "tokens": 256}}
    spec = spec_of("TiedTransformer", "dp2")
    assert_conforms({**spec, "model": model, "split": split, "train": {**spec["train"], "checkpointing": checkpointing}})


CONVOLUTIONS = ("basic", "basic, group norm", "squeeze and excitation", "grouped", "halving")
"""Blocks in convolution_zoo.py."""
SYNCHRONIZED = {"data": {"size": 2, "sync_batch_norm": True}, "tensor": 2}


@pytest.mark.parametrize(
    ("block", "split"),
    [
        pytest.param(block, split, marks=[] if (block, split) == ("squeeze and excitation", "tp2") else pytest.mark.cross)
        for block in CONVOLUTIONS
        for split in SLICED
    ],
)
def test_a_sliced_convolutional_net_is_one_worker_and_its_formulas(block: str, split: str) -> None:
    model = {"name": f"{convolution_zoo.__file__}:Images", "options": {"kind": block}}
    assert_conforms({**spec_of("UNet", "dp2"), "model": model, "split": SLICED[split]})


@pytest.mark.cross
def test_sliced_batch_norms_are_synchronized() -> None:
    model = {"name": f"{convolution_zoo.__file__}:Images", "options": {"kind": "basic"}}
    assert_conforms({**spec_of("UNet", "dp2"), "model": model, "split": SYNCHRONIZED})


@pytest.mark.parametrize(
    ("tensor", "train", "message"),
    [
        ({"sequence_parallel": True}, {}, "sequence_parallel: needs layers that are known to lie between the cut ones"),
        ({"parallel_loss": True}, {}, "parallel_loss: needs a known head"),
        ({}, {"compile": True}, "compile: does not support modules of your own model"),
    ],
)
def test_options_that_sliced_modules_do_not_support_are_refused(
    tensor: dict[str, bool], train: dict[str, Any], message: str
) -> None:
    spec = spec_of("TiedTransformer", "dp2")
    with pytest.raises(SplitError, match=message):
        plan(RunSpec(**{**spec, "split": {"tensor": {"size": 2, **tensor}}, "train": {**spec["train"], **train}}))


@pytest.mark.parametrize(("model", "split"), REFUSED)
def test_what_cannot_be_split_is_refused_with_the_reason(model: str, split: str) -> None:
    with pytest.raises(SplitError, match=REFUSED[model, split]):
        plan(RunSpec(**spec_of(model, split)))


@pytest.mark.cross
@pytest.mark.parametrize("train", [{"mixed_precision": "bf16"}, {"checkpointing": "full"}], ids=["bf16", "checkpointing"])
def test_blocks_that_are_called_with_keywords_are_cast_and_recomputed(train: dict[str, str]) -> None:
    spec = spec_of("TiedTransformer", "layer2")
    model = {**spec["model"], "options": {"tokens": 256, "dropout": 0.1}}
    assert_conforms({**spec, "model": model, "train": {**spec["train"], **train}})
