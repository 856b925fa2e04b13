"""The trust state of measured times, and speed-ups over disturbed baselines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.comparison import record_run
from workbench.store import runs_table
from workbench.store.directory import RunDirectory
from workbench.store.trust import Trust, trust_of, trust_of_times

QUIET = {"other_load_cores": 0.1, "num_timed_steps": 20}
BUSY = {**QUIET, "other_load_cores": 1.3}


@pytest.mark.parametrize(
    ("figures", "num_workers", "state"),
    [
        (QUIET, 1, Trust.QUIET),
        (BUSY, 1, Trust.DISTURBED),
        ({**BUSY, "num_timed_steps": 2}, 1, Trust.DISTURBED),
        ({**QUIET, "num_timed_steps": 5}, 1, Trust.TOO_FEW_STEPS),
        ({**QUIET, "other_load_cores": None}, 1, Trust.TOO_FEW_STEPS),
        ({"other_load_cores": None, "num_timed_steps": None}, 1, Trust.QUIET),
        (QUIET, 2, Trust.QUIET),
        (QUIET, 3, Trust.SHARED_CORES),
        ({**QUIET, "num_timed_steps": 5}, 3, Trust.TOO_FEW_STEPS),
    ],
)
def test_the_worst_state_applies(tmp_path: Path, figures: dict[str, float | None], num_workers: int, state: Trust) -> None:
    run = record_run(tmp_path, "run-1", "finished", num_workers, **figures)
    summary = run.summary()
    assert summary is not None
    assert trust_of_times(run.record(), summary) is state
    assert runs_table.row(run)["trust"] == state


def test_counted_figures_are_trusted_whatever_ran_meanwhile() -> None:
    assert trust_of("step_time_s", {"trust": "disturbed"}) is Trust.DISTURBED
    assert trust_of("peak_memory_bytes", {"trust": "disturbed"}) is Trust.QUIET
    assert trust_of("step_time_s", {"trust": None}) is Trust.QUIET, "not measured"


@pytest.mark.parametrize(
    ("figures", "times", "utilisation"),
    [
        (QUIET, "quiet", Trust.QUIET),
        ({**QUIET, "stale_calibration": "the calibration was 31 days old"}, "quiet", Trust.STALE_CALIBRATION),
        ({**BUSY, "stale_calibration": "the calibration was 31 days old"}, "disturbed", Trust.DISTURBED),
        ({**QUIET, "utilisation": None, "stale_calibration": ""}, "quiet", None),
    ],
)
def test_a_stale_calibration_puts_utilisation_alone_in_doubt(
    tmp_path: Path, figures: dict[str, float | None], times: str, utilisation: Trust | None
) -> None:
    row = runs_table.row(record_run(tmp_path, "run-1", "finished", 1, **figures))
    assert (row["trust"], row["utilisation_trust"]) == (times, utilisation)
    assert trust_of("utilisation", row) is (utilisation or Trust.QUIET)
    assert trust_of("flops_per_s", row) is Trust(times)


def test_a_speedup_over_a_disturbed_baseline_is_empty(tmp_path: Path) -> None:
    record_run(tmp_path, "base", "finished", 1, step_time_s=1.0, **BUSY)
    run = record_run(tmp_path, "split", "finished", 2, step_time_s=0.5, speedup=2.0, baseline="base", **QUIET)
    row = runs_table.row(run)
    assert (row["speedup"], row["efficiency"]) == (None, None)


def test_a_purged_baseline_leaves_the_recorded_speedup(tmp_path: Path) -> None:
    run = record_run(tmp_path, "split", "finished", 2, step_time_s=0.5, speedup=2.0, baseline="purged", **QUIET)
    assert runs_table.row(run)["speedup"] == 2.0


def test_efficiency_counts_the_threads_of_all_workers(tmp_path: Path) -> None:
    record_run(tmp_path, "base", "finished", 1, baseline="base", step_time_s=1.0, **QUIET)
    faster = {"baseline": "base", "step_time_s": 0.625, "speedup": 1.6, **QUIET}
    one_of_two_threads = record_run(tmp_path, "threads", "finished", 1, num_threads=2, **faster)
    two_of_two_threads = record_run(tmp_path, "both", "finished", 2, num_threads=2, **faster)
    two = record_run(tmp_path, "split", "finished", 2, **faster)
    assert runs_table.row(RunDirectory(tmp_path / "runs" / "base"))["efficiency"] == 1.0
    assert [runs_table.row(run)["efficiency"] for run in (one_of_two_threads, two_of_two_threads, two)] == [0.8, 0.4, 0.8]


def test_efficiency_over_a_purged_baseline_of_unknown_threads_is_empty(tmp_path: Path) -> None:
    figures = {"baseline": "purged", "step_time_s": 0.5, "speedup": 1.5, **QUIET}
    single = record_run(tmp_path, "single", "finished", 1, num_threads=2, **figures)
    split = record_run(tmp_path, "split", "finished", 2, num_threads=2, **figures)
    assert [runs_table.row(run)["efficiency"] for run in (single, split)] == [None, 0.75]
