"""How long runs are expected to take, by the runs of the store."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from workbench.analysis.durations import Durations
from workbench.analysis.latest import finished_of
from workbench.api.specs import RunSpec
from workbench.api.store import Run, RunRecord, open_exact

_MOST_SIMILAR = 10
"""Ended runs that an expected duration is taken from."""


def expected_of_run(run: Run, record: RunRecord, newest_first: pd.DataFrame) -> float | None:
    """Returns how long a run takes in seconds, by the latest runs of its work, those of its split first; None if unknown.

    Args:
        newest_first: The columns of ``runs``.
    """
    alike = finished_of(newest_first, record.model, record.dataset, record.mode)
    return _durations().expected_s(run, map(open_exact, _latest(alike, record.split)))


def expected_of_specs(specs: Sequence[RunSpec], newest_first: pd.DataFrame) -> float | None:
    """Returns how long runs of these specs, which differ in their split only, take in total; None if unknown."""
    alike, durations = finished_of(newest_first, specs[0].model.name, specs[0].dataset.name, specs[0].mode), _durations()
    opened = functools.cache(open_exact)
    expected = [durations.expected_s(spec, map(opened, _latest(alike, spec.split.label))) for spec in specs]
    known = [seconds for seconds in expected if seconds is not None]
    return sum(known) if len(known) == len(specs) else None


def _durations() -> Durations:
    durations: Durations = st.session_state.setdefault("durations", Durations())
    return durations


def _latest(newest_first: pd.DataFrame, split: str) -> list[str]:
    """Returns the ids of the runs that an expected duration is taken from, those of the split first."""
    is_other = newest_first["split"] != split
    return list(newest_first.assign(is_other=is_other).sort_values("is_other", kind="stable")["run_id"].head(_MOST_SIMILAR))
