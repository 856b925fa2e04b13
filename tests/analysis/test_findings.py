"""The sentences under a comparison say what its rows say, also where figures are missing."""

from __future__ import annotations

from tests.helpers.rows import row
from workbench.analysis.findings import findings

SINGLE = row("single", 1, step_time_s=0.1, speedup=1.0, peak_memory_bytes=100 * 2**20, parity_ok=True)
DATA = row(
    "dp2", 2, step_time_s=0.05, speedup=2.0, speedup_same_cores=1.25, peak_memory_bytes=60 * 2**20, compute_s=0.04,
    exposed_communication_s=0.005, idle_s=0.002, optimizer_s=0.002, other_s=0.001, communication_bytes_per_step=2**20,
    parity_ok=True,
)  # fmt: skip
LAYER = {**DATA, "split": "layer2", "step_time_s": 0.11, "peak_memory_bytes": 50 * 2**20, "compute_s": 0.05, "idle_s": 0.05}


def test_the_fastest_the_smallest_and_what_limits_each() -> None:
    limits = {"a": "dp2 is limited by compute.", "b": "layer2 is limited by the bubble."}
    fastest, smallest, *of_limits = findings([SINGLE, {**DATA, "run_id": "a"}, {**LAYER, "run_id": "b"}], limits)
    assert fastest.startswith("Among the splits, dp2 has the shortest step: 50.0 ms, a speed-up of 2.00 over one worker")
    assert "1.25 over one worker on the same cores" in fastest
    assert smallest.startswith("layer2 needs the least memory")
    assert "50% of one worker's" in smallest
    assert of_limits == [*limits.values()]


def test_a_split_that_needs_as_much_memory_as_one_worker_is_not_called_small() -> None:
    same = {**DATA, "peak_memory_bytes": SINGLE["peak_memory_bytes"]}
    assert "No split needs less memory than one worker." in findings([SINGLE, same])
    assert not [sentence for sentence in findings([SINGLE, same]) if "least memory" in sentence]
    assert not [sentence for sentence in findings([DATA]) if "least memory" in sentence], "there is nothing to compare with"


def test_a_slower_split_is_not_called_fast() -> None:
    (fastest, *_) = findings([SINGLE, {**DATA, "speedup": 0.7}])
    assert "a speed-up of 0.70 over one worker" in fastest
    assert "as fast" not in fastest


def test_a_split_that_is_wrong_is_named() -> None:
    assert "layer2 does NOT compute what one worker computes." in findings([SINGLE, DATA, {**LAYER, "parity_ok": False}])


def test_a_split_that_differs_on_purpose_is_not_called_wrong() -> None:
    sentences = findings([SINGLE, {**DATA, "split": "dp2-fp16", "parity_ok": None, "parity_max_error": 5e-4}])
    assert sentences[-1] == "dp2-fp16 changes gradients on purpose: it differs from one worker by up to 5.0e-04."
    assert not [sentence for sentence in sentences if "NOT" in sentence]
    declared = {"parity_verdict": "lossy", "parity_max_error": 2e-16, "parity_on_purpose": "averages parameters every 3 steps"}
    known = "dp2 averages parameters every 3 steps, unlike one worker; it differs by up to 2.0e-16 from the declared computation."
    assert findings([SINGLE, {**DATA, **declared}])[-1] == known


def test_a_split_that_is_equal_per_shard_says_how_far_the_whole_batch_is_and_why() -> None:
    figures = {"parity_verdict": "equal per shard", "parity_ok": True, "parity_whole_batch_error": 0.44}
    (*_, known) = findings([SINGLE, {**DATA, **figures, "parity_cause": "a norm has its own", "parity_remedy": "set b = 1"}])
    same = "dp2 equals one worker on the same shards of the batch but differs by up to 4.4e-01 from one worker on the"
    assert known == f"{same} whole batch: a norm has its own. To make them equal, set b = 1."
    assert findings([SINGLE, {**DATA, **figures}])[-1] == f"{same} whole batch."


def test_splits_that_equal_one_worker_up_to_rounding_in_fp32_say_what_computes_in_it() -> None:
    figures = {"parity_verdict": "equal", "parity_ok": True, "parity_cause": "Norm (a and 1 more) computes in fp32"}
    splits = [{**DATA, **figures, "split": split, "parity_whole_batch_error": e} for split, e in (("dp2", 1e-7), ("pp2", 2e-7))]
    assert findings([SINGLE, *splits])[-1] == (
        "dp2 and pp2 equal one worker up to 2.0e-07: Norm (a and 1 more) computes in fp32 inside the fp64 check, which allows"
        " 1e-06 for it."
    )


def test_a_lossy_split_of_shards_that_are_not_the_whole_batch_says_both() -> None:
    figures = {"parity_verdict": "lossy", "parity_ok": None, "parity_max_error": 3e-4, "parity_whole_batch_error": 0.2}
    (*_, known) = findings([SINGLE, {**DATA, **figures, "parity_cause": "a norm has its own", "parity_remedy": "set b = 1"}])
    assert known == (
        "dp2 changes gradients on purpose: it differs from one worker on the same shards of the batch by up to"
        " 3.0e-04; it differs by up to 2.0e-01 from one worker on the whole batch: a norm has its own. To remove this difference,"
        " set b = 1."
    )
    assert findings([SINGLE, {**DATA, **figures}])[-1].endswith("from one worker by up to 3.0e-04.")


def test_failed_runs_teach_nothing() -> None:
    failed = row("tp2", 2, state="failed")
    assert findings([SINGLE, failed]) == []
    assert not [sentence for sentence in findings([SINGLE, DATA, failed]) if "tp2" in sentence]


def test_missing_figures_are_left_out() -> None:
    bare = row("tp2", 2, step_time_s=0.05)
    assert findings([bare]) == ["tp2 has a step time of 50.0 ms.", "tp2: no trace step was recorded."]
    sentences = findings([{**DATA, "speedup_same_cores": None}])
    assert not [sentence for sentence in sentences if "None" in sentence]


def test_findings_about_undisturbed_runs_stay_when_one_is_disturbed() -> None:
    busy = {**DATA, "split": "tp2", "step_time_s": 0.01, "trust": "disturbed", "other_load_cores": 1.26, "run_id": "another"}
    sentences = findings([SINGLE, DATA, busy])
    assert sentences[0].startswith("⚠ disturbed: other programs ran at the same time (tp2 (nother): 1.3 cores)")
    assert sentences[1:] == [s for s in findings([SINGLE, DATA]) if s]
    assert not [s for s in findings([SINGLE, busy]) if "shortest step" in s or "no trace step" in s]


def test_other_states_and_empty_speedups_have_a_sentence_each() -> None:
    few, shared = {**DATA, "trust": "too few steps"}, {**DATA, "trust": "shared cores"}
    bare = {**DATA, "speedup": None, "baseline_run_id": "base"}
    starts = ["⚠ too few steps: the timed steps of dp2", "⚠ shared cores: the workers of dp2", "No speed-up of dp2"]
    for other, start in zip((few, shared, bare), starts, strict=True):
        assert [s for s in findings([SINGLE, other]) if s.startswith(start)]


def test_a_wrong_split_is_neither_the_fastest_nor_the_smallest() -> None:
    wrong = {**DATA, "split": "flat2", "step_time_s": 0.01, "peak_memory_bytes": 2**20, "parity_ok": False}
    sentences = findings([SINGLE, DATA, wrong])
    assert any(s.startswith("dp2 has a step time of 50.0 ms") for s in sentences)
    assert not any("flat2 has" in s or "flat2 needs" in s for s in findings([SINGLE, wrong]))
