"""Which device a run takes, and what it says where it leaves GPUs unused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from workbench.analysis.outlook import Outlook
from workbench.cli import run as cli_run
from workbench.errors import SplitError
from workbench.launch.environment import baseline_key
from workbench.notebook.split_picker import _plan_html
from workbench.plan import plan as plan_module
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec import RunSpec

NOTICE = '2 GPUs found, but workers run on the CPU unless launch.device = "cuda"; the GPU path has not been tested on hardware'


@pytest.fixture(autouse=True)
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "num_gpus", lambda: 2)


def planned(device: str, size: int = 2) -> Plan:
    return plan(RunSpec(model={"name": "mlp"}, split={"data": size}, launch={"device": device}))


def test_workers_run_on_the_cpu_unless_gpus_are_asked_for() -> None:
    assert [planned(device).device for device in ("auto", "cpu", "cuda")] == ["cpu", "cpu", "cuda"]
    assert [planned(device).device_notice for device in ("auto", "cpu", "cuda")] == [NOTICE, None, None]
    with pytest.raises(SplitError, match="requires one GPU per worker, but there are 2 GPUs for 4 workers"):
        _ = planned("cuda", 4).device


def test_a_machine_without_gpus_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "num_gpus", lambda: 0)
    assert planned("auto").device_notice is None


def test_a_baseline_on_another_device_is_another() -> None:
    keys = {device: baseline_key(planned(device).spec) for device in ("cpu", "cuda")}
    assert keys["cpu"] != keys["cuda"]


def test_the_command_and_the_widget_say_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_run, "_run_all", lambda specs, **_: ([], []))
    result = CliRunner().invoke(cli_run.run_command, ["--model", "mlp", "--split", "data=2", "--json"])
    assert result.stderr == f"{NOTICE}\n"
    json.loads(result.stdout)
    assert NOTICE.replace('"', "&quot;") in _plan_html(Outlook.of(planned("auto")))


@pytest.mark.parametrize(
    ("child", "sizes"),
    [("echo 85 80", (85, 80)), ("echo; echo 'Traceback' >&2; echo 'RuntimeError: CUDA driver is broken' >&2; exit 1", ())],
)
def test_a_driver_that_fails_leaves_no_gpus_and_is_asked_once(
    child: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/calls\n{child}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(plan_module, "_DRIVER_FILES", (str(python),))
    plan_module.gpu_memory_bytes.cache_clear()
    try:
        assert [plan_module.gpu_memory_bytes() for _ in range(2)] == [sizes] * 2
    finally:
        plan_module.gpu_memory_bytes.cache_clear()
    assert (tmp_path / "calls").read_text() == "asked\n"
    warned = [] if sizes else ["the GPUs of this machine cannot be used: RuntimeError: CUDA driver is broken"]
    assert [str(warning.message) for warning in recwarn] == warned
