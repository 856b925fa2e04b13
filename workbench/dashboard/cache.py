"""The store that the pages show, cached for all sessions of this server and read again when it changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from workbench.api.queue import Queue
from workbench.api.store import Run, home
from workbench.dashboard.table import Overview


def runs_frame() -> pd.DataFrame:
    """Returns all runs, as ``Overview.frame``."""
    return overview().frame


def overview() -> Overview:
    """Returns the overview of all runs of the store, and of the deleted ones."""
    return _overview(home())


Changes = tuple[tuple[Path, int], ...]
"""Directories of runs, each with the time in ns at which one of its files was last created or replaced: the key of what is
computed of these runs."""


def changes(runs: Iterable[Run]) -> Changes:
    """Returns the changes of these runs."""
    return _changes(run.path for run in runs)


def changes_with_baselines(runs: Sequence[Run]) -> Changes:
    """Returns the changes of these runs and of their baselines, on which their speed-ups depend."""
    baselines = [run.path.parent / baseline for run in runs for baseline in run.record.baseline_ids]
    return _changes(dict.fromkeys([*(run.path for run in runs), *baselines]))


def _changes(paths: Iterable[Path]) -> Changes:
    return tuple((path, path.stat().st_mtime_ns if path.exists() else 0) for path in paths)


def queue() -> Queue:
    """Returns the queue: the runs that have not ended."""
    return _queue(home())


@st.cache_resource(max_entries=4, show_spinner=False)
def _overview(store: Path) -> Overview:
    return Overview(store)


@st.cache_resource(max_entries=4, show_spinner=False)
def _queue(store: Path) -> Queue:
    return Queue(store)
