"""Trace steps of runs, read once per state of the run: after its end nothing changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import streamlit as st

from workbench.analysis import trace
from workbench.analysis.step_lanes import StepLanes, step_lanes
from workbench.api.store import Run
from workbench.charts.timeline_view import packed


@dataclass(frozen=True)
class TraceSteps:
    """The trace steps of a run."""

    spans_s: dict[int, float]
    """As of ``trace.spans_s``."""

    typical: int
    """As of ``trace.typical_step``."""


def steps_of(run: Run) -> TraceSteps | None:
    """Returns the trace steps of a run; None if it has none."""
    return _steps_of(run, run.path, run.state)


def timeline_of(run: Run, step: int) -> pa.Table:
    """Returns ``trace.timeline_of``."""
    return _timeline_of(run, run.path, run.state, step)


def communication_of(run: Run, step: int) -> pa.Table:
    """Returns ``trace.communication_of``."""
    return _communication_of(run, run.path, run.state, step)


def lanes_of(run: Run, step: int, ranks: tuple[int, ...]) -> tuple[StepLanes, bytes]:
    """Returns the lanes of these workers (all, if empty), and the same packed for the browser."""
    return _lanes_of(run, run.path, run.state, step, ranks)


@st.cache_resource(max_entries=64, show_spinner=False)
def _steps_of(_run: Run, path: Path, state: str) -> TraceSteps | None:
    spans_s = trace.spans_s(_run)
    return TraceSteps(spans_s, trace.typical_step(_run)) if spans_s else None


@st.cache_resource(max_entries=2, show_spinner=False)
def _timeline_of(_run: Run, path: Path, state: str, step: int) -> pa.Table:
    return trace.timeline_of(_run, step)


@st.cache_resource(max_entries=2, show_spinner=False)
def _communication_of(_run: Run, path: Path, state: str, step: int) -> pa.Table:
    return trace.communication_of(_run, step)


@st.cache_resource(max_entries=2, show_spinner=False)
def _lanes_of(_run: Run, path: Path, state: str, step: int, ranks: tuple[int, ...]) -> tuple[StepLanes, bytes]:
    lanes = step_lanes(_run, step, timeline_of(_run, step), communication_of(_run, step), ranks)
    return lanes, packed(lanes)
