"""The store that the pages show, cached for all sessions of this server and read again when it changes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from workbench.api.queue import Queue
from workbench.api.store import home
from workbench.dashboard.table import Overview


def runs_frame() -> pd.DataFrame:
    """Returns all runs, as ``Overview.frame``."""
    return overview().frame


def overview() -> Overview:
    """Returns the overview of all runs of the store, and of the deleted ones."""
    return _overview(home())


def queue() -> Queue:
    """Returns the queue: the runs that have not ended."""
    return _queue(home())


@st.cache_resource(max_entries=4, show_spinner=False)
def _overview(store: Path) -> Overview:
    return Overview(store)


@st.cache_resource(max_entries=4, show_spinner=False)
def _queue(store: Path) -> Queue:
    return Queue(store)
