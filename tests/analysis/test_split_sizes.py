"""All splits by formula, and what makes them fit."""

from __future__ import annotations

from workbench.analysis.outlook import Outlook
from workbench.analysis.split_sizes import changes, savings, split_sizes
from workbench.plan.all_splits import all_splits
from workbench.plan.resolve import plan
from workbench.spec import RunSpec
from workbench.spec.paths import differences, spec_of

SPEC = RunSpec(model={"name": "transformer", "num_layers": 2})


def test_sizes_equal_those_of_the_form_and_the_least_memory_is_first() -> None:
    specs = all_splits(SPEC, 2, variants=True)
    frame = split_sizes(specs)
    assert sorted(frame["number"]) == list(range(len(specs)))
    assert frame["memory"].is_monotonic_increasing
    for row in frame.itertuples():
        outlook = Outlook.of(plan(specs[row.number]))
        assert row.memory == max(outlook.bytes_of_workers.values())
        assert row.communication == outlook.communication["bytes"].sum()


def test_a_saving_makes_as_many_splits_fit_as_it_says() -> None:
    limit = int(split_sizes(all_splits(SPEC, 2))["memory"].min()) - 1
    useful = savings(SPEC, 2, limit)
    assert [list(saving.change) for saving in useful][:1] == [["train.checkpointing"]]
    for saving in useful:
        changed = split_sizes(all_splits(spec_of({**differences(SPEC), **saving.change}), 2))
        assert 0 < saving.num_fitting == (changed["memory"] <= limit).sum()
        assert saving.num_splits == len(changed)


def test_what_is_set_already_is_no_saving() -> None:
    spec = spec_of({**differences(SPEC), "train.checkpointing": "full", "train.precision": "bf16", "train.global_batch_size": 2})
    assert changes(spec) == [{"train.global_batch_size": 1}]
    half, bf16, full = {"train.global_batch_size": 16}, {"train.precision": "bf16"}, {"train.checkpointing": "full"}
    assert changes(spec_of({**differences(SPEC), "train.global_batch_size": 32})) == [full, half, bf16, {**full, **bf16}]
    assert savings(spec, 2, 0) == []
