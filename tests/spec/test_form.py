"""Forms say what the options classes say, and nothing that reads a file is offered."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import PositiveFloat, PositiveInt

from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES
from workbench.spec.form import all_fields, fields, parts
from workbench.spec.options import Options, ReadsFile


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
        "split.data.bucket_size_mib": "Bucket size (MiB)",
        "model.num_kv_heads": "Key/value heads",
        "train.lr_schedule": "Learning-rate schedule",
        "train.num_lr_warmup_steps": "Learning-rate warmup steps",
        "measure.peak_flops_per_s": "Peak (FLOP/s)",
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
