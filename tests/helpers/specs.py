"""Specs that run in a second."""

from __future__ import annotations

import workbench as wb

TINY = {"name": "mlp", "num_layers": 2, "hidden_dim": 16, "feedforward_dim": 32}
QUICK = {"num_steps": 3, "num_warmup_steps": 1}


def tiny(**split: object) -> wb.RunSpec:
    return wb.RunSpec(model=TINY, train=QUICK, split=split)
