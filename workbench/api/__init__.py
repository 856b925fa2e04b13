"""The public Python API: submit, watch and compare runs. Works in a script, a notebook and a Streamlit page.

The modules hold by concept what the three views need of the packages below; a view imports nothing else of these packages. A
name is imported when it is first asked for, so that listing runs loads no more than it takes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.api.execution import compare, run
    from workbench.api.hardware import calibrate, calibration
    from workbench.api.plans import all_splits
    from workbench.api.remeasurement import measure_again
    from workbench.api.split_comparison import compare_splits
    from workbench.api.store import open_run, runs
    from workbench.api.stored_run import Run
    from workbench.api.submission import submit

__all__ = [
    "Run",
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
]

_MODULES = {
    "Run": "stored_run",
    "all_splits": "plans",
    "calibrate": "hardware",
    "calibration": "hardware",
    "compare": "execution",
    "compare_splits": "split_comparison",
    "measure_again": "remeasurement",
    "open_run": "store",
    "run": "execution",
    "runs": "store",
    "submit": "submission",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
