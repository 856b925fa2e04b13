"""A worker of a large model builds it within the memory of its own part, with the same values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from workbench.models.mapped_modules import MappedTensors, copy_to_memory

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(64, 1000)
        self.layers = nn.ModuleList(nn.Linear(1000, 1000) for _ in range(10))
        self.head = nn.Linear(1000, 10)
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)
"""
IN_LITTLE_MEMORY = """
import re
import resource
import sys
from pathlib import Path

import torch

import workbench as wb
from workbench.errors import SpecError
from workbench.models.mapped_modules import copy_to_memory
from workbench.models.user import inspect_modules
from workbench.plan.resolve import plan
from workbench.runtime.build import build_blocks

inspect_modules._MOST_PARAMETERS = 1_000_000
planned = plan(wb.RunSpec(model=sys.argv[1], dataset="digits", split={"layer": 2}))
names = [[block.name for block in planned.local_model(rank).blocks] for rank in (0, 1)]
whole = build_blocks(planned, names[0] + names[1], torch.float32).state_dict()
sums = {name: float(values.sum()) for name, values in whole.items()}
del whole
in_use = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (in_use + (32 << 20), resource.RLIM_INFINITY))  # 40 MB in all, 20 MB each
stage = build_blocks(planned, names[1], torch.float32)
copy_to_memory(stage)
assert {name: float(values.sum()) for name, values in stage.state_dict().items()}.items() <= sums.items()
try:
    planned.model.build()
except SpecError as error:
    assert "allocate" in str(error), error
else:
    raise AssertionError("the limit allows the whole model")
"""


def test_a_stage_is_built_in_less_memory_than_the_model(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    result = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, f"{tmp_path}/net.py:Net"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


def test_large_tensors_are_in_files_until_they_are_copied() -> None:
    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(1024, 512), torch.nn.Linear(512, 4))
        module.register_buffer("table", torch.arange(1 << 18).float())
        return module

    with MappedTensors():
        module = build()
    filenames = {name: tensor.untyped_storage().filename for name, tensor in module.state_dict().items()}
    assert [name for name, file in filenames.items() if file] == ["table", "0.weight"]
    assert not any(Path(file).exists() for file in filenames.values() if file)  # gone with the tensor
    copy_to_memory(module)
    assert not any(tensor.untyped_storage().filename for tensor in module.state_dict().values())
    assert all(torch.equal(values, module.state_dict()[name]) for name, values in build().state_dict().items())
