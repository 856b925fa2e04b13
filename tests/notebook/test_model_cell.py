"""Models that a notebook's cell defines: live code, which the workers of a run get a copy of."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

import workbench as wb
from notebooks import execute
from workbench.errors import SpecError, UsageError
from workbench.notebook.model_cell import define

OWN = """
from torch import nn

def first(width):
    return nn.Linear(64, width)

class Own(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.Sequential(first(width), nn.Tanh(), nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x)
"""
TRAIN = {"num_steps": 3, "num_warmup_steps": 0}


@pytest.fixture
def shell() -> Iterator[Any]:
    """An IPython shell of its own, whose namespace is that of ``__main__``."""
    main = sys.modules["__main__"]
    yield InteractiveShell()
    sys.modules["__main__"] = main


def test_a_cell_defines_a_model_by_its_last_class_or_function(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    define("net width=12", OWN, shell)
    net = shell.user_ns["net"]
    assert (net.name, net.options) == ("live:Own", {"width": 12})
    assert net.source.load()(width=12).layers[0].out_features == 12
    assert capsys.readouterr().out.startswith("net is the model live:Own: RunSpec(model=net, dataset=…)")
    define("net", f"{OWN}\ndef build(depth=1):\n    return Own(depth)\n", shell)
    assert shell.user_ns["net"].name == "live:build"


@pytest.mark.parametrize(
    ("line", "cell", "sentence"),
    [
        ("", OWN, "takes a name and arguments, such as net width=64, but got ''"),
        ("two words", OWN, "takes a name and arguments"),
        ("net width=", OWN, "takes a name and arguments"),
        ("net", "x = 1", "the cell defines no class and no function"),
        ("Own", OWN, "the cell defines 'Own' itself; choose another name"),
    ],
)
def test_a_cell_that_defines_no_model_is_refused(shell: Any, line: str, cell: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        define(line, cell, shell)
    assert "Own" not in shell.user_ns


def test_an_error_of_the_code_is_raised_as_it_is(shell: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        define("net", "def build(): ...\n1 / 0", shell)
    assert "net" not in shell.user_ns


def test_the_splits_of_a_model_that_is_refused_are_no_empty_list(shell: Any) -> None:
    define("net", OWN.replace("nn.Linear(64, width)", "nn.Linear(3, width)"), shell)
    with pytest.raises(SpecError, match="the forward pass of live:Own over two samples of features failed"):
        wb.all_splits(wb.RunSpec(model=shell.user_ns["net"], dataset="digits"), 2)


@pytest.mark.slow
def test_a_kernel_compares_the_splits_of_what_its_cells_define(tmp_path: Path) -> None:
    cells = [
        "import torch\nimport workbench as wb\nfrom workbench import widgets",
        OWN,
        f"module = Own()\nbatch = torch.randn(16, 64), torch.randint(10, (16,))\nsplits = [{{'data': 2}}, {{'layer': 2}}]\n"
        f"wb.compare_splits(module, batch, splits=splits, train={TRAIN})",
        f"%%workbench_model net width=4\n{OWN}".replace("\n\n", "\n"),
        f"run = wb.run(wb.RunSpec(model=net, dataset='digits', train={TRAIN}, split={{'data': 2}}))\nrun.row()['parity_verdict']",
        "wrong = torch.randn(8, 5), batch[1][:8]",
        "try:\n    wb.compare_splits(Own(), wrong)\nexcept Exception as error:\n    print(error)",
    ]
    notebook = execute.execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]))
    of_cells = [cell.outputs for cell in notebook.cells]
    shown, returned = of_cells[2]
    assert shown["data"]["text/html"].startswith("<p>4 runs in"), "the table that grew has gone: the result shows it"
    assert "dp2" in returned["data"]["text/html"]
    assert "layer2" in returned["data"]["text/html"]
    assert of_cells[3][0]["text"].startswith("net is the model live:Own")
    assert of_cells[4][-1]["data"]["text/plain"] == "'equal'"
    assert "failed in a cell, line 9: RuntimeError" in of_cells[6][-1]["text"]
