"""The workbench: find out how to split a neural network over several workers, by running it.

``import workbench as wb; run = wb.run(wb.RunSpec(split={"data": 2})); run.summary``
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench import notebook as widgets
    from workbench.api import (
        Run,
        all_splits,
        calibrate,
        calibration,
        compare,
        compare_splits,
        measure_again,
        open_run,
        run,
        runs,
        submit,
    )
    from workbench.data.user.from_callable import UserData
    from workbench.models.user.from_callable import UserModel
    from workbench.optimizers.from_callable import UserOptimizer
    from workbench.spec import RunSpec, Split

__all__ = [
    "Run",
    "RunSpec",
    "Split",
    "UserData",
    "UserModel",
    "UserOptimizer",
    "all_splits",
    "calibrate",
    "calibration",
    "compare",
    "compare_splits",
    "measure_again",
    "open_run",
    "run",
    "runs",
    "submit",
    "widgets",
]

_HOME = {
    "RunSpec": "workbench.spec",
    "Split": "workbench.spec",
    "UserData": "workbench.data.user.from_callable",
    "UserModel": "workbench.models.user.from_callable",
    "UserOptimizer": "workbench.optimizers.from_callable",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    if name == "widgets":
        return importlib.import_module("workbench.notebook")
    return getattr(importlib.import_module(_HOME.get(name, "workbench.api")), name)
