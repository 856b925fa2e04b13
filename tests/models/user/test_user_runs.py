"""Runs of a user's model: from a copy of its code, which runs again and is told from other code."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

import workbench as wb
from tests.helpers.command import workbench
from tests.helpers.pages import page
from workbench.analysis.lanes import blocks_of_stages
from workbench.analysis.work import different_work
from workbench.api.stored_run import Run
from workbench.errors import SpecError
from workbench.launch import start as launcher
from workbench.launch.environment import baseline_key
from workbench.plan.resolve import plan
from workbench.sources import inspection
from workbench.spec.files import load
from workbench.store.archive import import_runs, pack
from workbench.store.directory import RunDirectory

NET = """from torch import nn
from parts import hidden

def build(width: int = 16):
    return nn.Sequential(hidden(width), nn.Linear(width, 10))
"""
PARTS = "from torch import nn\n\ndef hidden(width):\n    return nn.Sequential(nn.Linear(64, width), nn.{activation}())\n"
QUICK = {"num_steps": 3, "num_warmup_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("user")
    (made / "net.py").write_text(NET)
    (made / "parts.py").write_text(PARTS.format(activation="ReLU"))
    return made


@pytest.fixture(scope="module", autouse=True)
def _store(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(folder / "store"))
        yield


def spec(folder: Path, split: dict[str, object], **options: object) -> wb.RunSpec:
    model = {"name": f"{folder}/net.py:build", "options": {"width": 12}}
    return wb.RunSpec(model=model, dataset="digits", split=split, train=QUICK, baseline={"mode": "none"}, **options)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return wb.run(spec(folder, {"data": 2}))


def test_a_run_keeps_its_code_and_equals_one_worker(run: Run, folder: Path) -> None:
    row = run.row()
    assert (row["model"], row["parity_verdict"]) == ("net.py:build", "equal")
    code = run.directory.code()
    assert code is not None
    assert set(code.files) == {"net.py", "parts.py"}
    for name in code.files:
        assert (run.path / "code" / name).read_bytes() == (folder / name).read_bytes()
    assert 'folder = "code"' in run.spec_text
    shown = workbench(folder / "store", "show", run.id)
    assert "code of the model: net.py, parts.py  SHA-256" in shown.stdout


def test_sharded_replicas_equal_one_worker_too(folder: Path) -> None:
    assert wb.run(spec(folder, {"fsdp": 2})).row()["parity_verdict"] == "equal"


def test_the_run_is_shown_and_runs_again_without_the_files(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = shutil.move(folder / "net.py", folder / "net.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inspection, "ask", None)  # what the run recorded is enough: no code is executed for a plan
    try:
        again = wb.run(load(run.directory.spec_path))
        assert again.directory.code() == run.directory.code()
        assert again.row()["final_loss"] == run.row()["final_loss"]
        assert different_work([run, again]) == ""
        assert blocks_of_stages(run) == {}
        assert workbench(folder / "store", "show", run.id).returncode == 0
        assert workbench(folder / "store", "compare", run.id, again.id).returncode == 0
        for name, chosen in {
            "run": {"run": run.id},
            "trace": {"run": run.id},
            "compare": {"runs": f"{run.id},{again.id}"},
        }.items():
            drawn = page(name, **chosen)
            assert not drawn.error
            assert drawn.title
    finally:
        shutil.move(away, folder / "net.py")


def test_code_that_was_changed_in_the_store_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / run.id)
    parts = copy / "code" / "parts.py"
    parts.write_text(PARTS.format(activation="Tanh"))
    result = workbench(folder / "store", "run", str(copy / "spec.toml"))
    assert result.returncode == 2
    assert "model.name: the recorded code of net.py:build has changed: parts.py in" in result.stderr
    parts.write_text(PARTS.format(activation="ReLU"))
    (copy / "code" / "torch.py").write_text("raise SystemExit")
    assert "has changed: torch.py in" in workbench(folder / "store", "run", str(copy / "spec.toml")).stderr
    (copy / "code" / "hashes.json").write_text("[]")
    result = workbench(folder / "store", "run", str(copy / "spec.toml"))
    assert result.returncode == 2
    assert "hashes.json is damaged" in result.stderr


def test_another_code_is_another_work(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "start", lambda run, use_server, ticket: None)
    for name in ("net.py", "parts.py"):
        (tmp_path / name).write_text((folder / name).read_text())
    same = wb.submit(spec(tmp_path, {}))
    (tmp_path / "parts.py").write_text(PARTS.format(activation="Tanh"))
    other = wb.submit(spec(tmp_path, {}))
    assert different_work([run, same]) == ""
    assert "do different work (code of the model)" in different_work([run, other])
    keys = [baseline_key(each.spec.replace(split={})) for each in (run, same, other)]
    assert keys[0] == keys[1] != keys[2]
    recorded = run.spec.files
    with pytest.raises(SpecError, match=r"model\.name: the code of net\.py:build has changed since this spec was recorded"):
        wb.submit(spec(tmp_path, {}, files=recorded))


def test_a_class_of_an_installed_package_runs_by_its_version(folder: Path) -> None:
    model = {"name": "torch.nn:Linear", "options": {"in_features": 64, "out_features": 10}}
    run = wb.run(spec(folder, {"data": 2}).replace(model=model))
    assert (run.row()["model"], run.row()["parity_verdict"]) == ("torch.nn:Linear", "equal")
    code = run.directory.code()
    assert code is not None
    assert (code.distribution, code.version, code.files) == ("torch", version("torch"), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "ask", None)
        assert plan(run.spec).full_model.num_parameters == 650


@pytest.mark.parametrize("name", ["os:mkdir", "../mkdir.py:build", "{path}.py:build"])
def test_a_run_of_someone_else_names_no_code_to_execute(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / "made"
    (tmp_path / "made.py").write_text(f"import os\n\nos.mkdir({str(path)!r})\n")
    shutil.copy(tmp_path / "made.py", tmp_path / "mkdir.py")
    copy = RunDirectory(tmp_path / run.id)
    copy.path.mkdir()
    text = run.spec_text.replace('"net.py:build"', f'"{name.format(path=path)}"').replace("width = 12", f'path = "{path}"')
    copy.spec_path.write_text(text.replace('folder = "code"', ""))
    with pytest.raises(SpecError, match=r"model\.name: (the code of os:mkdir is not recorded in|must be a path in)"):
        plan(copy.spec())
    assert not path.exists()


def test_code_does_not_travel_in_an_archive(run: Run, tmp_path: Path) -> None:
    archive = tmp_path / "runs.zip"
    archive.write_bytes(pack([run.directory]))
    ((imported,), _) = import_runs(tmp_path / "other", archive)
    assert not (imported.path / "code").exists()
    with pytest.raises(SpecError, match=r"there is no file .*code/net\.py"):
        wb.submit(imported.spec())
    assert [path.name for path in (tmp_path / "other" / "runs").iterdir()] == [run.id]
