"""What analysis and exports compute of the API's run is what they compute of its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.helpers.recorded import pipeline_run
from workbench.analysis import memory_limits, trace
from workbench.analysis.bubble import bubble, ideal_timeline
from workbench.analysis.limits import limit_of
from workbench.analysis.losses import losses
from workbench.analysis.memory import memory_at_peak, memory_over_time
from workbench.analysis.progress import Follower
from workbench.analysis.trace import overlap_of, timeline
from workbench.analysis.traffic_matrix import traffic_matrix_of
from workbench.api import Run
from workbench.export.chrome_trace import trace_events
from workbench.export.tables import export

OF_A_RUN: dict[str, Callable[[Any], Any]] = {
    "bubble": bubble,
    "ideal_timeline": ideal_timeline,
    "timeline": timeline,
    "losses": lambda run: losses([run], [{"split": "pp2", "parity_verdict": "equal", "parity_max_error": 0.0, "num_workers": 2}]),
    "limit": limit_of,
    "memory limits": lambda run: memory_limits.sentences([run]),
    "memory_at_peak": memory_at_peak,
    "memory_over_time": lambda run: memory_over_time(run, 0),
    "overlap": overlap_of,
    "trace steps": trace.steps,
    "traffic matrix": traffic_matrix_of,
    "progress": lambda run: Follower(run).read_new(),
    "trace": lambda run: list(trace_events([run])),
    "tables": lambda run: [path.read_bytes() for path in export([run], run.path.parent / "tables", "csv")],
}


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_run_serves_as_its_directory_does(name: str, tmp_path: Path) -> None:
    directory = pipeline_run(tmp_path)
    of_run, of_directory = OF_A_RUN[name](Run(directory)), OF_A_RUN[name](directory)
    if isinstance(of_run, pd.DataFrame):
        pd.testing.assert_frame_equal(of_run, of_directory)
    else:
        assert of_run == of_directory
