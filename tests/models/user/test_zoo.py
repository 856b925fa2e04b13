"""Eight models of the zoo (``benchmarks/model_zoo.py``), whose accepted splits equal one worker."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="requires the extra hf")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
model_zoo = import_module("model_zoo")  # a script, which imports its neighbours
pytestmark = pytest.mark.slow
STRATEGIES: dict[str, dict[str, Any]] = {
    name: model_zoo.STRATEGIES[name] for name in ("data=2", "fsdp=2", "pipeline=2", "tensor=2")
}
REFUSED = {"DataDependent": {"pipeline=2"}}
"""Model → strategies that refuse it: it is one block."""


@pytest.mark.parametrize("name", ["Seq2SeqGRU", "UNet", "Transformer", "DataDependent", "gpt2", "qwen3", "mixtral", "vit"])
def test_every_accepted_split_equals_one_worker(name: str, tmp_path: Path) -> None:
    rows = model_zoo.rows_of(model_zoo.entries(tmp_path)[name], STRATEGIES)
    assert {strategy for strategy, row in rows.items() if "refused" in row} == REFUSED.get(name, set())
    verdicts = {row["verdict"] for row in rows.values() if "refused" not in row}
    assert verdicts == ({"equal", "equal per shard"} if name == "UNet" else {"equal"}), rows
