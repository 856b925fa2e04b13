"""Why a pipeline is slower than the ideal of its schedule, in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.analysis.test_bubble import GPIPE, workers_of
from tests.helpers.comparison import record_run
from tests.helpers.recorded import pipeline_run
from workbench.analysis import ideal_step
from workbench.analysis.ideal_step import ideal_sentences

IDEAL = {"ideal step": 0.100, "ideal": 0.025, "order": 0.020, "imbalance": 0.005}


def sentences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **means: float) -> list[str]:
    parts = {**IDEAL, "measured": 0.0, **{name.replace("_", " "): value for name, value in means.items()}}
    monkeypatch.setattr(ideal_step, "mean_of", lambda pipelines: parts)
    return ideal_sentences(pipeline_run(tmp_path))


def test_the_causes_add_up_to_the_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = sentences(monkeypatch, tmp_path, measured_step=0.150, communication=0.015, rest=0.005)
    assert first == (
        "Trace steps take 150.0 ms on average, the ideal of their schedule, with the optimizer, 100.0 ms. The difference of"
        " 50.0 ms (50%) consists of 30.0 ms in which"
        " communication blocks the workers, 15.0 ms of waits that this communication causes and 5.0 ms of waits for actions that"
        " took longer than on average, or for another program."
    )
    assert second == (
        "In the ideal, too, workers wait 25% of the time: 20% through the order of the schedule and 5% since the stages are"
        " unequal."
    )


def test_what_the_replay_expected_and_the_run_did_not_wait_is_subtracted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, _ = sentences(monkeypatch, tmp_path, measured_step=0.120, communication=0.030, rest=-0.020)
    assert first == (
        "Trace steps take 120.0 ms on average, the ideal of their schedule, with the optimizer, 100.0 ms. The difference of"
        " 20.0 ms (20%) consists of 10.0 ms in which"
        " communication blocks the workers and 30.0 ms of waits that this communication causes, less 20.0 ms that workers waited"
        " less than in a replay with the mean time of each action."
    )
    first, _ = sentences(monkeypatch, tmp_path / "second", measured_step=0.120, communication=-0.010, rest=-0.020)
    assert first.endswith(
        "consists of 50.0 ms in which communication blocks the workers, less 10.0 ms in which communication blocks workers that"
        " would wait anyway and 20.0 ms that workers waited less than in a replay with the mean time of each action."
    )


@pytest.mark.parametrize(("measured_ms", "longer"), [(100.5, "hardly longer"), (99.5, "no longer")])
def test_a_step_near_its_ideal_is_said_to_be_longer_only_if_it_is(
    measured_ms: float, longer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, _ = sentences(monkeypatch, tmp_path, measured_step=measured_ms / 1e3, communication=0.020, rest=-0.020)
    assert f", {longer} than the ideal of their schedule, with the optimizer, 100.0 ms." in first


def test_a_step_at_its_ideal_has_no_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, _ = sentences(monkeypatch, tmp_path, measured_step=0.100, communication=0.0, rest=0.0)
    assert first == (
        "Trace steps take 100.0 ms on average, no longer than the ideal of their schedule, with the optimizer, 100.0 ms."
    )


def test_communication_that_blocks_one_stage_makes_the_other_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = workers_of(GPIPE, [1.0, 1.0])
    slow = replace(second, blocked={second.actions[0]: 7.0}, idle=3.0, step=22.0)
    monkeypatch.setattr(ideal_step, "pipelines", lambda run: {(0, 1): [replace(first, idle=10.0, step=22.0), slow]})
    sentence, _ = ideal_sentences(pipeline_run(tmp_path))
    assert sentence == (
        "Trace steps take 22.00 s on average, the ideal of their schedule, with the optimizer, 15.00 s. The difference of"
        " 7.00 s (47%) consists of 3.50 s in which"
        " communication blocks the workers and 3.50 s of waits that this communication causes."
    )


def test_one_worker_has_no_ideal(tmp_path: Path) -> None:
    assert ideal_sentences(record_run(tmp_path, "20261124-100001-single-aaaaaa", "finished", 1)) == []
