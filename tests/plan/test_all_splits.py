"""All splits of a number of workers: what the checks accept, each once, and nothing else."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.errors import SpecError
from workbench.plan.all_splits import all_splits
from workbench.plan.resolve import plan
from workbench.spec import RunSpec


def labels(specs: list[RunSpec]) -> set[str]:
    return {spec.split.label for spec in specs}


def test_every_combination_that_the_checks_accept_is_listed_once() -> None:
    specs = all_splits(RunSpec(model="cnn"), 4)
    alone = {"dp4", "layer4", "pp4-1f1b-m4", "tp4"}
    combined = {"dp2-layer2", "dp2-pp2-1f1b-m4", "dp2-tp2", "layer2-tp2", "pp2-1f1b-m4-tp2"}
    assert labels(specs) == alone | combined
    assert len(specs) == len(alone | combined)
    assert labels(specs[: len(alone)]) == alone, "one strategy alone comes first"
    assert all(plan(spec).num_workers == 4 for spec in specs)


def test_experts_divide_the_data_axis_or_stand_alone() -> None:
    assert {"ep4", "dp4-ep2", "dp2-ep2-tp2"} <= labels(all_splits(RunSpec(model="moe"), 4))


def test_variants_are_those_with_a_name_of_their_own() -> None:
    added = labels(all_splits(RunSpec(model="mlp"), 2, variants=True)) - labels(all_splits(RunSpec(model="mlp"), 2))
    assert added == {"dp2-zero1", "dp2-zero2", "fsdp2"}


def test_a_variant_that_the_spec_gives_is_listed_once_beside_the_others() -> None:
    given = {"data": {"size": 2, "shard": "parameters", "num_accumulation_steps": 2}}
    specs = all_splits(RunSpec(model="mlp", split=given), 2, variants=True)
    of_data = [spec.split.label for spec in specs if "data" in dict(spec.split.items())]
    assert sorted(of_data) == ["dp2-a2", "dp2-zero1-a2", "dp2-zero2-a2", "fsdp2-a2"]


def test_a_strategy_keeps_the_options_that_the_spec_gives_it_and_the_rest_of_the_spec_stays() -> None:
    spec = RunSpec(model="mlp", split={"pipeline": {"size": 2, "schedule": "gpipe", "num_microbatches": 8}}, train={"seed": 3})
    specs = all_splits(spec, 4)
    assert {"pp4-gpipe-m8", "dp2-pp2-gpipe-m8", "dp4"} <= labels(specs)
    assert {s.train.seed for s in specs} == {3}


def test_a_pipeline_has_at_least_as_many_microbatches_as_stages() -> None:
    assert "pp8-1f1b-m8" in labels(wb.all_splits(RunSpec(model="cnn"), 8))


def test_no_worker_count_that_nothing_divides_is_split() -> None:
    assert labels(all_splits(RunSpec(model="mlp"), 7)) == set()


def test_what_no_split_changes_is_refused_instead_of_an_empty_list() -> None:
    with pytest.raises(SpecError, match=r"dataset\.name: provides images, but transformer requires tokens"):
        all_splits(RunSpec(model="transformer", dataset="digit_images"), 2)
