"""A user's model is built in a process of its own, whatever the user's code does there."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.helpers.command import workbench
from tests.helpers.process import wait_until
from workbench.api.inspection import ModelReport, shape_text
from workbench.data.base import DatasetSummary
from workbench.errors import SpecError
from workbench.models.user import UserModelOptions
from workbench.models.user.inspection import Found, inspect
from workbench.plan.model_summary import BlockSummary, ModelSummary
from workbench.registry import DATASETS
from workbench.sources import inspection
from workbench.spec.run_spec import RunSpec

Asked = dict[str, Future[inspection.Inspection[Found]]]

DATA: DatasetSummary = DATASETS.get("digits")(RunSpec(model="mlp").dataset).summary()
HEAD = "from torch import nn\n"
FILES = {
    "odd.py": "import os, threading\nimport parts\nprint('imported')\n\ndef build(width: int = 8):\n    os.chdir('/')\n"
    "    threading.Thread(target=threading.Event().wait).start()\n    print('built')\n    return parts.net(width)\n",
    "parts.py": HEAD + "\ndef net(width):\n    return nn.Sequential(\n"
    "        nn.Linear(64, width), nn.BatchNorm1d(width), nn.Linear(width, 10))\n",
    "reads.py": "\ndef build():\n    input('width? ')\n",
    "sleeps.py": "import subprocess, sys, time\n\ndef build():\n    subprocess.Popen(['sleep', '9876'])\n    time.sleep(9999)\n",
    "leaves.py": "import os\n\ndef build():\n    print('farewell')\n    os._exit(7)\n",
    "runs.py": "import workbench as wb\n\ndef build(): ...\n\nwb.run(wb.RunSpec(model='mlp'))\n",
    "gpu.py": HEAD + "\ndef build():\n    return nn.Linear(64, 10).cuda()\n",
    "number.py": "def build():\n    return 3\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Each file with its answer, all asked at the same time."""
    folder = tmp_path_factory.mktemp("nets")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {
            name: pool.submit(inspect, options(folder, name), DATA, 2 if name == "sleeps.py" else 60)
            for name in FILES
            if name != "parts.py"
        }


def options(folder: Path, name: str) -> UserModelOptions:
    return UserModelOptions(name=f"{name}:build", folder=str(folder))


def test_a_model_that_prints_changes_the_directory_and_starts_a_thread_is_inspected(
    asked: Asked,
) -> None:
    found, here = asked["odd.py"].result(), Path.cwd()
    assert here == Path.cwd()
    assert set(found.code.files) == {"odd.py", "parts.py"}
    assert found.output.split() == ["imported", "built", "built"]  # on the meta device, and on the CPU
    assert found.found is not None
    summary = found.found.summary
    assert (summary.name, summary.num_parameters) == ("odd.py:build", 64 * 8 + 8 + 2 * 8 + 8 * 10 + 10)
    assert [norm.num_features for norm in summary.batch_norms] == [8]


def test_the_answer_is_kept_while_the_code_is_the_same(asked: Asked) -> None:
    found = asked["odd.py"].result()
    folder = Path(found.code.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "ask", None)
        assert inspect(options(folder, "odd.py"), DATA) is found
        for name in ("number.py", "sleeps.py"):
            with pytest.raises(SpecError, match=name):
                inspect(options(folder, name), DATA)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "reads.py",
            "building reads.py:build failed in reads.py, line 3: it reads standard input, which is empty while a model is",
        ),
        ("sleeps.py", "building sleeps.py:build took more than 2 s; it was ended in sleeps.py, line 5"),
        ("leaves.py", "building leaves.py:build failed: its process exited with code 7 (farewell)"),
        (
            "runs.py",
            "importing runs.py failed in runs.py, line 5: UsageError: starts a run while it is imported; put this below if",
        ),
        ("gpu.py", "building gpu.py:build failed in gpu.py, line 4: it asks for a GPU ("),
        ("number.py", "number.py:build must return an nn.Module, but returned int"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(asked: Asked, name: str, sentence: str) -> None:
    with pytest.raises(SpecError) as refused:
        asked[name].result()
    assert str(refused.value).startswith(f"model.name: {sentence}")


def test_no_process_is_left(asked: Asked) -> None:
    asked["sleeps.py"].exception()

    def is_gone() -> bool:
        return not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "9876"]]

    wait_until(is_gone)


def test_the_command_shows_blocks_and_which_strategies_can_split_them(asked: Asked, tmp_path: Path) -> None:
    folder = asked["odd.py"].result().code.folder
    arguments = ["inspect", f"{folder}/odd.py:build", "--dataset", "digits"]
    result = workbench(tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    assert "odd.py:build on digits: 3 blocks, 626 parameters" in " ".join(result.stdout.split())
    assert "data accepted" in " ".join(result.stdout.split())
    assert "printed: imported built" in " ".join(result.stdout.split())
    document = json.loads(workbench(tmp_path, *arguments, "--json").stdout)
    assert [block["num_parameters"] for block in document["blocks"]] == [520, 16, 90]
    assert [block["crossing"] for block in document["blocks"]] == [[[8]], [[8]], None]
    assert document["num_parameters"] == 626
    assert document["refusals"]["data"] is None
    assert "experts" in document["refusals"]["expert"]
    refused = workbench(tmp_path, *arguments, "--set", "model.options.width=abc")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "workbench: model.options.width: must be an integer, but got 'abc'\n"


def test_a_block_after_which_the_model_cannot_be_cut_has_no_shapes() -> None:
    blocks = (BlockSummary("inner", (), (), 0, crossing=()), BlockSummary("head", (), (10,), 0))
    report = ModelReport(ModelSummary("mine", blocks), "digits", 2, {}, {})
    assert (report.output_shapes, report.crossings) == ([None, [10]], [None, None])
    assert [shape_text(shape) for shape in report.output_shapes] == ["–", "10"]
