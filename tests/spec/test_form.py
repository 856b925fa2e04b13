"""Forms say what the options classes say, and nothing that reads a file is offered."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import PositiveFloat, PositiveInt

from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES
from workbench.spec.form import all_fields, fields, parts
from workbench.spec.options import AppliesIf, Options, ReadsFile
from workbench.spec.units import DURATION


class Inner(Options):
    rate: PositiveFloat | None = None
    """Inner rate."""


class Outer(Options):
    count: PositiveInt = 3
    """How many."""

    wait_s: Annotated[float, ReadsFile] = 1.0
    """Not offered."""

    inner: Inner = Inner()
    """Options within options."""


def test_bounds_units_and_options_within_options_are_fields() -> None:
    count, rate = fields(Outer, "outer")
    assert (count.path, count.kind, count.minimum, count.is_optional) == ("outer.count", "integer", 1, False)
    assert count.hint == "How many. (at least 1, default 3)"
    assert (count.label, rate.label) == ("Count", "Inner: rate")
    assert (rate.path, rate.kind, rate.minimum, rate.is_exclusive, rate.is_optional) == (
        "outer.inner.rate",
        "number",
        0,
        True,
        True,
    )


def test_every_field_of_every_plugin_and_part_has_a_sentence() -> None:
    for model in MODELS.names():
        for dataset in DATASETS.names():
            assert all(field.help.endswith(".") for field in all_fields(model, dataset).values())


def test_what_reads_a_file_is_offered_nowhere() -> None:
    known = all_fields("transformer", "text")
    assert "split.pipeline.actions" in known
    labels = {
        "split.data.bucket_size_mib": "Bucket size",
        "model.num_kv_heads": "Key/value heads",
        "train.lr_schedule": "Learning-rate schedule",
        "train.num_lr_warmup_steps": "Learning-rate warmup steps",
        "measure.peak_flops_per_s": "Peak FLOP/s of one device",
    }
    assert {path: known[path].label for path in labels} == labels
    assert not [path for path in known if path.endswith("_file")]


def test_choices_are_those_of_the_registries_and_presets() -> None:
    known = all_fields("transformer", "text")
    assert known["split.pipeline.schedule"].choices == tuple(SCHEDULES.names())
    assert known["model.name"].choices == tuple(MODELS.names())
    assert "gpt2-tiny" in known["model.preset"].choices
    assert known["train.precision"].choices == ("fp32", "bf16", "fp64")


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_the_defaults_of_a_form_are_those_of_the_options(name: str) -> None:
    options = STRATEGIES.get(name).Options
    for field in fields(options, "split"):
        assert field.default == getattr(options(), field.path.removeprefix("split."))


def test_defaults_can_be_a_presets() -> None:
    options = MODELS.get("transformer").Options
    known = {f.path: f.default for f in fields(options, "model", options(name="transformer", preset="gpt2-124m"))}
    assert known["model.num_layers"] == 12


def test_all_plain_parts_of_a_spec_have_a_form() -> None:
    assert {"train", "inference", "measure", "baseline", "launch", "link"} <= set(parts())


class Limited(Options):
    kind: Literal["free", "limited"] = "free"
    """Kind."""

    limit_s: Annotated[PositiveFloat | None, DURATION, AppliesIf("kind", ("limited",)), AppliesIf("mode", ("train",))] = 60.0
    """Limit."""

    inner: Annotated[Inner, AppliesIf("limit_s")] = Inner()
    """Options within options."""


def test_an_option_says_when_it_has_an_effect_and_in_which_units_it_is_written() -> None:
    _, limit, rate = fields(Limited, "part")
    assert (limit.label, limit.kind, limit.text(limit.default), limit.parse("2min")) == ("Limit", "quantity", "1 min", 120.0)
    assert limit.hint == "Limit. (more than 0, default 1 min)"
    assert limit.no_effect({"part.kind": "limited", "mode": "train"}) == ""
    assert limit.no_effect({"part.kind": "free", "mode": "train"}) == "No effect: requires kind = limited"
    assert limit.no_effect({"part.kind": "limited", "mode": "inference"}) == "No effect: requires mode = train"
    assert (rate.no_effect({"part.limit_s": 1.0}), rate.no_effect({"part.limit_s": None})) == ("", "No effect: requires limit_s")


def test_every_condition_of_an_option_names_another_option() -> None:
    conditions = set()
    for model in MODELS.names():
        known = all_fields(model, "synthetic")
        for condition in {condition for field in known.values() for condition in field.applies_if}:
            choices = known[condition.option].choices
            assert not choices or set(condition.values) <= set(choices)
            conditions.add(condition)
    assert AppliesIf("split.data.compression", ("powersgd",)) in conditions
    assert AppliesIf("split.pipeline.schedule", ("csv",)) in conditions
