"""The best runs of a comparison."""

from __future__ import annotations

from tests.helpers.rows import row
from workbench.analysis.winners import best_rows, in_table_order, winners

MIB = 2**20
SINGLE = row("single", 1, run_id="a", step_time_s=0.1, peak_memory_bytes=80 * MIB, speedup=1.0, trust="quiet")
DATA = row(
    "dp2", 2, run_id="b", step_time_s=0.05, peak_memory_bytes=50 * MIB, communication_bytes_per_step=3 * MIB, speedup=2.0,
    trust="quiet",
)  # fmt: skip
PIPELINE = row(
    "pp2", 2, run_id="c", step_time_s=0.08, peak_memory_bytes=20 * MIB, communication_bytes_per_step=2 * MIB, speedup=1.25,
    trust="quiet",
)  # fmt: skip


def test_each_respect_has_one_winner_with_its_figure() -> None:
    best = winners([SINGLE, DATA, PIPELINE], {"b": "compute"}, work="")
    assert [(w.title, w.splits, w.figure, w.detail) for w in best] == [
        ("Fastest", "dp2", "50.0 ms", "2.00× one worker, limited by compute"),
        ("Smallest", "pp2", "20.00 MiB", "25% of one worker"),
        ("Least communication", "pp2", "2.00 MiB per step", ""),
    ]


def test_one_worker_can_win() -> None:
    slow, large = {**DATA, "step_time_s": 0.2}, {**PIPELINE, "peak_memory_bytes": 100 * MIB, "step_time_s": 0.3}
    best = winners([SINGLE, slow, large], {}, work="")
    assert [(w.title, w.splits) for w in best[:2]] == [("Fastest", "single"), ("Smallest", "dp2")]
    assert best[0].detail == ""


def test_disturbed_and_wrong_runs_do_not_win() -> None:
    disturbed, wrong = {**DATA, "trust": "disturbed"}, {**PIPELINE, "parity_ok": False, "parity_verdict": "wrong"}
    best = winners([SINGLE, disturbed, wrong], {}, work="")
    assert [(w.title, w.splits) for w in best] == [("Fastest", "single"), ("Smallest", "dp2"), ("Least communication", "dp2")]


def test_runs_of_different_work_and_one_run_have_no_winner() -> None:
    assert winners([SINGLE, DATA], {}, work="These runs do different work.") == []
    assert winners([DATA], {}, work="") == []


def test_the_table_begins_with_one_worker() -> None:
    assert [row["split"] for row in in_table_order([PIPELINE, DATA, SINGLE])] == ["single", "dp2", "pp2"]


def test_the_best_figures_are_of_runs_that_can_win() -> None:
    disturbed, wrong = {**DATA, "trust": "disturbed", "step_time_s": 0.01}, {**PIPELINE, "parity_verdict": "wrong", "run_id": "d"}
    best = best_rows([SINGLE, DATA, PIPELINE, disturbed, wrong], "")
    assert best == {"step_time_s": [1], "speedup": [1], "peak_memory_bytes": [2], "communication_bytes_per_step": [2]}
    assert best_rows([SINGLE, DATA], "These runs do different work.") == {}
    assert best_rows([SINGLE], "") == {}


def test_runs_with_the_same_figure_are_best_together() -> None:
    tied = {**PIPELINE, "run_id": "d", "split": "layer2"}
    assert winners([SINGLE, PIPELINE, tied], {}, work="")[1].splits == f"{PIPELINE['split']} and layer2"
    assert best_rows([SINGLE, PIPELINE, tied], "")["peak_memory_bytes"] == [1, 2]
