"""Models and data of the server's user on the page Configure: what is offered, what is found in it, what visitors cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tests.helpers.command import workbench
from tests.helpers.pages import marked_up, page, texts
from workbench.api.offered import Offered, offered
from workbench.dashboard import address
from workbench.errors import PluginWarning, SpecError, UsageError
from workbench.spec.paths import spec_of

MODEL = """
from torch import nn

def build(width: int = 16, depth: int = 2):
    block = lambda: nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, width))
    return nn.Sequential(nn.Linear(64, width), *(block() for _ in range(depth)), nn.Linear(width, 10))

def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets)
"""
BROKEN = "def build():\n    return nn.Linear(2, 2)\n"
TENSOR = {"split.tensor.size": "2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that what is found in its files is known to the next test."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(MODEL)
    (folder / "broken.py").write_text(BROKEN)
    (folder / "table.csv").write_text("a,b,y\n1,2,0\n3,4,1\n")
    return folder


@pytest.fixture(autouse=True)
def _server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    for name, value in Offered(("net.py:build", "broken.py:build"), ("table.csv",), ("net.py:loss",)).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    yield


def configure(**parameters: str) -> AppTest:
    return page("configure", **{"model.name": "net.py:build", "dataset.name": "digits"} | parameters)


def test_an_address_names_what_is_offered_and_nothing_else() -> None:
    paths, problems = address.read(
        {"model.name": "net.py:build", "model.options": "{width = 8}", "model.cut_at": '["0"]', "dataset.name": "digits"}
    )
    assert problems == []
    assert spec_of(paths).as_dict()["model"]["options"] == {"width": 8}
    assert address.read(address.write(paths)) == (paths, [])
    for name in ("other.py:build", "./net.py:build", "net.py:loss", "os:system", "hf:llama"):
        paths, (problem,) = address.read({"model.name": name, "dataset.name": "digits"})
        assert paths == {}
        assert f"{name} is not offered by this server" in problem
    assert "an object of a Python session" in address.read({"model.name": "live:Net", "dataset.name": "digits"})[1][0]
    assert address.read({"model.name": "mlp", "dataset.name": "table.csv"}) == (
        {"model.name": "mlp", "dataset.name": "table.csv"},
        [],
    )


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("model.folder", "/tmp", "unknown key 'model.folder'"),
        ("model.loss", "os:system", "unknown choice 'os:system'"),
        ("dataset.folder", "/tmp", "unknown key 'dataset.folder'"),
        ("train.optimizer", "os:system", "unknown choice 'os:system'"),
        ("train.optimizer_folder", "/tmp", "unknown key 'train.optimizer_folder'"),
    ],
)
def test_a_visitor_names_no_code(path: str, text: str, words: str) -> None:
    paths, (problem,) = address.read({"model.name": "net.py:build", "dataset.name": "digits", path: text})
    assert paths == {"model.name": "net.py:build", "dataset.name": "digits"}
    assert words in problem


def test_no_loss_is_offered_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"model.name": "net.py:build", "dataset.name": "digits", "model.loss": "net.py:loss"}
    assert address.read(named) == (named, [])
    monkeypatch.delenv("WORKBENCH_LOSSES")
    assert "unknown key 'model.loss'" in address.read(named)[1][0]


def test_what_a_run_recorded_is_offered_by_its_label(folder: Path) -> None:
    recorded = {"model.name": "net.py:build", "model.folder": "/elsewhere/code", "dataset.name": str(folder / "table.csv")}
    assert Offered((f"{folder}/net.py:build",), ("table.csv",)).named(recorded) == {
        **recorded,
        "model.name": f"{folder}/net.py:build",
        "dataset.name": "table.csv",
    }
    with pytest.raises(SpecError, match=r"net\.py:loss is not offered by this server; start it with workbench dashboard --loss"):
        Offered(("net.py:build",)).named({**recorded, "model.loss": "net.py:loss"})
    with pytest.raises(SpecError, match=r"train\.optimizer: net\.py:sgd is the user's own code"):
        Offered(("net.py:build",)).named({**recorded, "train.optimizer": "net.py:sgd"})


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (Offered(("nte.py:build",)), r"--model nte\.py:build: there is no file .*nte\.py; did you mean 'net\.py'"),
        (Offered(("net.py",)), r"--model net\.py: net\.py is a file; name a function or class in it, as net\.py:CALLABLE"),
        (Offered(datasets=("tables.csv",)), r"--dataset tables\.csv: there is no file or folder .*did you mean 'table\.csv'"),
        (Offered(losses=("loss",)), r"--loss loss: must be PATH\.py:CALLABLE or package\.module:CALLABLE, but got 'loss'"),
    ],
)
def test_a_wrong_name_is_refused_before_the_server_starts(names: Offered, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        names.environment()


def test_the_command_refuses_a_wrong_name(tmp_path: Path) -> None:
    result = workbench(tmp_path, "dashboard", "--model", "nte.py:build")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--model nte.py:build: there is no file" in result.stderr


def test_a_wrong_name_in_the_environment_is_skipped_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_MODELS", "net.py, net.py:build,mlp")
    with pytest.warns(PluginWarning, match=r"skipped 'net\.py' \(WORKBENCH_MODELS\): net\.py is a file"):
        assert offered().models == ("net.py:build",)


def test_arguments_are_fields_and_what_inspect_found_is_shown() -> None:
    test = configure(**TENSOR)
    assert [(field.label, field.value) for field in test.number_input if field.label in ("width", "depth")] == [
        ("width", 16),
        ("depth", 2),
    ]
    titles = [expander.label for expander in test.expander]
    assert {"Model arguments", "Structure: 4 blocks, 3,354 parameters", "Tensor plan: 6 modules cut"} <= set(titles)
    tables = {tuple(table.value.columns): table.value for table in test.dataframe}
    assert list(tables["block", "parameters", "output", "MFLOP", "crossing"]["crossing"]) == ["16", "16", "16", "–"]
    plan = tables["module", "cut by", "workers divide"]
    assert dict(zip(plan["module"], plan["cut by"], strict=True)) == {"0": "column", "*.0": "row", "*.2": "column", "3": "row"}
    assert "data: accepted" in texts(test)
    test.number_input(key="field model.options.depth").set_value(3).run()
    assert test.query_params["model.options"] == '{"depth" = 3}'
    titles = [expander.label for expander in test.expander]
    assert "Model arguments :blue-badge[1 changed]" in titles
    assert any("Structure: 5 blocks" in title for title in titles)


def test_edits_reach_the_spec_and_a_wrong_plan_is_refused_and_taken_back() -> None:
    edits = {"model.cut_at": '["0"]', "model.tensor_plan": '{"*.2" = "vocabulary"}'}
    test = configure(**edits, **{"split.layer.size": "2"})
    assert ":red-badge[invalid]" in marked_up(test), "also without tensor slicing in the split"
    test.button_group(key="field split").set_value(["tensor"]).run()
    assert next(button for button in test.button if button.label == "Run").disabled
    assert "model.tensor_plan" in texts(test)
    assert test.selectbox(key="field model.tensor_plan.*.2").value == "vocabulary"
    test.multiselect(key="field model.tensor_plan").set_value([]).run()
    model = spec_of(test.session_state["configured"]).as_dict()["model"]
    assert (list(model["cut_at"]), model.get("tensor_plan", {})) == (["0"], {})
    assert not next(button for button in test.button if button.label == "Run").disabled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"model.name": "broken.py:build"}, "building broken.py:build failed in broken.py, line 2: NameError"),
        ({"model.cut_at": '["0.5"]'}, "the model cannot be cut after '0.5'; it can be cut after 0, 1 or 2"),
    ],
)
def test_what_is_refused_is_answered_with_a_sentence(parameters: dict[str, str], sentence: str) -> None:
    test = configure(**parameters)
    assert sentence in texts(test)
    assert next(button for button in test.button if button.label == "Run").disabled
    cut_at = parameters.get("model.cut_at")
    assert not cut_at or test.multiselect(key="field model.cut_at").value == ["0.5"], "so that it can be removed"
